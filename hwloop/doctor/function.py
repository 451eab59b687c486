"""What may be wrong with a PCI function, seen from outside: sysfs, its configuration space, and who holds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import udev
from hwloop.claim import NO_DRIVER, UIO_DRIVER, USER_DRIVERS, VFIO_DRIVER, group_fault, why_in_use
from hwloop.doctor.base import DEVICE_ERROR, DEVICE_LOST, HINT, IN_USE, LIKELY, Case, Finding
from hwloop.journal import Journal
from hwloop.lock import lock_holder
from hwloop.spec import is_transitional_pci_id
from hwloop.transport.pci_capability import STRUCTURES, CfgType, fault_of, virtio_capabilities
from pci import (
    CapabilityError,
    Command,
    ConfigAccessError,
    ConfigSpace,
    IoBar,
    PciError,
    SysfsConfigAccess,
    parse_resource_file,
)
from udev import PciDevice

_DRIVERS = {"vfio": VFIO_DRIVER, "iommufd": VFIO_DRIVER, "vfio-noiommu": VFIO_DRIVER, "uio": UIO_DRIVER}
_MODULES = {VFIO_DRIVER: "vfio-pci", UIO_DRIVER: "uio_pci_generic"}


def _has_iommu(case: Case, device: PciDevice) -> bool:
    return device.iommu_group is not None and not udev.is_noiommu_group(case.sysfs, device.iommu_group)


def check_iommu(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None or _has_iommu(case, device):
        return
    wanted = case.uses_vfio and case.asked_for
    yield Finding(
        f"{device.address} has no IOMMU group",
        "VFIO cannot have it: no IOMMU is on, or it is not behind one"
        if wanted
        else "nothing confines it to its memory, so it is reached through UIO",
        "put intel_iommu=on or amd_iommu=on on the kernel's command line, turn it on in the firmware, and reboot",
        severity="problem" if wanted else HINT,
    )


def check_group(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None or not _has_iommu(case, device):
        return
    fault = group_fault(case.sysfs, device)
    if fault:
        assert device.iommu_group is not None
        drivers = udev.iommu_group_drivers(case.sysfs, device.iommu_group)
        others = [
            name
            for name, driver in drivers.items()
            if name != device.address and driver not in (None, VFIO_DRIVER, "pcieport", "pci-stub")
        ]
        yield Finding(
            fault,
            "the group is not viable: VFIO gives out a group as a whole, or not at all",
            " && ".join(f"hwloop unbind {name}" for name in others),
        )


def check_noiommu_mode(case: Case) -> Iterator[Finding]:
    if case.function is None or case.hal != "vfio-noiommu":
        return
    mode = udev.noiommu_mode(case.sysfs)
    if not mode:
        missing = mode is None
        yield Finding(
            "VFIO's unsafe mode is off" if not missing else "VFIO is not loaded, or has no mode without an IOMMU",
            "hal=vfio-noiommu is refused",
            "use hal=uio" if missing else udev.ENABLE_NOIOMMU_MODE,
            sure=LIKELY if missing else "certain",
        )


def check_module(case: Case) -> Iterator[Finding]:
    driver = _DRIVERS.get(case.hal)
    if case.function is None or driver is None or udev.driver_exists(case.sysfs, driver):
        return
    yield Finding(
        f"no driver {driver} is registered",
        "its module is not loaded; hwloop loads it, where the kernel has it",
        f"modprobe {_MODULES[driver]}",
        severity=HINT,
    )


def check_vfio_node(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None or device.driver != VFIO_DRIVER:
        return
    nodes = [udev.vfio_group_node(case.sysfs, device.address), udev.vfio_node(case.sysfs, device.address)]
    if not any(node is not None and node.exists() for node in nodes):
        where = next((str(node) for node in nodes if node is not None), "/dev/vfio")
        yield Finding(
            f"vfio-pci holds {device.address}, and {where} is not there",
            "it cannot be opened: devtmpfs is not mounted here, or a container hides it",
            "mount -t devtmpfs none /dev",
            sure=LIKELY,
        )


def check_in_use(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None:
        return
    reasons = why_in_use(case.sysfs, udev.block_devices_of(case.sysfs, device.address))
    if reasons:
        yield in_use(device.address, reasons)


def in_use(name: str, reasons: list[str]) -> Finding:
    """A disk that somebody uses, and how to end each use."""
    return Finding(
        f"the disk of {name} is in use: {', '.join(reasons)}",
        "hwloop refuses to take it",
        " && ".join(dict.fromkeys(_release(reason) for reason in reasons)),
        exit_code=IN_USE,
    )


def _release(reason: str) -> str:
    """The command that ends a use, such as `mount@vda1:/mnt`."""
    kind, _, rest = reason.partition("@")
    disk, _, where = rest.partition(":")
    if kind == "mount":
        return f"umount {where}"
    if kind == "swap":
        return f"swapoff /dev/{disk}"
    if kind == "holder":
        if where.startswith("md"):
            return f"mdadm --stop /dev/{where}"
        return f"dmsetup remove /dev/{where}" if where.startswith("dm-") else f"lsblk /dev/{disk}"
    return f"losetup -d /dev/{where}" if kind == "loop" else f"fuser -v /dev/{disk}"


def check_locked(case: Case) -> Iterator[Finding]:
    if case.function is not None:
        yield from locked(case)


def locked(case: Case) -> Iterator[Finding]:
    """Another hwloop that has the device."""
    pid = lock_holder(case.name, case.run_dir)
    if pid is not None:
        yield Finding(
            f"process {pid} has locked {case.name}",
            "another hwloop drives it now",
            f"wait for it, or: kill {pid}",
            exit_code=IN_USE,
        )


def check_uio_holder(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None or device.driver != UIO_DRIVER:
        return
    node = udev.uio_node(case.sysfs, device.address)
    pids = udev.processes_with(case.sysfs, node) if node is not None else []
    if pids:
        yield Finding(
            f"{node} is open in process {pids[0]}",
            "that program drives it; when it closes, the kernel turns bus mastering off",
            f"kill {pids[0]}",
            exit_code=IN_USE,
        )


def check_override(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None or device.driver_override is None:
        return
    override = device.driver_override
    if override == udev.OVERRIDE_BUSY:
        yield Finding(
            f"the lock of {device.address} is not free",
            "its driver has been taking or leaving it for seconds: it hangs in its probe or remove function",
            "dmesg | tail; cat /proc/*/stack shows where",
            sure=LIKELY,
        )
    elif lock_holder(device.address, case.run_dir) is None and Journal(case.run_dir).read(device.address) is None:
        nobody = override == NO_DRIVER
        yield Finding(
            f"driver_override of {device.address} is {override}",
            "no driver may take it" if nobody else f"no driver but {override} takes it, and hwloop did not leave that",
            f"hwloop restore {device.address}",
            severity=HINT,
            sure="certain" if nobody else LIKELY,
        )


def check_driver(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None or device.driver_override is not None:
        return
    if Journal(case.run_dir).read(device.address) is not None:
        return
    if device.driver is None:
        yield Finding(
            f"no driver holds {device.address}",
            "the kernel does not use it; hwloop can take it",
            f"hwloop restore {device.address}",
            severity=HINT,
        )
    elif device.driver in USER_DRIVERS and lock_holder(device.address, case.run_dir) is None:
        yield Finding(
            f"{device.driver} holds {device.address}, and no hwloop does",
            "it was bound by hand, or by another program",
            f"hwloop restore {device.address}",
            severity=HINT,
            sure=LIKELY,
        )


def check_answers(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None:
        return
    with suppress(OSError), SysfsConfigAccess(case.sysfs.pci_device(device.address) / "config") as access:
        if ConfigSpace(access).read16(0) == 0xFFFF:
            yield Finding(
                f"the configuration space of {device.address} reads all ones",
                "the function does not answer: it was unplugged, is powered down (D3cold), or its link is down",
                f"echo 1 > /sys/bus/pci/devices/{device.address}/remove && echo 1 > /sys/bus/pci/rescan",
                sure=LIKELY,
                exit_code=DEVICE_LOST,
            )


def check_bars(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None:
        return
    with suppress(PciError):
        bars = parse_resource_file(device.resource).values()
        for bar in bars:
            if not bar.address:
                yield Finding(
                    f"BAR {bar.index} of {device.address} has no address",
                    "nobody has assigned it: there was no room, or a hotplug without a rescan",
                    f"echo 1 > /sys/bus/pci/devices/{device.address}/remove && echo 1 > /sys/bus/pci/rescan",
                    exit_code=DEVICE_ERROR,
                )
        if not bars:
            yield Finding(
                f"{device.address} has no BAR",
                "there are no registers to drive it with: nothing was assigned, or it is a broken function",
                f"echo 1 > /sys/bus/pci/devices/{device.address}/remove && echo 1 > /sys/bus/pci/rescan",
                exit_code=DEVICE_ERROR,
                sure=LIKELY,
            )


def check_decoding(case: Case) -> Iterator[Finding]:
    """Memory decoding of a function that a kernel driver uses. One that nobody uses has it off, which is right."""
    device = case.function
    if device is None or device.driver in (None, *USER_DRIVERS):
        return
    with suppress(OSError), SysfsConfigAccess(case.sysfs.pci_device(device.address) / "config") as access:
        config = ConfigSpace(access)
        if config.read16(0) == 0xFFFF:
            return
        command = config.read_command()
        kinds = parse_resource_file(device.resource).values()
        if any(not isinstance(bar, IoBar) for bar in kinds) and not command & Command.MEMORY_SPACE:
            yield Finding(
                f"memory decoding of {device.address} is off while {device.driver} holds it",
                "its registers read all ones: somebody has written its command register",
                f"hwloop unbind {device.address} && hwloop restore {device.address}",
                severity=HINT,
            )
        elif not command & Command.BUS_MASTER:
            yield Finding(
                f"bus mastering of {device.address} is off while {device.driver} holds it",
                "it cannot reach memory, so the kernel's requests do not complete",
                f"hwloop unbind {device.address} && hwloop restore {device.address}",
                severity=HINT,
                sure=LIKELY,
            )


def check_capabilities(case: Case) -> Iterator[Finding]:
    device = case.function
    if device is None:
        return
    with suppress(ConfigAccessError), SysfsConfigAccess(case.sysfs.pci_device(device.address) / "config") as access:
        config = ConfigSpace(access)
        if config.read16(0) != 0xFFFF:
            yield from _capability_faults(device, config)


def _capability_faults(device: PciDevice, config: ConfigSpace) -> Iterator[Finding]:
    remedy = f"hwloop info {device.address}"
    try:
        found = list(virtio_capabilities(config))
        bars = parse_resource_file(device.resource)
    except CapabilityError as error:
        yield Finding(
            str(error), "its list of capabilities is broken, so no register can be found", remedy,
            exit_code=DEVICE_ERROR,
        )  # fmt: skip
        return
    if is_transitional_pci_id(device.device_id) and not found:
        return  # It has its legacy interface.
    for kind in (CfgType.COMMON_CFG, CfgType.NOTIFY_CFG, CfgType.ISR_CFG):
        faults = [fault_of(one, bars) for one in found if one.cfg_type == kind]
        if not faults or all(faults):
            why = f"it {faults[0]}" if faults else "it has no such capability"
            yield Finding(
                f"the {STRUCTURE_NAMES[kind]} structure of {device.address} cannot be used: {why}",
                "the device is broken, or its BARs are not assigned (VIRTIO 1.4, 4.1.4)",
                remedy,
                exit_code=DEVICE_ERROR,
            )


STRUCTURE_NAMES = {kind: kind.name for kind in CfgType if kind in STRUCTURES}
