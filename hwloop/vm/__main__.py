"""`python -m hwloop.vm run ...`: the same as `hwloop vm run ...`."""

import sys

from hwloop.cli.main import entry

entry(["vm", *sys.argv[1:]])
