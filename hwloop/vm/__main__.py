"""`python -m hwloop.vm run ...`: the same as `hwloop vm run ...`."""

from __future__ import annotations

import sys

from hwloop.cli.vm import group
from hwloop.errors import exit_code_of


def main() -> None:
    try:
        group(prog_name="python -m hwloop.vm")
    except OSError as error:
        print(f"hwloop vm: {error}", file=sys.stderr)
        sys.exit(exit_code_of(error))


main()
