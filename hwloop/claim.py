"""Taking a device away from the kernel, and giving it back.

The order is: refuse a disk in use, lock, remember in the journal, and only then unbind. From the journal on, every way
out ends in the old state: `give_back`, the process's normal exit, or `hwloop restore` after a crash.
"""

from __future__ import annotations

import atexit
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import udev
from hwloop.errors import RefusedError, SetupError
from hwloop.journal import Entry, Journal
from hwloop.lock import RUN_DIR, DeviceLock, command_of
from hwloop.owner import Owner
from hwloop.signals import shield
from udev import BlockDevice, PciDevice, Sysfs

VFIO_DRIVER = "vfio-pci"
UIO_DRIVER = "uio_pci_generic"
UIO_PLATFORM_DRIVER = "uio_pdrv_genirq"
_UIO_DRIVERS = (UIO_DRIVER, UIO_PLATFORM_DRIVER)
USER_DRIVERS = (VFIO_DRIVER, *_UIO_DRIVERS)
"""Drivers of the kernel that only hand a function on to user space."""

NO_DRIVER = "hwloop-none"
"""An override that no driver answers to: a device that none shall hold stays free when a module is loaded."""
_NODE_SECONDS = 5.0
_PROBE_SECONDS = 15.0
_REASONS_SHOWN = 8


class Claim(Owner):
    """The device at `address`, bound to `driver` and held against other processes until `give_back()`.

    `driver` None binds it to nothing and keeps it so: for registers that are reached through /dev/mem. `bus` is `pci`
    or `platform`. With vfio-pci an IOMMU has to confine the device, unless `confined` is False: then none may, and
    VFIO's unsafe mode for that has to be on. Raises RefusedError (exit code 3) for a disk in use or a device that
    another process holds, SetupError for what the machine lacks; nothing has changed then.
    """

    def __init__(
        self,
        address: str,
        driver: str | None = VFIO_DRIVER,
        sysfs: Sysfs | None = None,
        run_dir: Path = RUN_DIR,
        *,
        bus: str = "pci",
        confined: bool = True,
    ) -> None:
        self.address = address
        self.driver = driver
        self.bus = bus
        self.confined = confined
        self._sysfs = sysfs or Sysfs()
        self._journal = Journal(run_dir)
        self._active = False
        self._pid = os.getpid()
        with shield(), ExitStack() as stack:
            self._lock = stack.enter_context(DeviceLock(address, run_dir))
            self._take()
            stack.pop_all()

    def _take(self) -> None:
        now = read_state(self._sysfs, self.address, self.bus)
        check_free(self._sysfs, now)
        with held_exclusively(self._sysfs, self.address, bus=self.bus):
            if self.driver == VFIO_DRIVER:
                check = check_group if self.confined else check_no_group
                check(self._sysfs, udev.read_pci(self._sysfs, self.address))
            if self.driver is not None:
                prepare_driver(self._sysfs, self.driver, bus=self.bus)
            if not self.confined:
                check_noiommu_mode(self._sysfs, self.address)
            self._before = self._note(now)
            # As it shall be already, and to stay so: then there is nothing to put back.
            self._unchanged = (self.driver, now.override) == (self._before.driver, self._before.override)
            self._active = True
            atexit.register(self.give_back)
            try:
                self._bind(now)
                self._wait_for_node()
            except BaseException:
                self.give_back()
                raise

    def _note(self, now: Entry) -> Entry:
        """Write down the state to go back to. A journal that a crashed process left knows better than the device."""
        left = self._journal.read(self.address)
        if left is not None and not left.lasting:
            return left
        if left is None:
            self._journal.write(now)
        return now

    def _bind(self, now: Entry) -> None:
        if self.driver is not None:
            udev.bind_device(self._sysfs, self.address, self.driver, bus=self.bus)
        elif (now.driver, now.override) != (None, NO_DRIVER):
            self._unchanged = False
            _bind_to_none(self._sysfs, self.address, self.bus)

    def _wait_for_node(self) -> None:
        if self.driver == VFIO_DRIVER:
            udev.wait_for_vfio(self._sysfs, self.address, _NODE_SECONDS)
        elif self.driver in _UIO_DRIVERS:
            udev.wait_for_uio(self._sysfs, self.address, _NODE_SECONDS, bus=self.bus)

    def close(self) -> None:
        self.give_back()

    def descriptors(self) -> list[int]:
        """What keeps the lock, for a child that may have to `adopt` the claim."""
        return self._lock.descriptors()

    def adopt(self) -> None:
        """Make the claim this process's, a child of the one that took it and which has died."""
        self._pid = os.getpid()
        self._lock.adopt()

    def give_back(self) -> None:
        """Bind the device to the driver it had, put `driver_override` back and drop the lock. Idempotent.

        A device that was unplugged needs nothing. In a child of the process that took it, nothing is done: it is still
        the parent's, which a child that ends by `sys.exit` must not give away.
        """
        if self._pid != os.getpid():
            return
        with shield():
            if not self._active:
                return
            self._active = False
            atexit.unregister(self.give_back)
            with self._lock:
                self._put_back()

    def _put_back(self) -> None:
        if not self._unchanged:
            before = self._before
            with suppress(udev.DeviceNotFound):
                udev.rebind(self._sysfs, self.address, before.driver, override=before.override, bus=self.bus)
        left = self._journal.read(self.address)
        if left is not None and not left.lasting:
            self._journal.remove(self.address)


