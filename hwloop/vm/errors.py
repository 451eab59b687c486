"""What can go wrong with the test VM. All are of the family of `hwloop.errors`, with an errno and an `exit_code`."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from hwloop.errors import DeadlineExpired, InvalidParam, SetupError


class BadOption(InvalidParam):
    """A `--disk`, `--qemu`, `--share` or machine that means nothing; exit 2."""


class MissingTool(SetupError):
    """A program or a Python package that the VM needs is not installed; the text has the command that installs it."""

    default_errno = errno.ENOENT


class MissingFile(SetupError):
    """A disk image, a shared directory or the checkout is not there."""

    default_errno = errno.ENOENT


class BuildFailed(SetupError):
    """A program that builds a part of the guest ended with an error; its last words are in the text."""

    default_errno = errno.EIO

    def __init__(self, what: str, program: str, status: int, output: str) -> None:
        words = last_lines(output, 15)
        super().__init__(f"{what}: {program} ended with status {status}", remedy=f"it said:\n{words}")


class GuestFailed(SetupError):
    """The guest, or QEMU, ended without a result of the command. `console` has the kernel's last lines."""

    default_errno = errno.EIO

    def __init__(self, problem: str, *, console: str = "", stdout: bytes = b"", stderr: bytes = b"") -> None:
        said = f"\nlast lines of the guest's console:\n{console}" if console else ""
        super().__init__(problem + said)
        self.console = console
        self.stdout = stdout
        self.stderr = stderr


class GuestTimeout(DeadlineExpired):
    """The command did not end in time, and the guest was ended. `stdout`, `stderr`: what was captured until then."""

    exit_code = 124

    def __init__(self, waited_for: str, seconds: float, *, console: str = "") -> None:
        super().__init__(waited_for, seconds, remedy="the guest was ended; a larger --timeout gives it longer")
        self.console = console
        self.stdout = b""
        self.stderr = b""


def last_lines(text: str, count: int) -> str:
    """The last `count` lines that are not empty."""
    lines: Sequence[str] = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:])
