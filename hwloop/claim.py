"""Taking a PCI function away from the kernel, and giving it back.

The order is: refuse a disk in use, lock, remember in the journal, and only then unbind. From the journal on, every way
out ends in the old state: `give_back`, the process's normal exit, or `hwloop restore` after a crash.
"""

from __future__ import annotations

import atexit
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import udev
from hwloop.errors import RefusedError, SetupError
from hwloop.journal import Entry, Journal
from hwloop.lock import RUN_DIR, DeviceLock
from hwloop.owner import Owner
from hwloop.signals import shield
from udev import BlockDevice, PciDevice, Sysfs

VFIO_DRIVER = "vfio-pci"
_NODE_SECONDS = 5.0
_PROBE_SECONDS = 15.0
_REASONS_SHOWN = 8


class Claim(Owner):
    """The function at `address`, bound to `driver` and held against other processes until `give_back()`.

    Raises RefusedError (exit code 3) for a disk in use or a device that another process holds, SetupError for what the
    machine lacks; nothing has changed then.
    """

    def __init__(
        self, address: str, driver: str = VFIO_DRIVER, sysfs: Sysfs | None = None, run_dir: Path = RUN_DIR
    ) -> None:
        self.address = address
        self.driver = driver
        self._sysfs = sysfs or Sysfs()
        self._journal = Journal(run_dir)
        self._active = False
        with shield(), ExitStack() as stack:
            self._lock = stack.enter_context(DeviceLock(address, run_dir))
            self._take()
            stack.pop_all()

    def _take(self) -> None:
        device = udev.read_pci(self._sysfs, self.address)
        with held_exclusively(self._sysfs, self.address):
            check_group(self._sysfs, device)
            prepare_driver(self._sysfs, self.driver)
            self._before = self._note(device)
            # Bound to our driver already, and to stay so: then there is nothing to put back.
            self._unchanged = (self.driver, device.driver_override) == (self._before.driver, self._before.override)
            self._active = True
            atexit.register(self.give_back)
            try:
                udev.bind_device(self._sysfs, self.address, self.driver)
                self._wait_for_node(device)
            except BaseException:
                self.give_back()
                raise

    def _note(self, device: PciDevice) -> Entry:
        """Write down the state to go back to. A journal that a crashed process left knows better than the device."""
        left = self._journal.read(self.address)
        if left is not None and not left.lasting:
            return left
        entry = Entry(self.address, device.driver, device.driver_override, pid=os.getpid())
        if left is None:
            self._journal.write(entry)
        return entry

    def _wait_for_node(self, device: PciDevice) -> None:
        if self.driver == VFIO_DRIVER:
            udev.wait_for_node(self._sysfs.dev / "vfio" / str(device.iommu_group), _NODE_SECONDS)

    def close(self) -> None:
        self.give_back()

    def give_back(self) -> None:
        """Bind the device to the driver it had, put `driver_override` back and drop the lock. Idempotent."""
        if not self._active:
            return
        self._active = False
        atexit.unregister(self.give_back)
        with shield(), self._lock:
            if not self._unchanged:
                udev.rebind(self._sysfs, self.address, self._before.driver, override=self._before.override)
            left = self._journal.read(self.address)
            if left is not None and not left.lasting:
                self._journal.remove(self.address)


def why_in_use(sysfs: Sysfs, disks: Iterable[BlockDevice]) -> list[str]:
    """Why these disks must not be taken, without opening them; empty when nothing is seen."""
    return [reason for disk in disks for reason in udev.who_holds(sysfs, disk)]


@contextmanager
def held_exclusively(sysfs: Sysfs, address: str) -> Iterator[None]:
    """Hold every disk behind the function open with O_EXCL, which the kernel allows only while nothing uses it: no
    mount in any namespace, no swap, no device mapper, no md, no other exclusive open.

    Raises RefusedError, with the reasons that can be seen.
    """
    disks = udev.block_devices_of(sysfs, address)
    reasons = why_in_use(sysfs, disks)
    if reasons:
        raise _in_use(address, reasons)
    with ExitStack() as stack:
        for disk in disks:
            fd = _open_exclusively(address, disk.name, disk.dev_node)
            if fd is not None:
                stack.callback(os.close, fd)
        yield


def _open_exclusively(address: str, name: str, node: str) -> int | None:
    """A descriptor, or None for a disk whose node is not there to open."""
    try:
        return os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _in_use(address, [f"exclusive@{name}"]) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise SetupError.refused(f"cannot open {node}", error) from error
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return None
        raise


