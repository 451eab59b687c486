"""What can go wrong in configuration space: whose, what, the value, and what to do about it."""

from __future__ import annotations

import errno


class PciError(OSError):
    """An operation on a PCI function failed, or a description of one is malformed.

    Attributes: `errno`, and the four parts of the text: `subject`, `problem`, `value` ("" when there is none; integers
    are shown in hexadecimal), `remedy` ("" when there is none).
    """

    default_errno = errno.EINVAL

    def __init__(
        self, subject: object, problem: str, value: int | str = "", remedy: str = "", *, code: int | None = None
    ) -> None:
        self.subject = str(subject)
        self.problem = problem
        self.value = value if isinstance(value, str) else f"{value:#x}"
        self.remedy = remedy
        super().__init__(self.default_errno if code is None else code, self._text())

    def _text(self) -> str:
        text = f"{self.subject}: {self.problem}"
        text += f" ({self.value})" if self.value else ""
        return f"{text}; {self.remedy}" if self.remedy else text

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[object, ...]:
        # OSError would rebuild from (errno, text); and the errno is an instance's own where the kernel refused.
        return _rebuild, (type(self), self.subject, self.problem, self.value, self.remedy, self.errno)


class InvalidBarType(PciError):
    """A base address register says that it is of a type that cannot be (EIO): PCI 3.0, 6.2.5.1."""

    default_errno = errno.EIO


class ConfigAccessError(PciError):
    """An access to configuration space was refused (EINVAL), or failed with the errno of the kernel.

    ENODEV: no function answers. EACCES: the process may not. EBADF: closed. EIO: the transfer was cut short.
    """


class CapabilityError(PciError):
    """A list of capabilities, or one capability, is broken (EIO): PCI 3.0, 6.7."""

    default_errno = errno.EIO


class BridgeError(PciError):
    """A bridge is not set up in a way that can work (EIO), or cannot be set up (ENOSPC: no bus number is left)."""

    default_errno = errno.EIO


class AllocationError(PciError):
    """A BAR or a bridge's window got no address (ENOSPC), or did not take it (EIO)."""

    default_errno = errno.ENOSPC


def _rebuild(kind: type[PciError], subject: str, problem: str, value: str, remedy: str, code: int) -> PciError:
    return kind(subject, problem, value, remedy, code=code)
