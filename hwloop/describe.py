"""Everything that can be told of one device, as plain data for tables and JSON.

Capabilities and BARs come from sysfs, whoever holds the device. Features, queues and configuration are registers: for
them the device is taken for a moment; a disk that is in use is left alone, and the reason stands in their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hwloop import session
from hwloop.claim import VFIO_DRIVER
from hwloop.config import read_config
from hwloop.device.blk_protocol import FIELD_FEATURES
from hwloop.door.pci import PciPlace
from hwloop.inventory import Record, record_of
from hwloop.spec import SECTOR_SIZE, DeviceType, feature_names
from hwloop.transport.pci_capability import (
    STRUCTURES,
    VENDOR_SPECIFIC,
    decode,
    fault_of,
)
from hwloop.transport.pci_modern import PciTransport
from pci import BarInfo, CapabilityInfo, ConfigSpace, IoBar, PciError, SysfsConfigAccess, parse_resource_file
from udev import Sysfs

_QUEUES_AT_MOST = 1024


@dataclass
class Registers:
    """What only the device itself can tell. `config` has the fields that the offered features say exist."""

    features: int
    queues: list[int]
    config: dict[str, int] = field(default_factory=dict)


@dataclass
class Description:
    """One device. `registers` is None when they were not read, and `why_not` then says why."""

    record: Record
    type: DeviceType
    capabilities: list[dict[str, Any]]
    extended_capabilities: list[dict[str, Any]]
    bars: list[dict[str, Any]]
    msix_vectors: int
    registers: Registers | None
    why_not: str
    fault: str = ""

    def as_json(self) -> dict[str, Any]:
        """The stable form of `hwloop info --json`."""
        registers = self.registers
        return {
            "device": self.record.as_json(),
            "capabilities": self.capabilities,
            "extended_capabilities": self.extended_capabilities,
            "bars": self.bars,
            "msix_vectors": self.msix_vectors,
            "registers_read": registers is not None,
            "why_not": self.why_not or None,
            "features": None
            if registers is None
            else {"offered": f"{registers.features:#x}", "names": feature_names(registers.features, self.type)},
            "queues": None
            if registers is None
            else [{"index": index, "max_size": size} for index, size in enumerate(registers.queues)],
            "config": None if registers is None else registers.config,
        }


def describe(target: str, sysfs: Sysfs | None = None) -> Description:
    """Describe the device that a target names. Raises what `session.find` raises, and PciError."""
    sysfs = sysfs or Sysfs()
    function = session.find(target, sysfs)
    assert isinstance(function, PciPlace)
    record = record_of(sysfs, function.device)
    bars = parse_resource_file(function.device.resource)
    with SysfsConfigAccess(sysfs.pci_device(function.address) / "config") as access:
        config = ConfigSpace(access)
        capabilities, fault = _capabilities(config, bars)
        extended, extended_fault = _extended(config)
        msix = config.read_msix() if not fault else None
    registers, why_not = _registers(function, record, sysfs)
    return Description(
        record, function.device_type, capabilities, extended, [bar_as_json(bar) for bar in bars.values()],
        msix.table_size if msix else 0, registers, why_not, fault or extended_fault,
    )  # fmt: skip


def _capabilities(config: ConfigSpace, bars: dict[int, BarInfo]) -> tuple[list[dict[str, Any]], str]:
    """The standard capabilities as far as their list goes, and what is wrong with it."""
    return _until_fault(_capability_as_json(config, capability, bars) for capability in config.capabilities())


def _until_fault(entries: Iterator[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    found: list[dict[str, Any]] = []
    try:
        found.extend(entries)
    except PciError as error:
        return found, str(error)
    return found, ""


def _capability_as_json(config: ConfigSpace, capability: CapabilityInfo, bars: dict[int, BarInfo]) -> dict[str, Any]:
    entry: dict[str, Any] = {"offset": capability.offset, "id": capability.id, "name": capability.name}
    if capability.id != VENDOR_SPECIFIC:
        return entry
    virtio = decode(config, capability)
    entry["virtio"] = {
        "structure": virtio.type_name,
        "bar": virtio.bar,
        "offset": virtio.offset,
        "length": virtio.length,
        "notify_off_multiplier": virtio.multiplier,
        "fault": (fault_of(virtio, bars) or None) if virtio.cfg_type in STRUCTURES else None,
    }
    return entry


def _extended(config: ConfigSpace) -> tuple[list[dict[str, Any]], str]:
    return _until_fault(
        {"offset": capability.offset, "id": capability.id, "version": capability.version, "name": capability.name}
        for capability in config.extended_capabilities()
    )


def bar_as_json(bar: BarInfo) -> dict[str, Any]:
    """One BAR: `kind` is `memory` or `io`; `address` and `size` in bytes."""
    if isinstance(bar, IoBar):
        return {"index": bar.index, "kind": "io", "address": bar.address, "size": bar.size}
    return {
        "index": bar.index,
        "kind": "memory",
        "address": bar.address,
        "size": bar.size,
        "type": bar.address_type.name,
        "prefetchable": bar.prefetchable,
    }


def _registers(function: PciPlace, record: Record, sysfs: Sysfs) -> tuple[Registers | None, str]:
    if not record.can_take:
        return None, record.why_not
    if function.device_type != DeviceType.Block and record.driver not in (None, VFIO_DRIVER):
        # Whether a disk is in use can be found out; a network card's users would only notice.
        return None, f"driver {record.driver} uses it; take it away first: hwloop unbind {function.address}"
    try:
        opened = function.open_transport()
    except OSError as error:
        return None, str(error)
    with opened.resources:
        assert isinstance(opened.transport, PciTransport)
        return _read_registers(opened.transport, function.device_type), ""


def _read_registers(transport: PciTransport, kind: DeviceType) -> Registers:
    features = transport.read_device_features()
    count = min(transport.read_num_queues(), _QUEUES_AT_MOST)
    queues = [transport.max_queue_size(index) for index in range(count)]
    config = (
        transport.read_consistent(lambda: _read_block_config(transport, features)) if kind == DeviceType.Block else {}
    )
    return Registers(features, queues, config)


def _read_block_config(transport: PciTransport, features: int) -> dict[str, int]:
    fields = {
        field.name: read_config(transport, field)
        for feature, group in FIELD_FEATURES.items()
        if not feature or features & feature
        for field in group
    }
    return {"capacity_bytes": fields["capacity"] * SECTOR_SIZE, **fields}
