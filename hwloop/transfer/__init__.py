"""Bytes between devices, files and pipes: copying, comparing, patterns."""
