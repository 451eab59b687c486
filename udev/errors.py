"""What can go wrong with devices and their drivers. Every type is an `OSError` with an errno."""

from __future__ import annotations

import errno


class UdevError(OSError):
    """An operation on a device or driver failed.

    The text is one sentence a person can act on: the subject, what is wrong, the value, what to do about it.
    `errno` is the kernel's where the kernel refused, and the type's own otherwise.
    """

    code = errno.EIO

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(self.code if code is None else code, message)

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[object, ...]:
        # OSError would rebuild from (errno, message), in that order: the constructor here takes the message first.
        return type(self), (str(self.strerror), self.errno)


class DeviceNotFound(UdevError):
    """No such device, attribute or group (ENODEV)."""

    code = errno.ENODEV


class BindError(UdevError):
    """The device did not end up with the driver that was asked for (EIO, or the errno of the kernel's refusal)."""


class BindTimeout(UdevError):
    """The deadline passed while something was still under way (ETIMEDOUT)."""

    code = errno.ETIMEDOUT


class ModuleMissing(UdevError):
    """A kernel module or its driver is not there (ENOENT)."""

    code = errno.ENOENT
