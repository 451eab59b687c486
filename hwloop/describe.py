"""Everything that can be told of one device, as plain data for tables and JSON.

Capabilities and BARs come from sysfs, whoever holds the device. Features, queues and configuration are registers: for
them the device is taken for a moment; a disk that is in use is left alone, and the reason stands in their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

from hwloop import session
from hwloop.claim import USER_DRIVERS
from hwloop.config import read_config
from hwloop.device.blk_protocol import FIELD_FEATURES, BlkConfig
from hwloop.door.base import Place
from hwloop.door.pci import PciPlace
from hwloop.errors import RefusedError, Unsupported
from hwloop.inventory import Record, record_of
from hwloop.spec import SECTOR_SIZE, DeviceType, feature_names
from hwloop.transport.base import Transport
from hwloop.transport.pci_capability import (
    STRUCTURES,
    VENDOR_SPECIFIC,
    decode,
    fault_of,
)
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
class Way:
    """How the device is reached: names of the transport and of the Hal, and why these where there was a choice."""

    transport: str
    hal: str
    why: str = ""


@dataclass
class Description:
    """One device. `registers` is None when they were not read, and `why_not` then says why.

    `record`, `capabilities` and what else PCI has are there only for a PCI function of this machine.
    """

    target: str
    type: DeviceType | None
    way: Way | None
    registers: Registers | None
    why_not: str
    record: Record | None = None
    capabilities: list[dict[str, Any]] = field(default_factory=list)
    extended_capabilities: list[dict[str, Any]] = field(default_factory=list)
    bars: list[dict[str, Any]] = field(default_factory=list)
    msix_vectors: int = 0
    fault: str = ""

    def as_json(self) -> dict[str, Any]:
        """The stable form of `hwloop info --json`."""
        registers = self.registers
        return {
            "target": self.target,
            "type": self.type.label if self.type is not None else None,
            "way": None if self.way is None else asdict(self.way),
            "device": None if self.record is None else self.record.as_json(),
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
    """Describe the device that a target names. Raises what `session.find` raises, and PciError; for what is no PCI
    function of this machine, of which nothing else could be told, also what `Place.open_transport` raises, but for a
    device that is in use or has no transport."""
    sysfs = sysfs or Sysfs()
    place = session.find(target, sysfs)
    description = _describe_function(place, sysfs) if isinstance(place, PciPlace) else _describe_place(place)
    description.target = target
    return description


def _describe_function(function: PciPlace, sysfs: Sysfs) -> Description:
    record = record_of(sysfs, function.device)
    bars = parse_resource_file(function.device.resource)
    with SysfsConfigAccess(sysfs.pci_device(function.address) / "config") as access:
        config = ConfigSpace(access)
        capabilities, fault = capabilities_of(config, bars)
        extended, extended_fault = extended_capabilities_of(config)
        msix = config.read_msix() if not fault else None
    try:
        description = _describe_place(function, _why_not(function, record))
    except OSError as error:
        # What sysfs knows is worth showing, whatever keeps us from the registers.
        description = _describe_place(function, str(error))
    description.record = record
    description.capabilities, description.extended_capabilities = capabilities, extended
    description.bars = [bar_as_json(bar) for bar in bars.values()]
    description.msix_vectors = msix.table_size if msix else 0
    description.fault = fault or extended_fault
    return description


def _why_not(function: PciPlace, record: Record) -> str:
    """Why its registers are not to be read, or ""."""
    if not record.can_take:
        return record.why_not
    if function.device_type != DeviceType.Block and record.driver not in (None, *USER_DRIVERS):
        # Whether a disk is in use can be found out; a network card's users would only notice.
        return f"driver {record.driver} uses it; take it away first: hwloop unbind {function.address}"
    return ""


def _describe_place(place: Place, why_not: str = "") -> Description:
    """What the registers tell; `why_not` keeps them from being read."""
    registers, way = None, None
    if not why_not:
        try:
            with place.open_filtered() as opened:
                registers = _read_registers(opened.transport)
                way = Way(opened.transport.name, opened.hal.name, opened.why)
                device_type: DeviceType | None = opened.transport.device_type()
        except (RefusedError, Unsupported) as error:
            why_not = str(error)
    return Description(
        place.name, place.device_type if registers is None else device_type, way, registers, why_not
    )  # fmt: skip


def capabilities_of(config: ConfigSpace, bars: dict[int, BarInfo]) -> tuple[list[dict[str, Any]], str]:
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


def extended_capabilities_of(config: ConfigSpace) -> tuple[list[dict[str, Any]], str]:
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


def _read_registers(transport: Transport) -> Registers:
    features, kind = transport.read_device_features(), transport.device_type()
    queues = list(takewhile(bool, map(transport.max_queue_size, range(_QUEUES_AT_MOST))))
    config = (
        transport.read_consistent(lambda: _read_block_config(transport, features)) if kind == DeviceType.Block else {}
    )
    # Last: of a device that has gone it raises DeviceLost, and what was read is nothing that it said.
    transport.get_status()
    return Registers(features, queues, config)


def _read_block_config(transport: Transport, features: int) -> dict[str, int]:
    fields = {
        field.name: read_config(transport, field)
        for feature, group in FIELD_FEATURES.items()
        if not feature or features & feature
        for field in group
        # It must not be read before features are settled (VIRTIO 1.4, 5.2.5.1), which nobody does here.
        if field is not BlkConfig.writeback
    }
    return {"capacity_bytes": fields["capacity"] * SECTOR_SIZE, **fields}
