from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pci import (
    AddressWindow,
    AddressWindows,
    AllocationError,
    BarInfo,
    BridgeError,
    BusNumbers,
    BytesConfigAccess,
    Cam,
    CamAccess,
    Command,
    ConfigAccessError,
    DeviceFunction,
    FakeBridge,
    FakeBusAccess,
    FakeCam,
    InvalidBarType,
    IoBar,
    MemoryBar,
    MemoryBarType,
    PciRoot,
    Space,
    allocate_bars,
    allocate_bus,
    number_buses,
    read_windows,
    write_bus_numbers,
)
from tests.unit.pci.bus_tree import Chain, Place, function_of, memory, trees

F = DeviceFunction.parse
BLK = F("00:05.0")


def windows(memory_size: int = 0x1000_0000, *, high: bool = True, io: bool = True) -> AddressWindows:
    return AddressWindows(
        AddressWindow(0xE000_0000, memory_size),
        AddressWindow(0x80_0000_0000, 0x1000_0000) if high else None,
        AddressWindow(0xC000, 0x4000) if io else None,
    )


def root_of(*bars: BarInfo) -> tuple[PciRoot, BytesConfigAccess]:
    fake = function_of(*bars)
    return PciRoot(FakeBusAccess({(5, 0): fake})), fake


# --- One function -----------------------------------------------------------------------------------------------------


def test_each_kind_of_bar_gets_an_address_from_its_window() -> None:
    root, _ = root_of(IoBar(0, 0, 128), memory(1, 0x1000), memory(4, 0x4000, wide=True, prefetchable=True))

    placed = allocate_bars(root, BLK, windows())

    assert {index: bar.address for index, bar in placed.items()} == {0: 0xC000, 1: 0xE000_0000, 4: 0x80_0000_0000}
    assert root.bars(BLK) == placed


def test_the_largest_bar_comes_first_so_that_alignment_leaves_no_gap() -> None:
    root, _ = root_of(memory(0, 0x1000), memory(1, 0x10_0000), memory(2, 0x4000))

    placed = allocate_bars(root, BLK, windows(memory_size=0x10_5000))

    assert [placed[index].address for index in (1, 2, 0)] == [0xE000_0000, 0xE010_0000, 0xE010_4000]


def test_a_64_bit_bar_is_below_4_gib_without_a_64_bit_window() -> None:
    root, fake = root_of(memory(4, 0x4000, wide=True, prefetchable=True, address=0x12_0000_0000))

    assert allocate_bars(root, BLK, windows(high=False))[4].address == 0xE000_0000
    assert fake.data[0x20:0x28].hex() == "0c0000e000000000"


def test_a_prefetchable_bar_of_32_bits_stays_below_4_gib() -> None:
    root, _ = root_of(memory(0, 0x4000, prefetchable=True))

    assert allocate_bars(root, BLK, windows())[0].address == 0xE000_0000


def test_functions_one_after_the_other_get_different_addresses_from_the_same_windows() -> None:
    root = PciRoot(FakeBusAccess({(5, 0): function_of(memory(0, 0x1000)), (6, 0): function_of(memory(0, 0x1000))}))
    shared = windows()

    assert allocate_bars(root, BLK, shared)[0].address == 0xE000_0000
    assert allocate_bars(root, F("00:06.0"), shared)[0].address == 0xE000_1000


@pytest.mark.parametrize(
    ("bars", "on"),
    [
        ([memory(0, 0x1000)], Command.MEMORY_SPACE),
        ([IoBar(0, 0, 32)], Command.IO_SPACE),
        ([IoBar(0, 0, 32), memory(1, 0x1000)], Command.IO_SPACE | Command.MEMORY_SPACE),
        ([], Command(0)),
    ],
)
@pytest.mark.parametrize("kept", [Command(0), Command.BUS_MASTER | Command.INTERRUPT_DISABLE])
def test_decoding_is_on_for_what_was_placed_and_the_rest_of_the_command_is_kept(
    bars: list[BarInfo], on: Command, kept: Command
) -> None:
    root, _ = root_of(*bars)
    root.set_command(BLK, kept)

    allocate_bars(root, BLK, windows())

    assert root.get_status_command(BLK)[1] == on | kept


