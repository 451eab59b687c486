"""The bus numbers of PCI-to-PCI bridges, which route configuration accesses (PCI-to-PCI Bridge 1.2, 3.2.5)."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pci.errors import BridgeError
from pci.header import HeaderType

if TYPE_CHECKING:
    from pci.config import ConfigSpace
    from pci.function import DeviceFunction
    from pci.root import PciRoot

BUS_NUMBERS_OFFSET: Final = 0x18
LAST_BUS: Final = 0xFF


@dataclass(frozen=True)
class BusNumbers:
    """`primary`: the bus that the bridge is on; `secondary`: the one right behind it; `subordinate`: the last one
    behind it. All are 0 in a bridge that nobody has set up, which passes no configuration access on."""

    primary: int
    secondary: int
    subordinate: int

    @property
    def assigned(self) -> bool:
        """Whether anything lies behind the bridge that configuration accesses reach."""
        return self.secondary != 0 or self.subordinate != 0


def read_bus_numbers(config: ConfigSpace) -> BusNumbers:
    word = config.read32(BUS_NUMBERS_OFFSET)
    return BusNumbers(word & 0xFF, word >> 8 & 0xFF, word >> 16 & 0xFF)


def write_bus_numbers(config: ConfigSpace, numbers: BusNumbers) -> None:
    """All three in one access, so that the bridge never claims a range that is half old and half new."""
    latency = config.read32(BUS_NUMBERS_OFFSET) & 0xFF00_0000
    word = numbers.primary | numbers.secondary << 8 | numbers.subordinate << 16
    config.write32(BUS_NUMBERS_OFFSET, latency | word)


def check_bus_numbers(bridge: DeviceFunction, numbers: BusNumbers, seen: Collection[int] = ()) -> None:
    """Raises BridgeError for numbers that lead back, nowhere, or to a bus that was `seen` behind another bridge: a
    walk along them need not end, or would find a function twice."""
    if numbers.secondary <= bridge.bus:
        raise BridgeError(bridge, "the bus behind the bridge has no higher number than its own", numbers.secondary)
    if numbers.subordinate < numbers.secondary:
        problem = f"its last bus comes before the first one behind it, {numbers.secondary:#x}"
        raise BridgeError(bridge, problem, numbers.subordinate)
    if numbers.secondary in seen:
        raise BridgeError(bridge, "another bridge leads to the bus behind it too", numbers.secondary)


def number_buses(root: PciRoot, bus: int = 0, domain: int = 0, last: int = LAST_BUS) -> int:
    """Give every bus behind the bridges of a bus its number, depth first, up to `last`; returns the highest in use.

    For a bus that no firmware has set up, or that is all yours: old numbers are lost. Raises BridgeError (ENOSPC) when
    there are more buses than numbers, ConfigAccessError.
    """
    bridges = [
        function for function, info in root.enumerate_bus(bus, domain) if info.header_type is HeaderType.PciPciBridge
    ]
    # All of them first: an old range of one must not answer for a new number of another.
    for bridge in bridges:
        write_bus_numbers(root.config(bridge), BusNumbers(0, 0, 0))
    highest = bus
    for bridge in bridges:
        highest = _number_behind(root, bridge, highest + 1, last)
    return highest


def _number_behind(root: PciRoot, bridge: DeviceFunction, secondary: int, last: int) -> int:
    if secondary > last:
        raise BridgeError(bridge, "no number is left for the bus behind it; the last is", last, code=errno.ENOSPC)
    config = root.config(bridge)
    # Open for all numbers while the buses behind are looked at, then for those that are there.
    write_bus_numbers(config, BusNumbers(bridge.bus, secondary, last))
    highest = number_buses(root, secondary, bridge.domain, last)
    write_bus_numbers(config, BusNumbers(bridge.bus, secondary, highest))
    return highest
