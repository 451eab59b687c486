"""What QEMU refuses, in its own words."""

from __future__ import annotations

import errno

from hwloop.errors import SetupError


class QtestError(SetupError):
    """The qtest server refused `command`, or answered it with something else than an answer."""

    default_errno = errno.EPROTO

    def __init__(self, command: str, answer: str) -> None:
        super().__init__(f"QEMU's qtest server answered {answer!r} to {command!r}")
        self.command = command
        self.answer = answer


class QmpError(SetupError):
    """QEMU refused the QMP command `command`. `kind` is QMP's class of the error, such as `DeviceNotFound`."""

    def __init__(self, command: str, kind: str, description: str) -> None:
        super().__init__(f"QEMU refused {command}: {description}")
        self.command = command
        self.kind = kind
        self.description = description