def test_decoding_is_off_while_a_bar_is_written() -> None:
    root, fake = root_of(IoBar(0, 0xC000, 32), memory(1, 0x1000), memory(4, 0x4000, wide=True, prefetchable=True))
    root.set_command(BLK, Command.MEMORY_SPACE | Command.IO_SPACE)
    fake.accesses.clear()

    allocate_bars(root, BLK, windows())

    decoding = 3
    for access in fake.writes:
        if access.offset == 0x04:
            decoding = access.value & 3
        else:
            assert decoding == 0, access
    assert decoding == 3


def test_without_an_io_window_io_bars_stay_without_an_address_and_io_decoding_off() -> None:
    root, _ = root_of(IoBar(0, 0, 128), memory(1, 0x1000))
    root.set_command(BLK, Command.IO_SPACE)

    placed = allocate_bars(root, BLK, windows(io=False))

    assert list(placed) == [1]
    assert root.bars(BLK)[0].address == 0
    assert root.get_status_command(BLK)[1] == Command.MEMORY_SPACE


@pytest.mark.parametrize(
    ("bar", "problem"),
    [
        (memory(1, 0x2000_0000), r"00:05\.0, BAR 1 of 0x20000000 bytes: no aligned 0x20000000 bytes"),
        (memory(2, 1 << 32, wide=True, prefetchable=True), r"BAR 2 of 0x100000000 bytes"),
        (IoBar(3, 0, 0x8000), r"BAR 3 of 0x8000 bytes: .*\(0xc000-0xffff\)"),
    ],
)
def test_a_bar_without_room_is_named_with_its_size_and_nothing_is_written_or_taken(bar: BarInfo, problem: str) -> None:
    root, fake = root_of(memory(0, 0x1000, address=0xD000_0000), bar)
    given_windows = windows()
    before = bytes(fake.data)

    with pytest.raises(AllocationError, match=problem) as caught:
        allocate_bars(root, BLK, given_windows)
    assert caught.value.errno == errno.ENOSPC
    assert bytes(fake.data) == before
    assert all(window.free == window.size for window in given_windows.present.values())


def test_a_bar_that_must_be_below_1_mib_is_refused() -> None:
    root, fake = root_of(MemoryBar(2, MemoryBarType.Below1MiB, False, 0, 0x1000))
    before = bytes(fake.data)

    with pytest.raises(AllocationError, match=r"BAR 2: its 0x1000 bytes must be below 1 MiB"):
        allocate_bars(root, BLK, windows())
    assert bytes(fake.data) == before


def test_a_bar_of_the_reserved_type_is_an_error_before_anything_is_written() -> None:
    root, fake = root_of()
    fake.poke(0x10, b"\x06")

    with pytest.raises(InvalidBarType):
        allocate_bars(root, BLK, windows())
    assert fake.writes == []


def test_a_function_that_is_not_there_is_an_error() -> None:
    root, _ = root_of()

    with pytest.raises(ConfigAccessError) as caught:
        allocate_bars(root, F("00:06.0"), windows())
    assert caught.value.errno == errno.ENODEV


# --- A whole bus ------------------------------------------------------------------------------------------------------


def two_bridges(*bars: BarInfo, **inner: bool) -> PciRoot:
    """00:01.0 leads to 01:00.0, that to 02:00.0, which has the BARs."""
    behind = FakeBridge({(0, 0): function_of(*bars)}, **inner)  # type: ignore[arg-type]
    root = PciRoot(FakeBusAccess({(1, 0): FakeBridge({(0, 0): behind})}))
    number_buses(root)
    return root


BEHIND = F("02:00.0")


def test_windows_of_the_bridges_pass_on_what_is_behind_them() -> None:
    root = two_bridges(IoBar(0, 0, 128), memory(1, 0x40_0000), memory(4, 0x4000, wide=True, prefetchable=True))

    placed = allocate_bus(root, 0, windows())

    assert {index: bar.address for index, bar in placed[BEHIND].items()} == {
        0: 0xC000,
        1: 0xE000_0000,
        4: 0x80_0000_0000,
    }
    for bridge in ("00:01.0", "01:00.0"):
        assert {space: str(window) for space, window in read_windows(root.config(F(bridge))).items()} == {
            Space.MEMORY: "0xe0000000-0xe03fffff",
            Space.PREFETCHABLE: "0x8000000000-0x80000fffff",
            Space.IO: "0xc000-0xcfff",
        }


