"""How exact a time can be on a machine that has something else to do."""

SLACK = 10.0
"""Seconds that a machine may keep a test from going on. What a test shows not to be waited for takes several times as
long, so that it is seen all the same."""
