"""Measuring a disk: what is asked of it, the loop that asks, and what comes out. `hwloop bench` is the command."""