def _in_use(address: str, reasons: list[str]) -> RefusedError:
    shown = ", ".join(reasons[:_REASONS_SHOWN])
    more = f" and {len(reasons) - _REASONS_SHOWN} more" if len(reasons) > _REASONS_SHOWN else ""
    return RefusedError(
        f"{address} is in use ({shown}{more}); it was not touched",
        remedy="unmount it, swapoff it or stop what uses it, then try again",
    )


def group_fault(sysfs: Sysfs, device: PciDevice) -> str:
    """Why VFIO cannot have the device's IOMMU group, or "" when it can."""
    if device.iommu_group is None:
        return f"{device.address} has no IOMMU group"
    in_the_way = {
        name: driver
        for name, driver in udev.iommu_group_drivers(sysfs, device.iommu_group).items()
        # Bridges are allowed in a viable group, and so is what no driver or vfio-pci holds (Linux, vfio_dev_viable).
        if name != device.address and driver not in (None, VFIO_DRIVER, "pcieport", "pci-stub")
    }
    if in_the_way:
        names = ", ".join(f"{name} ({driver})" for name, driver in in_the_way.items())
        return f"IOMMU group {device.iommu_group} of {device.address} also holds {names}"
    return ""


def check_group(sysfs: Sysfs, device: PciDevice) -> None:
    """Raises SetupError, before anything is unbound, when VFIO could not have the device."""
    fault = group_fault(sysfs, device)
    if not fault:
        return
    if device.iommu_group is None:
        remedy = "turn the IOMMU on: intel_iommu=on or amd_iommu=on on the kernel's command line, and in the firmware"
    else:
        remedy = "unbind those devices first (hwloop unbind ADDRESS), or put this one behind another slot"
    raise SetupError(fault, remedy=remedy)


def prepare_driver(sysfs: Sysfs, driver: str) -> None:
    """Load the driver's module if the driver is not there yet. Raises udev.ModuleMissing."""
    if not udev.driver_exists(sysfs, driver):
        udev.load_module(driver)


def bind_lastingly(address: str, driver: str | None, sysfs: Sysfs | None = None, run_dir: Path = RUN_DIR) -> None:
    """Bind the function to a driver (None: to none) and leave it so; `restore` undoes it.

    Refuses what `Claim` refuses.
    """
    sysfs = sysfs or Sysfs()
    with shield(), DeviceLock(address, run_dir):
        device = udev.read_pci(sysfs, address)
        with held_exclusively(sysfs, address):
            if driver is not None:
                prepare_driver(sysfs, driver)
            _note_lasting(Journal(run_dir), device)
            if driver is None:
                udev.unbind(sysfs, address)
            else:
                udev.bind_device(sysfs, address, driver)


def _note_lasting(journal: Journal, device: PciDevice) -> None:
    """Keep the oldest state: two binds in a row go back to what was before the first."""
    left = journal.read(device.address)
    driver, override = (left.driver, left.override) if left else (device.driver, device.driver_override)
    journal.write(Entry(device.address, driver, override, lasting=True, pid=os.getpid()))


def restore(address: str, sysfs: Sysfs | None = None, run_dir: Path = RUN_DIR) -> str | None:
    """Put a function back to what the journal remembers; without an entry, to the kernel's own choice of driver.

    Returns the driver that holds it now. Raises RefusedError while another process has it.
    """
    sysfs = sysfs or Sysfs()
    journal = Journal(run_dir)
    with shield(), DeviceLock(address, run_dir):
        udev.read_pci(sysfs, address)
        entry = journal.read(address)
        if entry is not None:
            udev.rebind(sysfs, address, entry.driver, override=entry.override)
        else:
            _back_to_default(sysfs, address)
        journal.remove(address)
        return udev.current_driver(sysfs, address)


def _back_to_default(sysfs: Sysfs, address: str) -> None:
    if udev.current_driver(sysfs, address) == VFIO_DRIVER:
        udev.unbind(sysfs, address)
    udev.clear_override(sysfs, address)
    if udev.current_driver(sysfs, address) is None:
        sysfs.write(sysfs.drivers_probe(), address, _PROBE_SECONDS)


def restore_all(sysfs: Sysfs | None = None, run_dir: Path = RUN_DIR) -> Iterator[tuple[str, str | OSError | None]]:
    """`restore` every function that has an entry; yields its address and its driver, or why it failed."""
    for address in Journal(run_dir).addresses():
        try:
            yield address, restore(address, sysfs, run_dir)
        except OSError as error:
            yield address, error
