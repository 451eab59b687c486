"""What can go wrong, by whose fault, and what it means to a shell script.

Two families matter to a caller: `DriverError` (our caller's mistake; nothing was sent to the device) and `DeviceError`
(the device's; it names the section of the specification where there is one). Every error is an `OSError` with an
errno, and its text says the subject, what is wrong, the value, and what to do about it.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Self


class HwloopError(OSError):
    """Base of every error of ours.

    Attributes: `errno`; `problem`, the sentence without its remedy; `remedy`, what to do about it, or "";
    `exit_code`, what the command line exits with (docs/errors.md).
    """

    default_errno = errno.EIO
    exit_code = 6
    text = ""
    """What an error without a sentence of its own says: for those that the seeds name, the seeds' words."""

    def __init__(self, problem: str = "", *, errno: int | None = None, remedy: str = "") -> None:
        problem = problem or self.text or type(self).__name__
        code = self.default_errno if errno is None else errno
        text = f"{problem}; {remedy}" if remedy else problem
        super().__init__(code, text)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return self.strerror or ""

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError would call the constructor with (errno, text), which none of ours takes.
        return _rebuild, (type(self), self.args, vars(self))


class DriverError(HwloopError):
    """The caller's mistake, found before anything was sent to the device."""

    default_errno = errno.EINVAL
    exit_code = 2


class DeviceError(HwloopError):
    """The device did something that the specification forbids, or said that a request failed.

    `section` is the part of VIRTIO 1.4 that it goes against, or "".
    """

    exit_code = 4

    def __init__(self, problem: str = "", *, errno: int | None = None, remedy: str = "", section: str = "") -> None:
        problem = problem or self.text
        text = f"{problem} (VIRTIO 1.4, {section})" if section else problem
        super().__init__(text, errno=errno, remedy=remedy)
        self.section = section


_REMEDIES = {
    errno.EACCES: "run as root",
    errno.EPERM: "run as root",
    errno.ENOSPC: "make room in that file system",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
}


class SetupError(HwloopError):
    """The machine lacks something: a module, a permission, an IOMMU, memory that may be locked."""

    default_errno = errno.ENODEV

    @classmethod
    def refused(cls, what: str, error: OSError, *, remedy: str | None = None) -> Self:
        """The system refused `what` we did (`cannot open /dev/vfio/vfio`); it keeps the errno. `remedy` None: what
        helps against such an error wherever it comes from."""
        if remedy is None:
            remedy = _REMEDIES.get(error.errno or 0, "")
        return cls(f"{what}: {os.strerror(error.errno or 0)}", errno=error.errno, remedy=remedy)


class RefusedError(HwloopError):
    """Doing it would endanger data or another process, so nothing was done."""

    default_errno = errno.EBUSY
    exit_code = 3


class Mismatch(HwloopError):
    """What was read is not what it should be; `offset` is the first byte that differs, where that is known."""

    default_errno = errno.EILSEQ
    exit_code = 1

    def __init__(self, problem: str, *, offset: int | None = None, remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy)
        self.offset = offset


# --- The caller's -----------------------------------------------------------------------------------------------------


class InvalidParam(DriverError):
    """An argument out of its range or of the wrong shape."""

    text = "Invalid parameter"


class QueueFull(DriverError):
    """No descriptors are free; take completions, then try again."""

    default_errno = errno.EAGAIN

    text = "Virtqueue is full"

    def __init__(self, problem: str = "", *, remedy: str = "complete a request first") -> None:
        super().__init__(problem, remedy=remedy)


class NotReady(DriverError):
    """The request has not completed yet."""

    text = "Device not ready"
    default_errno = errno.EAGAIN


class WrongToken(DriverError):
    """The token does not name a request that is outstanding."""

    text = "Device used a different descriptor chain to the one we were expecting"


class AlreadyUsed(DriverError):
    """The queue, device or region has an owner already."""

    text = "Virtqueue is already in use"
    default_errno = errno.EBUSY
    exit_code = 3


class Unsupported(DriverError):
    """The device did not offer what this needs."""

    text = "Request not supported by device"
    default_errno = errno.EOPNOTSUPP


class ReadOnlyDisk(DriverError):
    """A request that changes data on a disk that offers VIRTIO_BLK_F_RO."""

    default_errno = errno.EROFS


class DeviceClosed(DriverError):
    """Used after close()."""

    default_errno = errno.EBADF


class ConfigSpaceMissing(DeviceError):
    """The device has no device-specific configuration space."""

    text = "The device doesn't have any config space, but the driver expects some"


class ConfigSpaceTooSmall(DeviceError):
    """The device-specific configuration space ends before the field."""

    text = "Config space advertised by the device is smaller than expected"


# --- The device's -----------------------------------------------------------------------------------------------------


class IoError(DeviceError):
    """The device completed a request and reported that it failed.

    `sector`, `queue`, `tag` and `status` say which request and how, where it went through a queue of its own.
    """

    text = "I/O error"
    sector: int | None = None
    queue: int | None = None
    tag: int | None = None
    status: int | None = None


class SocketDeviceError(DeviceError):
    """The socket device refused or ended a connection; `reason` says how (VIRTIO 1.4, 5.10)."""

    def __init__(self, reason: str, *, errno: int | None = None) -> None:
        super().__init__(f"Error from the socket device: {reason}", errno=errno, section="5.10")
        self.reason = reason


class TransportError(DeviceError):
    """The registers are not what a virtio device shows: wrong ids, a missing or broken capability."""

    default_errno = errno.ENODEV


class FeaturesRefused(DeviceError):
    """The device cleared FEATURES_OK, or lacks a feature that this driver cannot do without."""

    default_errno = errno.EOPNOTSUPP


class QueueBroken(DeviceError):
    """The device broke the rules of the ring, and nothing that comes out of it can be believed any more."""


class DeviceLost(DeviceError):
    """The device is gone, reset itself, or asks to be reset; requests in flight have failed."""

    default_errno = errno.ENODEV
    exit_code = 5


class DeviceChanged(DeviceError):
    """A device that came back is not the one that went: its features, its capacity or its block size differ."""

    default_errno = errno.ESTALE
    exit_code = 5


class DeadlineExpired(DeviceError):
    """A wait ended because its time was over; `waited_for` says what for, `seconds` how long."""

    default_errno = errno.ETIMEDOUT
    exit_code = 5

    def __init__(self, waited_for: str, seconds: float, *, remedy: str = "", section: str = "") -> None:
        super().__init__(f"timed out after {seconds:g} s waiting for {waited_for}", remedy=remedy, section=section)
        self.waited_for = waited_for
        self.seconds = seconds


# --- The machine's ----------------------------------------------------------------------------------------------------


class DmaError(SetupError):
    """Memory could not be allocated, pinned or mapped for the device."""

    text = "Failed to allocate DMA memory"
    default_errno = errno.ENOMEM


def _rebuild(kind: type[HwloopError], args: tuple[Any, ...], attributes: dict[str, Any]) -> HwloopError:
    error = kind.__new__(kind)
    OSError.__init__(error, *args)
    vars(error).update(attributes)
    return error


def exit_code_of(error: BaseException) -> int:
    """The exit status for an error: its own, 2 for a bad argument, 6 for any other failure of the system."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code
    return 2 if isinstance(error, ValueError) else 6
