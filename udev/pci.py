"""The PCI functions of a machine, as sysfs describes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from udev.errors import BindTimeout, DeviceNotFound, UdevError
from udev.sysfs import Sysfs, is_pci_address

if TYPE_CHECKING:
    from pathlib import Path

# Finds the addresses; everything about one function is then read in one way, whatever found it.
Enumerator = Callable[[Sysfs], list[str]]

# What `list_pci` shows for `driver_override` while the device's lock is held (a driver that never returns from its
# remove function). It is no name a driver can have.
OVERRIDE_BUSY = "(busy)"

# The kernel takes the device's lock to show driver_override. Nobody holds it this long in good health, and a child
# process starts in this time even in a loaded emulated machine.
LOCK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One PCI function. Numbers are as in its configuration header (PCI 3.0, 6.2); `class_code` has 24 bits.

    `resource` is the raw text of the attribute of that name: a line a BAR, `start end flags` in hexadecimal.
    """

    address: str
    vendor_id: int
    device_id: int
    subsystem_vendor_id: int
    subsystem_id: int
    class_code: int
    revision: int
    driver: str | None
    driver_override: str | None
    iommu_group: int | None
    resource: str
    modalias: str
    enabled: bool


def pyudev_addresses(sysfs: Sysfs) -> list[str]:
    """The PCI addresses of the running kernel, from libudev. Needs no udevd: libudev reads sysfs itself."""
    import pyudev

    return sorted(device.sys_name for device in pyudev.Context().list_devices(subsystem="pci"))


def directory_addresses(sysfs: Sysfs) -> list[str]:
    """The PCI addresses of any sysfs tree, from the names in its folder."""
    return [name for name in sysfs.read_names(sysfs.root / "bus/pci/devices") if is_pci_address(name)]


def choose_enumerator(sysfs: Sysfs) -> Enumerator:
    """libudev for the running kernel's tree, the folder for another one or where libudev is not installed."""
    if not sysfs.is_real:
        return directory_addresses
    try:
        import pyudev  # noqa: F401
    except ImportError:
        return directory_addresses
    return pyudev_addresses


def list_pci(sysfs: Sysfs) -> list[PciDevice]:
    """Every PCI function, sorted by address. One that goes away meanwhile is left out.

    A function whose lock is held for seconds has `driver_override == OVERRIDE_BUSY`: one stuck device must not hide
    the others.
    """
    paths = [sysfs.pci_device(address) for address in sorted(choose_enumerator(sysfs)(sysfs))]
    found = []
    for path, override in zip(paths, _read_overrides(sysfs, paths), strict=True):
        try:
            found.append(_read_record(sysfs, path, override))
        except DeviceNotFound:
            continue
    return found


def read_pci(sysfs: Sysfs, address: str) -> PciDevice:
    """One PCI function.

    Raises `DeviceNotFound`, `UdevError` (EINVAL) on a malformed address, `BindTimeout` when its lock is held.
    """
    path = sysfs.pci_device(address)
    if not path.is_dir():
        raise DeviceNotFound(
            f"PCI function {address}: not on this machine; `ls {path.parent}` lists them, "
            f"`echo 1 > {path.parents[1] / 'rescan'}` looks again"
        )
    return _read_record(sysfs, path, read_override(sysfs, path))


def read_override(sysfs: Sysfs, path: Path, seconds: float = LOCK_SECONDS) -> str | None:
    """The `driver_override` of the device whose folder is `path`, None when there is none.

    Raises `BindTimeout` when the device's lock is not free for `seconds`: its driver is still taking it or leaving it.
    """
    try:
        return _override(sysfs.read_within(path / "driver_override", seconds))
    except DeviceNotFound:
        return None


def _read_overrides(sysfs: Sysfs, paths: list[Path]) -> list[str | None]:
    answers = sysfs.read_all_within([path / "driver_override" for path in paths], LOCK_SECONDS)
    return [_override(answer) if isinstance(answer, str) else _stands_for(answer) for answer in answers]


def _override(text: str) -> str | None:
    return None if text in ("", "(null)") else text


def _stands_for(error: UdevError) -> str | None:
    if isinstance(error, BindTimeout):
        return OVERRIDE_BUSY
    if isinstance(error, DeviceNotFound):
        return None
    raise error


def _read_record(sysfs: Sysfs, path: Path, override: str | None) -> PciDevice:
    group = sysfs.read_link(path / "iommu_group")
    return PciDevice(
        address=path.name,
        vendor_id=sysfs.read_int(path / "vendor"),
        device_id=sysfs.read_int(path / "device"),
        subsystem_vendor_id=sysfs.read_int(path / "subsystem_vendor"),
        subsystem_id=sysfs.read_int(path / "subsystem_device"),
        class_code=sysfs.read_int(path / "class"),
        revision=sysfs.read_int(path / "revision"),
        driver=sysfs.read_link(path / "driver"),
        driver_override=override,
        iommu_group=None if group is None else int(group),
        resource=sysfs.read_raw(path / "resource"),
        modalias=sysfs.read(path / "modalias"),
        enabled=sysfs.read_int(path / "enable") > 0,
    )
