"""Which driver holds a device, and handing it to another one.

Binding goes through `driver_override` and `drivers_probe`: the override keeps every other driver away, and needs no
identifier in the driver's table (Linux Documentation/ABI/testing/sysfs-bus-pci, driver_override). The kernel's answer
to the writes is not believed, since drivers_probe succeeds when the driver's probe function has failed, and a udev
rule may change things behind us: the `driver` link is read again until the deadline.

`deadline` is always in seconds from the call. Every write that makes the kernel run a driver's code, or wait for the
device's lock, is made by a child process that is left behind if it does not return (see `udev.helper`).

Devices are PCI functions unless `bus` says otherwise; `bus="platform"` takes names such as `a003e00.virtio_mmio`.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from udev import helper
from udev.errors import BindError, BindTimeout, DeviceNotFound, ModuleMissing, UdevError
from udev.node import wait_until
from udev.pci import read_override
from udev.sysfs import check_name

if TYPE_CHECKING:
    from udev.sysfs import Sysfs

DEFAULT_DEADLINE = 15.0
# modprobe is in a folder that is not on every user's PATH.
_SBIN = "/usr/sbin:/sbin"


def current_driver(sysfs: Sysfs, addr: str, *, bus: str = "pci") -> str | None:
    """The driver that holds the device, or None. Raises `DeviceNotFound` when there is no such device."""
    path = sysfs.device(addr, bus)
    driver = sysfs.read_link(path / "driver")
    if driver is None and not path.is_dir():
        raise DeviceNotFound(f"{bus} device {addr}: not on this machine; `ls {path.parent}` lists them")
    return driver


def driver_exists(sysfs: Sysfs, driver: str, *, bus: str = "pci") -> bool:
    """Whether the driver is loaded, or built into the kernel."""
    return sysfs.driver(driver, bus).is_dir()


def load_module(name: str, deadline: float = 30.0) -> None:
    """Load a kernel module with modprobe.

    Raises `ModuleMissing` when modprobe or the module is not there, `BindTimeout`, and `UdevError` (EIO) with
    modprobe's own words otherwise. A driver built into the kernel needs no module: ask `driver_exists` first.
    """
    check_name(name, "kernel module")
    remedy = f"`modprobe {name}` as root, with /lib/modules/{os.uname().release} in place"
    import shutil  # which brings compression libraries along

    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if modprobe is None:
        raise ModuleMissing(f"kernel module {name}: cannot be loaded, there is no modprobe (package kmod); {remedy}")
    code, output = helper.run_within([modprobe, name], deadline, f"modprobe {name}")
    if code == 0:
        return
    kind = ModuleMissing if "not found" in output else UdevError
    raise kind(f"kernel module {name}: modprobe failed with exit code {code}: {output[-300:]}; {remedy}")


def set_override(sysfs: Sysfs, addr: str, driver: str, deadline: float = DEFAULT_DEADLINE, *, bus: str = "pci") -> None:
    """Let only `driver` take the device. It changes nothing about the driver that holds it now.

    Raises `BindError` when the kernel shows something else afterwards, `BindTimeout`, `DeviceNotFound`.
    """
    path = sysfs.device(addr, bus)
    check_name(driver, f"{bus} driver")
    sysfs.write(path / "driver_override", f"{driver}\n", deadline)
    found = read_override(sysfs, path)
    if found != driver:
        raise BindError(
            f"{bus} device {addr}: driver_override was set to {driver} and reads {found}: somebody else manages this "
            "device; look for a udev rule (`grep -r driver_override /etc/udev /lib/udev`) or driverctl, and stop it"
        )


def clear_override(sysfs: Sysfs, addr: str, deadline: float = DEFAULT_DEADLINE, *, bus: str = "pci") -> None:
    """Let any matching driver take the device again. It changes nothing about the driver that holds it now."""
    # An empty write would not reach the kernel's store function: a lone newline is the empty value.
    sysfs.write(sysfs.device(addr, bus) / "driver_override", "\n", deadline)


def unbind(sysfs: Sysfs, addr: str, deadline: float = DEFAULT_DEADLINE, *, bus: str = "pci") -> None:
    """Take the device from its driver; when none holds it, make sure that the last one has really let go.

    Raises `BindTimeout` when the driver does not let go (the kernel goes on trying), `BindError` when the kernel
    refuses or another driver takes the device at once, `DeviceNotFound`.
    """
    end = time.monotonic() + deadline
    driver = current_driver(sysfs, addr, bus=bus)
    if driver is None:
        # The link goes away before the driver's remove function is called: without it, the driver may still be in it.
        _wait_for_lock(sysfs, addr, bus, end)
        return
    try:
        sysfs.write(sysfs.driver(driver, bus) / "unbind", addr, _left(end))
    except BindTimeout as error:
        raise BindTimeout(
            f"{bus} device {addr}: driver {driver} did not let go within {deadline:.1f} s; close what uses the device "
            f"(`fuser -v` on its node in /dev), then try again; {error}"
        ) from error
    except DeviceNotFound:
        _wait_for_lock(sysfs, addr, bus, end)  # gone from this driver meanwhile: the link below decides
    except UdevError as error:
        raise _refused(addr, bus, f"unbinding from {driver}", error) from error
    _verify(sysfs, addr, bus, None, end, deadline)


def bind(sysfs: Sysfs, addr: str, driver: str, deadline: float = DEFAULT_DEADLINE, *, bus: str = "pci") -> None:
    """Give the device to `driver`, taking it from another one first; nothing is written when `driver` holds it.

    The override stays set to `driver` afterwards (`clear_override`, `rebind`), and on failure too: nothing is undone.
    Raises `ModuleMissing` when the driver is not loaded, `BindError`, `BindTimeout`, `DeviceNotFound`.
    """
    end = time.monotonic() + deadline
    if current_driver(sysfs, addr, bus=bus) == driver:
        # The link comes before the driver's probe function is called: with it, the driver may still be in it.
        _wait_for_lock(sysfs, addr, bus, end)
        return
    if not driver_exists(sysfs, driver, bus=bus):
        raise ModuleMissing(
            f"{bus} driver {driver}: not in {sysfs.driver(driver, bus).parent}; load its module: `modprobe {driver}`"
        )
    set_override(sysfs, addr, driver, _left(end), bus=bus)
    unbind(sysfs, addr, _left(end), bus=bus)
    _probe(sysfs, addr, bus, driver, end)
    _verify(sysfs, addr, bus, driver, end, deadline)


def rebind(
    sysfs: Sysfs,
    addr: str,
    driver: str | None,
    deadline: float = DEFAULT_DEADLINE,
    *,
    override: str | None = None,
    bus: str = "pci",
) -> None:
    """Put an earlier state back: held by `driver` (None: by none), with the earlier `override` (None: cleared).

    The override is put back also when the driver does not take the device, but not after a `BindTimeout`: then the
    kernel still has the device in hand, and this has to be called again. Raises what `bind` and `unbind` raise.
    """
    end = time.monotonic() + deadline
    try:
        if driver is None:
            unbind(sysfs, addr, deadline, bus=bus)
        else:
            bind(sysfs, addr, driver, deadline, bus=bus)
    except BindTimeout:
        raise  # the device's lock is held: another write would only wait for it, too
    except UdevError:
        _put_override(sysfs, addr, override, DEFAULT_DEADLINE, bus)
        raise
    _put_override(sysfs, addr, override, _left(end), bus)


def _put_override(sysfs: Sysfs, addr: str, override: str | None, seconds: float, bus: str) -> None:
    if override is None:
        clear_override(sysfs, addr, seconds, bus=bus)
    else:
        set_override(sysfs, addr, override, seconds, bus=bus)


def _probe(sysfs: Sysfs, addr: str, bus: str, driver: str, end: float) -> None:
    try:
        sysfs.write(sysfs.drivers_probe(bus), addr, _left(end))
    except (BindTimeout, DeviceNotFound):
        raise
    except UdevError as error:
        raise _refused(addr, bus, f"binding to {driver}", error) from error


def _wait_for_lock(sysfs: Sysfs, addr: str, bus: str, end: float) -> None:
    read_override(sysfs, sysfs.device(addr, bus), _left(end))


def _verify(sysfs: Sysfs, addr: str, bus: str, wanted: str | None, end: float, deadline: float) -> None:
    try:
        wait_until(lambda: current_driver(sysfs, addr, bus=bus) == wanted, "", _left(end))
    except BindTimeout:
        found = current_driver(sysfs, addr, bus=bus)
        raise BindError(
            f"{bus} device {addr}: held by {found or 'none'}, not by {wanted or 'none'}, after {deadline:.1f} s; "
            f"`dmesg | grep {addr}` may say why the driver refused it; if another driver took it, look for a udev rule"
        ) from None


def _refused(addr: str, bus: str, what: str, error: UdevError) -> UdevError:
    return BindError(f"{bus} device {addr}: {what}: the kernel refused: {error}", error.errno or errno.EIO)


def _left(end: float) -> float:
    return max(0.0, end - time.monotonic())