def test_bridges_become_bus_masters_and_functions_do_not() -> None:
    root = two_bridges(memory(0, 0x1000))

    allocate_bus(root, 0, windows())

    commands = [root.get_status_command(F(text))[1] for text in ("00:01.0", "01:00.0", "02:00.0")]
    assert commands == [Command.MEMORY_SPACE | Command.BUS_MASTER] * 2 + [Command.MEMORY_SPACE]


def test_64_bit_memory_that_is_not_prefetchable_goes_below_4_gib_behind_a_bridge_only() -> None:
    bar = memory(0, 0x4000, wide=True)
    on_bus_0, _ = root_of(bar)

    assert allocate_bus(two_bridges(bar), 0, windows())[BEHIND][0].address == 0xE000_0000
    assert allocate_bus(on_bus_0, 0, windows())[BLK][0].address == 0x80_0000_0000


def test_64_bit_memory_goes_below_4_gib_behind_a_bridge_that_passes_on_32_bits() -> None:
    root = two_bridges(memory(0, 0x4000, wide=True, prefetchable=True), prefetchable=False)

    assert allocate_bus(root, 0, windows())[BEHIND][0].address == 0xE000_0000


def test_bars_of_a_bridge_are_placed_too() -> None:
    bridge = FakeBridge({})
    bridge.declare_bar(memory(0, 0x1000))
    root = PciRoot(FakeBusAccess({(1, 0): bridge}))

    assert allocate_bus(root, 0, windows())[F("00:01.0")][0].address == 0xE000_0000


def test_windows_with_nothing_behind_them_are_closed() -> None:
    root = two_bridges()

    allocate_bus(root, 0, windows())

    assert read_windows(root.config(F("00:01.0"))) == {}


def test_a_reserve_leaves_room_for_what_is_plugged_in_later() -> None:
    slot: dict[Place, BytesConfigAccess] = {}
    port = FakeBridge(slot)
    root = PciRoot(FakeBusAccess({(1, 0): port}))
    number_buses(root)
    allocate_bus(root, 0, windows(), reserve=0x12_3456)
    port.behind[(0, 0)] = function_of(memory(1, 0x1000))

    found = read_windows(root.config(F("00:01.0")))
    assert found[Space.MEMORY].size == 0x20_0000
    placed = allocate_bars(root, F("01:00.0"), AddressWindows(found[Space.MEMORY]))

    assert placed[1].address == 0xE000_0000


def test_a_window_without_room_is_named_with_its_size_and_nothing_is_written() -> None:
    root = two_bridges(memory(0, 0x80_0000))
    before = root.config(F("00:01.0")).read_raw(), root.config(BEHIND).read_raw()
    given_windows = windows(memory_size=0x40_0000)

    with pytest.raises(AllocationError, match=r"00:01\.0, memory window of 0x800000 bytes: no aligned 0x800000"):
        allocate_bus(root, 0, given_windows)
    assert (root.config(F("00:01.0")).read_raw(), root.config(BEHIND).read_raw()) == before
    assert given_windows.memory.free == 0x40_0000


def test_an_io_bar_behind_a_bridge_without_io_is_an_error_and_nothing_decodes() -> None:
    root = PciRoot(FakeBusAccess({(1, 0): FakeBridge({(0, 0): function_of(IoBar(0, 0, 32))}, io=0)}))
    number_buses(root)

    with pytest.raises(AllocationError, match=r"00:01\.0: the bridge did not take its I/O window"):
        allocate_bus(root, 0, windows())
    assert root.get_status_command(F("01:00.0"))[1] == Command(0)