def read_state(sysfs: Sysfs, address: str, bus: str = "pci") -> Entry:
    """What the device is now, as a journal entry of ours. Raises udev.DeviceNotFound."""
    driver = udev.current_driver(sysfs, address, bus=bus)
    override = udev.read_override(sysfs, sysfs.device(address, bus))
    return Entry(address, driver, override, pid=os.getpid(), bus=bus)


def check_free(sysfs: Sysfs, state: Entry) -> None:
    """Raises RefusedError when another program has the UIO device of the function open. It would lose it without a
    word, and when it closes its descriptor the kernel turns off bus mastering (Linux, uio_pci_generic release)."""
    node = udev.uio_node(sysfs, state.address, bus=state.bus) if state.driver in _UIO_DRIVERS else None
    others = [pid for pid in udev.processes_with(sysfs, node) if pid != os.getpid()] if node is not None else []
    if others:
        raise RefusedError(
            f"{state.address} is in use: {node} is open in process {others[0]} ({command_of(others[0])}); "
            "it was not touched",
            remedy="end that process, then try again",
        )


def why_in_use(sysfs: Sysfs, disks: Iterable[BlockDevice]) -> list[str]:
    """Why these disks must not be taken, without opening them; empty when nothing is seen."""
    return [reason for disk in disks for reason in udev.who_holds(sysfs, disk)]


@contextmanager
def held_exclusively(sysfs: Sysfs, address: str, *, bus: str = "pci") -> Iterator[None]:
    """Hold every disk behind the device open with O_EXCL, which the kernel allows only while nothing uses it: no
    mount in any namespace, no swap, no device mapper, no md, no other exclusive open.

    Raises RefusedError, with the reasons that can be seen.
    """
    disks = udev.block_devices_of(sysfs, address, bus=bus)
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
    if device.iommu_group is None or udev.is_noiommu_group(sysfs, device.iommu_group):
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
    if device.iommu_group is None or udev.is_noiommu_group(sysfs, device.iommu_group):
        remedy = "turn the IOMMU on: intel_iommu=on or amd_iommu=on on the kernel's command line, and in the firmware"
    else:
        remedy = "unbind those devices first (hwloop unbind ADDRESS), or put this one behind another slot"
    raise SetupError(fault, remedy=remedy)


def check_no_group(sysfs: Sysfs, device: PciDevice) -> None:
    """Raises SetupError for a device that has an IOMMU: VFIO would use that, and no other way (Linux,
    vfio_group_find_or_alloc)."""
    if device.iommu_group is not None and not udev.is_noiommu_group(sysfs, device.iommu_group):
        raise SetupError(
            f"{device.address} is in IOMMU group {device.iommu_group}, so VFIO does not hand it out without one",
            remedy="use hal=vfio",
        )


def check_noiommu_mode(sysfs: Sysfs, address: str) -> None:
    """Raises SetupError unless VFIO hands out devices that no IOMMU confines. hwloop never turns that on by itself."""
    mode = udev.noiommu_mode(sysfs)
    if mode is None:
        raise SetupError(
            f"this kernel's VFIO has no mode for {address} without an IOMMU (CONFIG_VFIO_NOIOMMU)", remedy="use hal=uio"
        )
    if not mode:
        raise SetupError(
            f"VFIO does not hand out {address} without an IOMMU: its unsafe mode is off",
            errno=errno.EPERM,
            remedy=f"use hal=uio, or: {udev.ENABLE_NOIOMMU_MODE}",
        )


