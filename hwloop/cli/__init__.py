"""The `hwloop` command: one file a command, listed in `hwloop.cli.main`."""
