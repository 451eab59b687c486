"""Where a virtio PCI function keeps its structures: the vendor-specific capabilities (VIRTIO 1.4, 4.1.4).

Everything here comes from the device and is checked before anything is mapped, in integers that do not wrap. What
cannot be used is skipped, as the specification wants, and the reason is kept for the error and for `hwloop info`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from hwloop.transport.pci_errors import (
    BarNotAllocated,
    BarOffsetOutOfRange,
    InvalidNotifyOffMultiplier,
    Misaligned,
    MissingCommonConfig,
    MissingIsrConfig,
    MissingNotifyConfig,
    UnexpectedIoBar,
    VirtioPciError,
)
from pci import CONFIG_SIZE, BarInfo, CapabilityInfo, ConfigSpace, MemoryBar

VENDOR_SPECIFIC = 0x09
_CAP_BYTES = 16
_CAP64_BYTES = 24
_NOTIFY_CAP_BYTES = 20


class CfgType(IntEnum):
    """`cfg_type`: which structure a capability locates."""

    COMMON_CFG = 1
    NOTIFY_CFG = 2
    ISR_CFG = 3
    DEVICE_CFG = 4
    PCI_CFG = 5
    SHARED_MEMORY_CFG = 8
    VENDOR_CFG = 9


@dataclass(frozen=True)
class StructureRule:
    """The least length of a structure in bytes, and the alignment that its widest field needs."""

    length: int
    align: int


STRUCTURES = {
    # 56 bytes is the structure up to queue_device; VIRTIO 1.2 and 1.3 made it longer.
    CfgType.COMMON_CFG: StructureRule(56, 4),
    CfgType.NOTIFY_CFG: StructureRule(2, 2),
    CfgType.ISR_CFG: StructureRule(1, 1),
    CfgType.DEVICE_CFG: StructureRule(1, 4),
}

_MISSING: dict[CfgType, type[VirtioPciError]] = {
    CfgType.COMMON_CFG: MissingCommonConfig,
    CfgType.NOTIFY_CFG: MissingNotifyConfig,
    CfgType.ISR_CFG: MissingIsrConfig,
}
"""What the lack of a structure is called; one that is not here need not be there."""


@dataclass(frozen=True)
class VirtioCapability:
    """One virtio capability. `position` is its place in configuration space; `offset` and `length` are in bytes,
    inside BAR `bar`; `multiplier` is notify_off_multiplier, and 0 for other types."""

    position: int
    cfg_type: int
    bar: int
    id: int
    offset: int
    length: int
    multiplier: int = 0
    cap_len: int = _CAP_BYTES

    @property
    def type_name(self) -> str:
        """`COMMON_CFG` and so on, or `reserved 0x6`."""
        try:
            return CfgType(self.cfg_type).name
        except ValueError:
            return f"reserved {self.cfg_type:#x}"

    def __str__(self) -> str:
        return f"{self.type_name} capability at {self.position:#x}"


def virtio_capabilities(config: ConfigSpace) -> Iterator[VirtioCapability]:
    """Every vendor-specific capability of the function, decoded; nothing is judged yet."""
    for capability in config.capabilities():
        if capability.id == VENDOR_SPECIFIC:
            yield decode(config, capability)


def decode(config: ConfigSpace, capability: CapabilityInfo) -> VirtioCapability:
    """A vendor-specific capability of a virtio function, taken apart."""
    position = capability.offset
    # What a capability claims behind the end of the capability area belongs to something else.
    cap_len = min(capability.private_header & 0xFF, CONFIG_SIZE - position)
    cfg_type = capability.private_header >> 8
    if cap_len < _CAP_BYTES or cfg_type == CfgType.VENDOR_CFG:
        # Too short to say where anything is, or in a format that only its vendor knows.
        return VirtioCapability(position, cfg_type, 0, 0, 0, 0, cap_len=cap_len)
    offset, length = config.read32(position + 8), config.read32(position + 12)
    if cfg_type == CfgType.SHARED_MEMORY_CFG and cap_len >= _CAP64_BYTES:
        offset |= config.read32(position + 16) << 32
        length |= config.read32(position + 20) << 32
    multiplier = 0
    if cfg_type == CfgType.NOTIFY_CFG and cap_len >= _NOTIFY_CAP_BYTES:
        multiplier = config.read32(position + 16)
    return VirtioCapability(
        position, cfg_type, config.read8(position + 4), config.read8(position + 5), offset, length, multiplier, cap_len
    )


def fault_of(capability: VirtioCapability, bars: Mapping[int, BarInfo]) -> str:
    """Why the structure cannot be used, as the end of a sentence, or "" when it can."""
    fault = _find_fault(capability, bars)
    return fault.words if fault else ""


@dataclass(frozen=True)
class _Fault:
    """What is wrong with a capability, and the error that it is where the structure is needed."""

    kind: type[VirtioPciError]
    words: str


def _find_fault(capability: VirtioCapability, bars: Mapping[int, BarInfo]) -> _Fault | None:
    rule = STRUCTURES.get(CfgType(capability.cfg_type)) if capability.cfg_type in STRUCTURES else None
    if rule is None:
        return _Fault(VirtioPciError, "is of a type that the driver has no use for")
    if capability.cap_len < (_NOTIFY_CAP_BYTES if capability.cfg_type == CfgType.NOTIFY_CFG else _CAP_BYTES):
        kind = _MISSING.get(CfgType(capability.cfg_type), VirtioPciError)
        return _Fault(kind, f"is only {capability.cap_len} bytes long")
    return _bar_fault(capability, bars) or _place_fault(capability, rule, bars) or _multiplier_fault(capability)


def _bar_fault(capability: VirtioCapability, bars: Mapping[int, BarInfo]) -> _Fault | None:
    bar = bars.get(capability.bar)
    if bar is None:
        return _Fault(BarNotAllocated, f"names BAR {capability.bar}, which the function does not have")
    if not isinstance(bar, MemoryBar):
        return _Fault(UnexpectedIoBar, f"names BAR {capability.bar}, which is an I/O BAR")
    if not bar.address:
        return _Fault(BarNotAllocated, f"names BAR {capability.bar}, which has no address")
    return None


def _place_fault(capability: VirtioCapability, rule: StructureRule, bars: Mapping[int, BarInfo]) -> _Fault | None:
    end, size = capability.offset + capability.length, bars[capability.bar].size
    if capability.length < rule.length:
        return _Fault(BarOffsetOutOfRange, f"has length {capability.length}, less than {rule.length}")
    if capability.offset % rule.align:
        return _Fault(Misaligned, f"has offset {capability.offset:#x}, which is not a multiple of {rule.align}")
    if end > size:
        return _Fault(BarOffsetOutOfRange, f"ends at {end:#x}, behind the end of BAR {capability.bar} ({size:#x})")
    return None


def _multiplier_fault(capability: VirtioCapability) -> _Fault | None:
    multiplier = capability.multiplier
    if multiplier and (multiplier % 2 or multiplier & (multiplier - 1)):
        words = f"has notify_off_multiplier {multiplier}, which is not 0 or an even power of two"
        return _Fault(InvalidNotifyOffMultiplier, words)
    return None


def choose(
    capabilities: Iterable[VirtioCapability], bars: Mapping[int, BarInfo], cfg_type: CfgType
) -> VirtioCapability | None:
    """The first usable capability of a type (VIRTIO 1.4, 4.1.4.1), or None when the function has none of that type.

    Raises VirtioPciError, saying why, when it has some and none can be used: the kind of what is wrong with the first.
    """
    faults = []
    for capability in capabilities:
        if capability.cfg_type != cfg_type:
            continue
        fault = _find_fault(capability, bars)
        if fault is None:
            return capability
        faults.append((fault.kind, f"the {capability} {fault.words}"))
    if faults:
        raise faults[0][0]("; ".join(sentence for _, sentence in faults), section="4.1.4")
    return None


def require(
    capabilities: Iterable[VirtioCapability], bars: Mapping[int, BarInfo], cfg_type: CfgType
) -> VirtioCapability:
    """As `choose`, for a structure that every device must have. Raises VirtioPciError."""
    found = choose(capabilities, bars, cfg_type)
    if found is None:
        raise _MISSING[cfg_type](f"the function has no {cfg_type.name} capability", section="4.1.4")
    return found