def translates(sysfs: Sysfs, device: PciDevice) -> bool:
    """Whether an IOMMU stands between the function and memory, and is not set to let addresses through as they are
    (Linux Documentation/ABI/testing/sysfs-kernel-iommu_groups)."""
    if device.iommu_group is None or udev.is_noiommu_group(sysfs, device.iommu_group):
        return False
    kind = sysfs.read_optional(sysfs.root / "kernel/iommu_groups" / str(device.iommu_group) / "type")
    return kind != "identity"


def prepare_driver(sysfs: Sysfs, driver: str, *, bus: str = "pci") -> None:
    """Load the driver's module if the driver is not there yet. Raises udev.ModuleMissing."""
    if not udev.driver_exists(sysfs, driver, bus=bus):
        udev.load_module(driver)


def bind_lastingly(
    address: str, driver: str | None, sysfs: Sysfs | None = None, run_dir: Path = RUN_DIR, *, bus: str = "pci"
) -> None:
    """Bind the device to a driver (None: to none) and leave it so; `restore` undoes it.

    Refuses what `Claim` refuses.
    """
    sysfs = sysfs or Sysfs()
    with shield(), DeviceLock(address, run_dir):
        now = read_state(sysfs, address, bus)
        check_free(sysfs, now)
        with held_exclusively(sysfs, address, bus=bus):
            if driver is not None:
                prepare_driver(sysfs, driver, bus=bus)
            _note_lasting(Journal(run_dir), now)
            if driver is None:
                _bind_to_none(sysfs, address, bus)
            else:
                udev.bind_device(sysfs, address, driver, bus=bus)


def _bind_to_none(sysfs: Sysfs, address: str, bus: str) -> None:
    udev.set_override(sysfs, address, NO_DRIVER, bus=bus)
    udev.unbind(sysfs, address, bus=bus)


def _note_lasting(journal: Journal, now: Entry) -> None:
    """Keep the oldest state: two binds in a row go back to what was before the first."""
    before = journal.read(now.address) or now
    journal.write(Entry(now.address, before.driver, before.override, lasting=True, pid=os.getpid(), bus=now.bus))


def restore(address: str, sysfs: Sysfs | None = None, run_dir: Path = RUN_DIR, *, bus: str | None = None) -> str | None:
    """Put a device back to what the journal remembers; without an entry, to the kernel's own choice of driver.

    `bus` None: the journal's, else `pci`. Returns the driver that holds it now. Raises RefusedError while another
    process has it, udev.DeviceNotFound for one that is gone: nothing of it is remembered then.
    """
    sysfs = sysfs or Sysfs()
    journal = Journal(run_dir)
    with shield(), DeviceLock(address, run_dir):
        entry = journal.read(address)
        bus = bus or (entry.bus if entry is not None else "pci")
        check_free(sysfs, _state_or_forget(sysfs, journal, address, bus))
        if entry is not None:
            udev.rebind(sysfs, address, entry.driver, override=entry.override, bus=bus)
        else:
            _back_to_default(sysfs, address, bus)
        journal.remove(address)
        return udev.current_driver(sysfs, address, bus=bus)


def _state_or_forget(sysfs: Sysfs, journal: Journal, address: str, bus: str) -> Entry:
    """As `read_state`. What comes to the address of a device that is gone is another device, or begins anew."""
    try:
        return read_state(sysfs, address, bus)
    except udev.DeviceNotFound:
        journal.remove(address)
        raise


def _back_to_default(sysfs: Sysfs, address: str, bus: str) -> None:
    if udev.current_driver(sysfs, address, bus=bus) in USER_DRIVERS:
        udev.unbind(sysfs, address, bus=bus)
    udev.clear_override(sysfs, address, bus=bus)
    if udev.current_driver(sysfs, address, bus=bus) is None:
        sysfs.write(sysfs.drivers_probe(bus), address, _PROBE_SECONDS)


def restore_all(sysfs: Sysfs | None = None, run_dir: Path = RUN_DIR) -> Iterator[tuple[str, str | OSError | None]]:
    """`restore` every device that has an entry; yields its address and its driver, or why it failed."""
    for address in Journal(run_dir).addresses():
        try:
            yield address, restore(address, sysfs, run_dir)
        except OSError as error:
            yield address, error
