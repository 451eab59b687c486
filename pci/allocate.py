"""Giving addresses to the BARs of functions, and windows to bridges, on a bus that no firmware has set up.

The whole layout is made before anything is written: what does not fit raises, and leaves every BAR as it was. Larger
alignments come first, so that what is naturally aligned leaves no gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from pci.bar import BarInfo, IoBar, MemoryBarType
from pci.bridge import read_bus_numbers
from pci.bridge_window import GRANULARITY, passes_64_bits, write_window
from pci.errors import AllocationError, BridgeError
from pci.header import Command, HeaderType
from pci.window import AddressWindow, AddressWindows, Space

if TYPE_CHECKING:
    from pci.function import DeviceFunction
    from pci.root import PciRoot

_DECODING: Final = Command.IO_SPACE | Command.MEMORY_SPACE
_NOWHERE: Final = -1
"""The bus behind a bridge that has no number for it."""

Bars = dict[int, BarInfo]


def allocate_bars(root: PciRoot, function: DeviceFunction, windows: AddressWindows) -> Bars:
    """Place the BARs of one function, turn on the decoding of what was placed, and return them by index.

    For a bridge these are its own BARs; what is behind it is left alone. Bus mastering stays as it is. Raises
    AllocationError, naming the BAR and its size, when the windows have no room or the type cannot be served: then
    nothing was written and nothing taken. Raises InvalidBarType, ConfigAccessError.
    """
    bus = _Bus([_Function(function, root.bars(function))], above_4g=windows.prefetchable is not None)
    _place(bus, windows)
    _write(root, bus)
    return bus.functions[0].placed


def allocate_bus(
    root: PciRoot, bus: int, windows: AddressWindows, domain: int = 0, reserve: int = 0
) -> dict[DeviceFunction, Bars]:
    """Place the BARs of every function on a bus and behind its bridges, program the bridges' windows, and turn
    decoding on; bridges also become bus masters, without which nothing behind them can do DMA.

    The buses must have their numbers (`number_buses`). The memory window of each bridge has at least `reserve` bytes,
    for what is plugged in later. Raises as `allocate_bars`, and BridgeError for bus numbers that lead nowhere.
    """
    found = _read_tree(root, bus, domain, windows.prefetchable is not None)
    _place(found, windows, reserve)
    _write(root, found)
    return {function.function: function.placed for function in found.every_function()}


# --- What there is ----------------------------------------------------------------------------------------------------


@dataclass
class _Function:
    """A function, its BARs as they were found, and as they are to be."""

    function: DeviceFunction
    bars: Bars
    placed: Bars = field(default_factory=dict)


@dataclass
class _Bus:
    """A bus: the functions there, and the buses behind its bridges. `above_4g`: 64-bit memory reaches it."""

    functions: list[_Function]
    above_4g: bool
    bridge: DeviceFunction | None = None
    behind: list[_Bus] = field(default_factory=list)
    windows: dict[Space, AddressWindow] = field(default_factory=dict)

    def every_bus(self) -> Iterator[_Bus]:
        yield self
        for bus in self.behind:
            yield from bus.every_bus()

    def every_function(self) -> Iterator[_Function]:
        for bus in self.every_bus():
            yield from bus.functions

    def space_of(self, bar: BarInfo) -> Space:
        """A bridge passes on 64-bit addresses of prefetchable memory only."""
        if isinstance(bar, IoBar):
            return Space.IO
        wide = bar.address_type is MemoryBarType.Width64 and (bar.prefetchable or self.bridge is None)
        return Space.PREFETCHABLE if wide and self.above_4g else Space.MEMORY


def _read_tree(root: PciRoot, number: int, domain: int, above_4g: bool) -> _Bus:
    """The bus with all that is behind it; every function is asked for its BARs."""
    top = _Bus([], above_4g)
    buses = {number: top}
    for function, info in root.enumerate_bus(number, domain, recursive=True):
        here = buses.get(function.bus)
        if here is None:
            raise BridgeError(function, "the bridge in front of it changed its bus numbers meanwhile")
        here.functions.append(_Function(function, root.bars(function)))
        if info.header_type is HeaderType.PciPciBridge:
            config = root.config(function)
            behind = _Bus([], here.above_4g and passes_64_bits(config), function)
            here.behind.append(behind)
            buses[read_bus_numbers(config).secondary or _NOWHERE] = behind
    return top


# --- Where it goes ----------------------------------------------------------------------------------------------------


@dataclass
class _Need:
    """Bytes that are wanted in one space: for a BAR, or for all that is behind a bridge."""

    size: int
    alignment: int
    subject: str
    bar: tuple[_Function, BarInfo] | None = None
    behind: _Bus | None = None


_SCRATCH: Final = 1 << 62
"""Aligned to anything that is asked for, and with as much room behind it: what a bus needs is tried out there."""


def _place(bus: _Bus, windows: AddressWindows, reserve: int = 0) -> None:
    for function in bus.every_function():
        _refuse_unplaceable(function)
    with ExitStack() as stack:
        for window in windows.present.values():
            stack.enter_context(window.all_or_nothing())
        for space, window in windows.present.items():
            _lay_out(bus, space, window, reserve)


def _refuse_unplaceable(function: _Function) -> None:
    for bar in function.bars.values():
        if not isinstance(bar, IoBar) and bar.address_type is MemoryBarType.Below1MiB:
            problem = f"its {bar.size:#x} bytes must be below 1 MiB, where no BARs are placed; type"
            raise AllocationError(f"{function.function}, BAR {bar.index}", problem, bar.address_type)


def _lay_out(bus: _Bus, space: Space, window: AddressWindow, reserve: int) -> None:
    for need in _needs(bus, space, reserve):
        address = window.take(need.size, need.alignment, need.subject)
        if need.bar:
            function, bar = need.bar
            function.placed[bar.index] = replace(bar, address=address)
        if need.behind:
            need.behind.windows[space] = AddressWindow(address, need.size)
            _lay_out(need.behind, space, need.behind.windows[space], reserve)


def _needs(bus: _Bus, space: Space, reserve: int) -> list[_Need]:
    """What a bus needs in one space, in the order to place it."""
    needs = [
        _Need(bar.size, bar.size, f"{function.function}, BAR {bar.index} of {bar.size:#x} bytes", (function, bar))
        for function in bus.functions
        for bar in function.bars.values()
        if bus.space_of(bar) is space
    ]
    for behind in bus.behind:
        if need := _need_behind(behind, space, reserve):
            needs.append(need)
    return sorted(needs, key=lambda need: (-need.alignment, -need.size))


def _need_behind(bus: _Bus, space: Space, reserve: int) -> _Need | None:
    """One window for all that is behind a bridge; None when nothing is."""
    needs = _needs(bus, space, reserve)
    grain = GRANULARITY[space]
    end = max(_try_out(needs), reserve if space is Space.MEMORY else 0)
    if not end:
        return None
    size, alignment = -(-end // grain) * grain, max([grain, *(need.alignment for need in needs)])
    return _Need(size, alignment, f"{bus.bridge}, {space.value} window of {size:#x} bytes", behind=bus)


def _try_out(needs: Iterable[_Need]) -> int:
    """How many bytes they take, from an address that is aligned for all of them."""
    scratch = AddressWindow(_SCRATCH, _SCRATCH)
    ends = [scratch.take(need.size, need.alignment, need.subject) + need.size for need in needs]
    return max(ends, default=_SCRATCH) - _SCRATCH


# --- Writing it -------------------------------------------------------------------------------------------------------


def _write(root: PciRoot, bus: _Bus) -> None:
    # Nobody decodes until everybody is in place: an old address of one may be the new address of another.
    for function in bus.every_function():
        root.config(function.function).set_command_bits(Command(0), clear=_DECODING)
    for function in bus.every_function():
        for bar in function.placed.values():
            _write_bar(root, function.function, bar)
    for behind in bus.every_bus():
        _write_windows(root, behind)
    for function in bus.every_function():
        root.config(function.function).set_command_bits(_decoding_of(function.placed), clear=Command(0))
    for behind in bus.every_bus():
        _open_bridge(root, behind)


def _write_bar(root: PciRoot, function: DeviceFunction, bar: BarInfo) -> None:
    if isinstance(bar, IoBar) or bar.address_type is not MemoryBarType.Width64:
        root.set_bar_32(function, bar.index, bar.address)
    else:
        root.set_bar_64(function, bar.index, bar.address)


def _decoding_of(bars: Bars) -> Command:
    io = any(isinstance(bar, IoBar) for bar in bars.values())
    memory = any(not isinstance(bar, IoBar) for bar in bars.values())
    return (Command.IO_SPACE if io else Command(0)) | (Command.MEMORY_SPACE if memory else Command(0))


def _write_windows(root: PciRoot, bus: _Bus) -> None:
    if bus.bridge:
        for space in Space:
            write_window(root.config(bus.bridge), space, bus.windows.get(space))


def _open_bridge(root: PciRoot, bus: _Bus) -> None:
    if bus.bridge:
        io = Command.IO_SPACE if Space.IO in bus.windows else Command(0)
        root.config(bus.bridge).set_command_bits(io | Command.MEMORY_SPACE | Command.BUS_MASTER, clear=Command(0))
