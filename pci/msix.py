"""MSI-X: how many interrupt vectors a function has, and in which BARs their tables are (PCI 3.0, 6.8.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pci.access import CONFIG_SIZE
from pci.bar import BAR_LIMIT
from pci.capability import CapabilityId, CapabilityInfo
from pci.errors import CapabilityError

if TYPE_CHECKING:
    from pci.config import ConfigSpace

_TABLE: Final = 4
_PENDING: Final = 8
_LENGTH: Final = 12

_SIZE_MASK: Final = 0x7FF
_FUNCTION_MASK: Final = 1 << 14
_ENABLE: Final = 1 << 15
_BAR_MASK: Final = 0x7


@dataclass(frozen=True)
class MsixInfo:
    """`table_size` vectors (1 to 2048), 16 bytes each, at `table_offset` of BAR `table_bar`; a pending bit each at
    `pba_offset` of BAR `pba_bar`. `enabled`: MSI-X is on, and INTx is off. `masked`: no vector may fire now.
    `offset` is the place of the capability; offsets are in bytes."""

    offset: int
    table_size: int
    table_bar: int
    table_offset: int
    pba_bar: int
    pba_offset: int
    enabled: bool
    masked: bool

    @classmethod
    def parse(cls, capability: CapabilityInfo, table: int, pending: int) -> MsixInfo:
        """From the capability and the two words behind it. Raises CapabilityError for a BAR that cannot be."""
        for what, word in (("table", table), ("pending bit array", pending)):
            if word & _BAR_MASK >= BAR_LIMIT:
                subject = f"MSI-X capability at {capability.offset:#x}"
                raise CapabilityError(subject, f"its {what} is in a BAR that no function has", word & _BAR_MASK)
        control = capability.private_header
        return cls(
            offset=capability.offset,
            table_size=(control & _SIZE_MASK) + 1,
            table_bar=table & _BAR_MASK,
            table_offset=table & ~_BAR_MASK,
            pba_bar=pending & _BAR_MASK,
            pba_offset=pending & ~_BAR_MASK,
            enabled=bool(control & _ENABLE),
            masked=bool(control & _FUNCTION_MASK),
        )


def read_msix(config: ConfigSpace) -> MsixInfo | None:
    """The function's MSI-X capability, or None. Raises CapabilityError for one that is broken, ConfigAccessError."""
    found = config.find_capability(CapabilityId.MSIX)
    if found is None:
        return None
    if found.offset + _LENGTH > CONFIG_SIZE:
        raise CapabilityError(config, "the MSI-X capability does not fit in front of 0x100, at offset", found.offset)
    return MsixInfo.parse(found, config.read32(found.offset + _TABLE), config.read32(found.offset + _PENDING))
