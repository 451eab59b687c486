"""The memory-mapped virtio nodes of a machine, and where their registers are.

Nothing can be probed on this bus: the address comes from the device tree, from the list of memory resources (ACPI), or
from the kernel's command line. An interrupt number is known only on the command line; the other two give the number of
a controller's input, which is not the kernel's.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from udev.block import class_block
from udev.errors import DeviceNotFound, UdevError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from udev.sysfs import Sysfs

# drivers/virtio/virtio_mmio.c: by device tree, by ACPI identifier, by command line.
_NODE_NAME = re.compile(r"([0-9a-f]+)\.virtio_mmio|LNRO0005:[0-9a-f]{2,}|virtio-mmio\.\d+")
_PARAMETER = re.compile(r"virtio[-_]mmio\.device=(\d+|0x[0-9a-f]+)([kmg]?)@(0x[0-9a-f]+|\d+):(\d+)(?::(\d+))?", re.I)
_IOMEM_LINE = re.compile(r"\s*([0-9a-f]+)-([0-9a-f]+) : (.*)")
_SUFFIX = {"": 0, "k": 10, "m": 20, "g": 30}


@dataclass(frozen=True, slots=True)
class MmioNode:
    """One node. `address` (physical) and `size` are in bytes, and None where this user or kernel does not show them.

    A node of the command line is listed also when the kernel made no platform device of it
    (CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES not set), with no driver. A node says nothing about a device behind it.
    """

    name: str
    driver: str | None
    address: int | None
    size: int | None
    irq: int | None


def list_mmio(sysfs: Sysfs) -> list[MmioNode]:
    """Every node, sorted by address (unknown ones last), then by name."""
    parameters = parse_cmdline(_proc_text(sysfs, "cmdline"))
    resources = parse_iomem(_proc_text(sysfs, "iomem"))
    names = {name for name in sysfs.read_names(sysfs.root / "bus/platform/devices") if _NODE_NAME.fullmatch(name)}
    nodes = [_read_node(sysfs, name, parameters, resources) for name in names]
    nodes += [node for name, node in parameters.items() if name not in names]
    return sorted(nodes, key=lambda node: (node.address is None, node.address, node.name))


def read_mmio(sysfs: Sysfs, name: str) -> MmioNode:
    """The node called `name`. Raises `DeviceNotFound`."""
    for node in list_mmio(sysfs):
        if node.name == name:
            return node
    raise DeviceNotFound(
        f"platform device {name}: no virtio-mmio node of that name; `ls {sysfs.root}/bus/platform/devices` lists them"
    )


def mmio_node_of_block(sysfs: Sysfs, name: str) -> str | None:
    """The name of the node that a disk or partition (`vda`, `vda1`) is behind, None for a disk of another kind.

    Raises `DeviceNotFound` when there is no block device of that name.
    """
    names = [part for part in class_block(sysfs, name).parts if _NODE_NAME.fullmatch(part)]
    return names[-1] if names else None


def parse_cmdline(text: str) -> dict[str, MmioNode]:
    """The nodes that `virtio_mmio.device=SIZE@ADDR:IRQ[:ID]` parameters declare, by the name the kernel gives them.

    Numbering goes on from the last ID that was given (vm_cmdline_set). What follows ` -- ` is not for the kernel, and
    a malformed parameter is left out, as the kernel does.
    """
    nodes: dict[str, MmioNode] = {}
    number = 0
    for word in text.split(" -- ")[0].split():
        match = _PARAMETER.fullmatch(word.replace('"', ""))
        if match is None:
            continue
        size, suffix, address, irq, given = match.groups()
        number = int(given) if given else number
        name = f"virtio-mmio.{number}"
        nodes[name] = MmioNode(name, None, _number(address), _number(size) << _SUFFIX[suffix.lower()], int(irq))
        number += 1
    return nodes


def parse_iomem(text: str) -> dict[str, tuple[int, int]]:
    """`(address, size)` by the name of each line of /proc/iomem; the first, outermost one of a name.

    The kernel shows zeros for all addresses to users without CAP_SYS_ADMIN; such lines are left out.
    """
    resources: dict[str, tuple[int, int]] = {}
    for name, start, size in iomem_lines(text):
        resources.setdefault(name, (start, size))
    return resources


def iomem_lines(text: str) -> Iterator[tuple[str, int, int]]:
    """`(name, address, size)` of each line of /proc/iomem that shows an address."""
    for line in text.splitlines():
        match = _IOMEM_LINE.fullmatch(line)
        if match is None:
            continue
        start, end = int(match[1], 16), int(match[2], 16)
        if end > start:
            yield match[3], start, end - start + 1


def parse_reg(reg: bytes, address_cells: int = 2, size_cells: int = 1) -> tuple[int, int]:
    """`(address, size)` of the first entry of a device tree's `reg`: big-endian cells of 32 bits (DTSpec 0.4, 2.3.6).

    Raises `UdevError` (EINVAL) when it is too short.
    """
    split, end = 4 * address_cells, 4 * (address_cells + size_cells)
    if len(reg) < end:
        raise UdevError(f"device tree reg {reg.hex()}: {len(reg)} bytes, and {end} are needed", errno.EINVAL)
    return int.from_bytes(reg[:split], "big"), int.from_bytes(reg[split:end], "big")


def _read_node(
    sysfs: Sysfs, name: str, parameters: dict[str, MmioNode], resources: dict[str, tuple[int, int]]
) -> MmioNode:
    path = sysfs.device(name, "platform")
    declared = parameters.get(name)
    where = (declared.address, declared.size) if declared else resources.get(name)
    address, size = where or _read_device_tree(sysfs, path)
    return MmioNode(name, sysfs.read_link(path / "driver"), address, size, declared.irq if declared else None)


def _read_device_tree(sysfs: Sysfs, path: Path) -> tuple[int | None, int | None]:
    address = size = None
    node = path / "of_node"
    if (node / "reg").exists():
        # The parent's cells rule; resolve first, since of_node is a link.
        parent = node.resolve().parent
        cells = _cells(parent / "#address-cells", 2), _cells(parent / "#size-cells", 1)
        address, size = parse_reg((node / "reg").read_bytes(), *cells)
    match = _NODE_NAME.fullmatch(path.name)
    if match and match[1]:
        # The kernel names the device by the address as the processor sees it; reg is as the parent bus sees it.
        address = int(match[1], 16)
    return address, size


def _cells(path: Path, default: int) -> int:
    return int.from_bytes(path.read_bytes(), "big") if path.exists() else default


def _proc_text(sysfs: Sysfs, name: str) -> str:
    return sysfs.read_optional(sysfs.proc / name) or ""


def _number(text: str) -> int:
    return int(text, 16 if text.lower().startswith("0x") else 10)