def test_bus_numbers_that_lead_back_are_an_error() -> None:
    root = two_bridges(memory(0, 0x1000))
    write_bus_numbers(root.config(F("01:00.0")), BusNumbers(1, 1, 5))

    with pytest.raises(BridgeError, match=r"01:00\.0"):
        allocate_bus(root, 0, windows())


def test_a_bus_without_numbers_has_only_its_own_functions_placed() -> None:
    root = PciRoot(FakeBusAccess({(1, 0): FakeBridge({(0, 0): function_of(memory(0, 0x1000))})}))

    assert list(allocate_bus(root, 0, windows())) == [F("00:01.0")]


def test_the_longest_chain_of_bridges_is_laid_out() -> None:
    root = PciRoot(Chain(255, function_of(memory(0, 0x1000))))
    number_buses(root)

    assert allocate_bus(root, 0, windows())[F("ff:00.0")][0].address == 0xE000_0000


def spans_of(functions: dict[DeviceFunction, dict[int, BarInfo]], io: bool) -> list[tuple[int, int]]:
    bars = [bar for placed in functions.values() for bar in placed.values() if isinstance(bar, IoBar) is io]
    return sorted((bar.address, bar.address + bar.size) for bar in bars)


def covers(root: PciRoot, bridge: DeviceFunction, bar: BarInfo) -> bool:
    """Whether a bridge passes accesses to a BAR on."""
    found = read_windows(root.config(bridge))
    spaces = [Space.IO] if isinstance(bar, IoBar) else [Space.MEMORY]
    if isinstance(bar, MemoryBar) and bar.prefetchable and bar.address_type is MemoryBarType.Width64:
        spaces.append(Space.PREFETCHABLE)
    open_windows = [found[space] for space in spaces if space in found]
    return any(window.base <= bar.address and bar.address + bar.size <= window.end for window in open_windows)


def bridges_above(root: PciRoot, function: DeviceFunction) -> list[DeviceFunction]:
    return [
        DeviceFunction(bridge.bus, bridge.device, bridge.function)
        for bridge, info in root.enumerate_bus(0, recursive=True)
        if info.header_type == 1
        and (word := root.config(bridge).read32(0x18)) >> 8 & 0xFF <= function.bus <= word >> 16 & 0xFF
    ]


@given(trees, st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_tree_gets_aligned_bars_apart_inside_the_windows_that_their_bridges_pass_on(
    tree: dict[Place, BytesConfigAccess], high: bool, by_ecam: bool
) -> None:
    fakes = FakeBusAccess(tree)
    root = PciRoot(CamAccess(FakeCam(fakes, Cam.Ecam), Cam.Ecam) if by_ecam else fakes)
    given_windows = AddressWindows(
        AddressWindow(0x4000_0000, 0xB000_0000),
        AddressWindow(0x80_0000_1000, 1 << 38) if high else None,
        AddressWindow(0x1000, 0xFF000),
    )
    number_buses(root)

    placed = allocate_bus(root, 0, given_windows)

    for function, bars in placed.items():
        assert root.bars(function) == bars
        for bar in bars.values():
            assert bar.address % bar.size == 0
            assert any(
                window.base <= bar.address and bar.address + bar.size <= window.end
                for window in given_windows.present.values()
            )
            assert all(covers(root, bridge, bar) for bridge in bridges_above(root, function))
    for io in (False, True):
        assert all(end <= start for (_, end), (start, _) in pairwise(spans_of(placed, io)))


@given(trees)
@settings(max_examples=30, deadline=None)
def test_windows_of_bridges_on_one_bus_are_apart(tree: dict[Place, BytesConfigAccess]) -> None:
    root = PciRoot(FakeBusAccess(tree))
    number_buses(root)
    allocate_bus(root, 0, AddressWindows(AddressWindow(0x4000_0000, 0xB000_0000), None, AddressWindow(0x1000, 0xFF000)))

    for space in (Space.MEMORY, Space.IO):
        for bus in range(8):
            found = [
                read_windows(root.config(function))[space]
                for function, info in root.enumerate_bus(bus)
                if info.header_type == 1 and space in read_windows(root.config(function))
            ]
            spans = sorted((window.base, window.end) for window in found)
            assert all(end <= start for (_, end), (start, _) in pairwise(spans))
