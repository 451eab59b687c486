"""The memory-mapped virtio nodes of this machine, who holds them, and what they are. Nothing is opened or read."""

from __future__ import annotations

import re
from dataclasses import dataclass

import udev
from hwloop.claim import why_in_use
from hwloop.lock import lock_holder
from hwloop.spec import DeviceType, DeviceTypeError
from udev import MmioNode, Sysfs

# What the kernel's bus says of a device that a transport driver has found (Linux, drivers/virtio/virtio.c).
_MODALIAS = re.compile(r"virtio:d([0-9A-Fa-f]{8})v[0-9A-Fa-f]{8}")


@dataclass(frozen=True)
class MmioRecord:
    """One node. `address` and `size` are None where this user or kernel does not show them.

    `type` is known only while the kernel's driver holds the node: of others a register would have to be read. `uses`
    are reasons such as `mount@vda1:/`; `why_not` is "" when it can be taken, with `?unbind=on` if it has a `driver`.
    """

    name: str
    address: int | None
    size: int | None
    irq: int | None
    driver: str | None
    type: str | None
    disks: tuple[str, ...]
    uses: tuple[str, ...]
    locked_by: int | None
    why_not: str

    @property
    def can_take(self) -> bool:
        return not self.why_not

    @property
    def target(self) -> str:
        """What a user gives to take it."""
        where = self.name if self.address is None else f"{self.address:#x}"
        return f"mmio:{where}" + ("?unbind=on" if self.driver is not None else "")

    def as_json(self) -> dict[str, object]:
        """The stable form that `--json` prints; the address is hexadecimal, the size in bytes."""
        return {
            "name": self.name,
            "address": None if self.address is None else f"{self.address:#x}",
            "size": self.size,
            "irq": self.irq,
            "type": self.type,
            "driver": self.driver,
            "block_devices": list(self.disks),
            "in_use_by": list(self.uses),
            "locked_by": self.locked_by,
            "can_take": self.can_take,
            "why_not": self.why_not or None,
        }


def mmio_devices(sysfs: Sysfs | None = None) -> list[MmioRecord]:
    """Every virtio-mmio node, by address; also slots that have no device, which only their registers would tell."""
    sysfs = sysfs or Sysfs()
    return [mmio_record_of(sysfs, node) for node in udev.list_mmio(sysfs)]


def mmio_record_of(sysfs: Sysfs, node: MmioNode) -> MmioRecord:
    """The record of one node."""
    known = is_kernel_device(sysfs, node.name)
    disks = udev.block_devices_of(sysfs, node.name, bus="platform") if known else []
    uses = tuple(why_in_use(sysfs, disks))
    locked_by = lock_holder(node.name if known else bare_name(node.address or 0))
    device_type = type_in_kernel(sysfs, node.name)
    return MmioRecord(
        name=node.name,
        address=node.address,
        size=node.size,
        irq=node.irq,
        driver=node.driver,
        type=device_type.label if device_type is not None else None,
        disks=tuple(disk.name for disk in disks),
        uses=uses,
        locked_by=locked_by,
        why_not=_why_not(uses, locked_by),
    )


def _why_not(uses: tuple[str, ...], locked_by: int | None) -> str:
    if uses:
        return f"in use: {', '.join(uses)}"
    return f"in use by another hwloop, process {locked_by}" if locked_by is not None else ""


def is_kernel_device(sysfs: Sysfs, name: str) -> bool:
    """Whether the kernel made a platform device of the node, to be bound; of the command line's it may not have."""
    return sysfs.device(name, "platform").is_dir()


def bare_name(address: int) -> str:
    """What registers are called that no device of the kernel stands for."""
    return f"mmio:{address:#x}"


def type_in_kernel(sysfs: Sysfs, name: str) -> DeviceType | None:
    """What the kernel found behind a node that its driver holds; None where it has none, or of a type unknown to us."""
    folder = sysfs.device(name, "platform")
    for child in sysfs.read_names(folder):
        found = _MODALIAS.fullmatch(sysfs.read_optional(folder / child / "modalias") or "")
        if found is not None:
            return _type_of(int(found[1], 16))
    return None


def _type_of(device_id: int) -> DeviceType | None:
    try:
        return DeviceType.from_id(device_id)
    except DeviceTypeError:
        return None
