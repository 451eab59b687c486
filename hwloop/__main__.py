"""`python -m hwloop` is the command `hwloop`."""

from hwloop.cli.main import entry

entry()
