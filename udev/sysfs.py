"""Attributes and links of a sysfs tree, with typed errors; `/sys` itself or a fake tree in tests."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from udev import helper
from udev.errors import DeviceNotFound, UdevError

if TYPE_CHECKING:
    from collections.abc import Sequence

# A domain has four digits or more (VMD makes 10000), and the kernel writes all of them in lower case.
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+@!-]*")
_GONE = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR)
_REFUSED = (errno.EACCES, errno.EPERM)


def is_pci_address(text: str) -> bool:
    """Whether `text` is a full PCI address, as the kernel writes it: `0000:00:05.0`."""
    return _PCI_ADDRESS.fullmatch(text) is not None


def check_address(address: str) -> str:
    """Return `address` if it is a full PCI address; raise `UdevError` (EINVAL) if not. It becomes part of a path."""
    if not is_pci_address(address):
        raise UdevError(
            f"PCI address {address!r}: not of the form 0000:00:05.0 (domain:bus:device.function, lower-case hex); "
            "`ls /sys/bus/pci/devices` lists them",
            errno.EINVAL,
        )
    return address


def check_name(name: str, what: str) -> str:
    """Return `name` if it can name a driver, module or device; raise `UdevError` (EINVAL) if not."""
    if not _NAME.fullmatch(name):
        raise UdevError(
            f"{what} {name!r}: not a name the kernel uses; letters, digits and _ . : + @ ! - only", errno.EINVAL
        )
    return name


class Sysfs:
    """A sysfs tree, with the `/dev` and `/proc` that belong to it.

    `read_x` touch the tree and raise `DeviceNotFound` when the device or the attribute is gone, `UdevError` with the
    kernel's errno otherwise. `write` is one write() system call: sysfs takes each write as one whole value.
    """

    def __init__(self, root: str | Path = "/sys", dev: str | Path = "/dev", proc: str | Path = "/proc") -> None:
        self.root = Path(root)
        self.dev = Path(dev)
        self.proc = Path(proc)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r}, {str(self.dev)!r}, {str(self.proc)!r})"

    @property
    def is_real(self) -> bool:
        """Whether this is the running kernel's tree, which pyudev can enumerate."""
        return self.root == Path("/sys")

    # Paths

    def device(self, name: str, bus: str = "pci") -> Path:
        """The folder (a link) of one device of a bus. Raises `UdevError` (EINVAL) on a malformed name."""
        checked = check_address(name) if bus == "pci" else check_name(name, f"{bus} device")
        return self.root / "bus" / bus / "devices" / checked

    def driver(self, name: str, bus: str = "pci") -> Path:
        """The folder of one driver of a bus, whether or not it exists. Raises `UdevError` (EINVAL)."""
        return self.root / "bus" / bus / "drivers" / check_name(name, f"{bus} driver")

    def pci_device(self, address: str) -> Path:
        """The folder of the PCI function at `address`."""
        return self.device(address, "pci")

    def pci_driver(self, name: str) -> Path:
        """The folder of the PCI driver `name`."""
        return self.driver(name, "pci")

    def drivers_probe(self, bus: str = "pci") -> Path:
        """The attribute that looks for a driver for the device whose name is written to it."""
        return self.root / "bus" / bus / "drivers_probe"

    # Reading

    def read_raw(self, path: Path) -> str:
        """The text of an attribute, with the newline the kernel puts at its end."""
        try:
            return self._load(path).decode(errors="replace")
        except OSError as error:
            raise _typed(error, path, "read") from error

    def read(self, path: Path) -> str:
        """The text of an attribute, without white space at its ends."""
        return self.read_raw(path).strip()

    def read_optional(self, path: Path) -> str | None:
        """`read`, or None where there is no such attribute."""
        try:
            return self.read(path)
        except DeviceNotFound:
            return None

    def read_int(self, path: Path) -> int:
        """The number in an attribute: `0x1af4` is hexadecimal, `20480` is decimal."""
        text = self.read(path)
        try:
            return int(text, 0)
        except ValueError:
            raise UdevError(f"{path}: expected a number, found {text[:40]!r}") from None

    def read_within(self, path: Path, seconds: float) -> str:
        """`read`, for an attribute whose reading takes a lock in the kernel. Raises `BindTimeout` after `seconds`."""
        (answer,) = self.read_all_within([path], seconds)
        if isinstance(answer, UdevError):
            raise answer
        return answer

    def read_all_within(self, paths: Sequence[Path], seconds: float) -> list[str | UdevError]:
        """Each attribute's text, or the error in its place: `BindTimeout` for one that blocks for `seconds`.

        A child process reads them (see `udev.helper`), which takes some 15 ms to start.
        """
        answers = zip(self._load_within(paths, seconds), paths, strict=True)
        return [_typed_answer(answer, path) for answer, path in answers]

    def read_link(self, path: Path) -> str | None:
        """The last name a link points to (`driver` -> `virtio-pci`), or None where there is no such link."""
        try:
            return Path(os.readlink(path)).name
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise _typed(error, path, "follow") from error

    def read_names(self, folder: Path) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""
        try:
            return sorted(os.listdir(folder))
        except OSError as error:
            if error.errno in _GONE:
                return []
            raise _typed(error, folder, "list") from error

    # Writing

    def write(self, path: Path, text: str, seconds: float | None = None) -> None:
        """Write `text` to an attribute with one write().

        With `seconds` a child process does it (see `udev.helper`), and `BindTimeout` is raised when it does not come
        back in time: use that wherever the kernel runs a driver's code or takes the device's lock.
        """
        data = text.encode()
        try:
            count = self._store(path, data, seconds)
        except UdevError:
            raise
        except OSError as error:
            raise _typed(error, path, f"write {text!r} to") from error
        if count != len(data):
            raise UdevError(f"{path}: took {count} of {len(data)} bytes of {text!r}; nothing was written twice")

    # The places where attributes are touched; a fake tree overrides them.

    def _load(self, path: Path) -> bytes:
        return path.read_bytes()

    def _load_within(self, paths: Sequence[Path], seconds: float) -> list[bytes | OSError]:
        return helper.read_within(paths, seconds)

    def _store(self, path: Path, data: bytes, seconds: float | None) -> int:
        if seconds is not None:
            return helper.write_within(path, data, seconds)
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)


def _typed_answer(answer: bytes | OSError, path: Path) -> str | UdevError:
    if isinstance(answer, bytes):
        return answer.decode(errors="replace").strip()
    return answer if isinstance(answer, UdevError) else _typed(answer, path, "read")


def _typed(error: OSError, path: Path, verb: str) -> UdevError:
    code = error.errno or errno.EIO
    reason = os.strerror(code)
    if code in _GONE:
        return DeviceNotFound(f"{path}: cannot {verb} it: {reason}; is the device still there?", errno.ENODEV)
    if code in _REFUSED:
        return UdevError(f"{path}: cannot {verb} it: {reason}; run as root (`sudo`)", code)
    return UdevError(f"{path}: cannot {verb} it: {reason} (errno {code}); `dmesg | tail` may say why", code)
