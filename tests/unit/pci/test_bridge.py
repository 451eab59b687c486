from __future__ import annotations

import errno

import pytest
from hypothesis import given

from pci import (
    AddressWindow,
    AllocationError,
    BridgeError,
    BusNumbers,
    BytesConfigAccess,
    ConfigSpace,
    DeviceFunction,
    FakeBridge,
    FakeBusAccess,
    PciRoot,
    Space,
    new_function,
    number_buses,
    read_bus_numbers,
    read_windows,
    write_bus_numbers,
    write_window,
)
from tests.unit.pci.bus_tree import Chain, Place, trees

F = DeviceFunction.parse


def function() -> BytesConfigAccess:
    return new_function(0x1AF4, 0x1042)


def nested() -> FakeBusAccess:
    """00:01.0 leads to a function and a bridge with another behind it, 00:02.0 to a function."""
    inner = FakeBridge({(0, 0): function()})
    outer = FakeBridge({(0, 0): function(), (3, 0): inner})
    return FakeBusAccess({(0, 0): function(), (1, 0): outer, (2, 0): FakeBridge({(0, 0): function()})})


def found_from(root: PciRoot, bus: int = 0) -> list[str]:
    return [function.short for function, _ in root.enumerate_bus(bus, recursive=True)]


def test_bus_numbers_are_written_in_one_access_that_keeps_the_latency_timer() -> None:
    bridge = FakeBridge({})
    bridge.poke(0x1B, b"\x40")
    config = ConfigSpace(bridge)

    write_bus_numbers(config, BusNumbers(1, 2, 5))

    assert read_bus_numbers(config) == BusNumbers(1, 2, 5)
    assert bridge.writes == [("write", 0x18, 4, 0x4005_0201)]


def test_a_bridge_that_nobody_has_set_up_hides_what_is_behind_it() -> None:
    assert found_from(PciRoot(nested())) == ["00:00.0", "00:01.0", "00:02.0"]


def test_buses_are_numbered_depth_first_and_the_highest_is_returned() -> None:
    root = PciRoot(nested())

    assert number_buses(root) == 3
    assert read_bus_numbers(root.config(F("00:01.0"))) == BusNumbers(0, 1, 2)
    assert read_bus_numbers(root.config(F("01:03.0"))) == BusNumbers(1, 2, 2)
    assert read_bus_numbers(root.config(F("00:02.0"))) == BusNumbers(0, 3, 3)


def test_enumeration_goes_through_bridges_and_lists_what_is_behind_one_right_after_it() -> None:
    root = PciRoot(nested())
    number_buses(root)

    assert found_from(root) == ["00:00.0", "00:01.0", "01:00.0", "01:03.0", "02:00.0", "00:02.0", "03:00.0"]
    assert found_from(root, 1) == ["01:00.0", "01:03.0", "02:00.0"]
    assert [function.short for function, _ in root.enumerate_bus(0)] == ["00:00.0", "00:01.0", "00:02.0"]


def test_numbers_from_before_do_not_disturb_numbering() -> None:
    root = PciRoot(nested())
    for bridge in ("00:01.0", "00:02.0"):
        write_bus_numbers(root.config(F(bridge)), BusNumbers(0, 1, 0xFF if bridge == "00:01.0" else 1))
    # Both led to bus 1, which the fake does not stand: numbering must close them before it opens one.
    number_buses(root)

    assert len(found_from(root)) == 7


def test_numbering_again_gives_the_same_numbers() -> None:
    root = PciRoot(nested())
    number_buses(root)
    before = found_from(root)

    assert number_buses(root) == 3
    assert found_from(root) == before


def test_numbering_ends_with_an_error_when_no_number_is_left() -> None:
    with pytest.raises(BridgeError, match=r"00:02\.0: no number is left .* the last is \(0x2\)") as caught:
        number_buses(PciRoot(nested()), last=2)
    assert caught.value.errno == errno.ENOSPC


def test_a_chain_as_long_as_there_are_buses_is_numbered_and_walked() -> None:
    root = PciRoot(Chain(255, function()))

    assert number_buses(root) == 255
    assert found_from(root)[-1] == "ff:00.0"


def test_a_chain_longer_than_there_are_buses_is_an_error() -> None:
    with pytest.raises(BridgeError, match="no number is left"):
        number_buses(PciRoot(Chain(256, function())))


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        (BusNumbers(1, 1, 5), "no higher number than its own"),
        (BusNumbers(1, 0, 5), "no higher number than its own"),
        (BusNumbers(1, 2, 1), "comes before the first one"),
    ],
)
def test_bus_numbers_that_lead_back_or_nowhere_are_an_error(numbers: BusNumbers, problem: str) -> None:
    root = PciRoot(nested())
    number_buses(root)
    write_bus_numbers(root.config(F("01:03.0")), numbers)

    with pytest.raises(BridgeError, match=rf"01:03\.0: .*{problem}") as caught:
        found_from(root)
    assert caught.value.errno == errno.EIO


class Mirror(FakeBusAccess):
    """Every bus shows the same bridge, whatever its numbers are: a device that lies, or a bus that wraps."""

    def route(self, function: DeviceFunction) -> BytesConfigAccess:
        return self.functions.get((function.device, function.function)) or BytesConfigAccess(b"\xff" * 256)


def test_a_bridge_that_shows_itself_behind_itself_ends_with_an_error() -> None:
    bridge = FakeBridge({})
    write_bus_numbers(ConfigSpace(bridge), BusNumbers(0, 1, 0xFF))

    with pytest.raises(BridgeError, match=r"01:00\.0: the bus behind the bridge has no higher number"):
        found_from(PciRoot(Mirror({(0, 0): bridge})))


def test_two_bridges_that_lead_to_one_bus_are_an_error() -> None:
    bridges = {(device, 0): FakeBridge({}) for device in (1, 2)}
    for bridge in bridges.values():
        write_bus_numbers(ConfigSpace(bridge), BusNumbers(0, 3, 3))

    class Both(FakeBusAccess):
        def route(self, function: DeviceFunction) -> BytesConfigAccess:
            here = bridges if function.bus == 0 else {}
            return here.get((function.device, function.function)) or BytesConfigAccess(b"\xff" * 256)

    with pytest.raises(BridgeError, match=r"00:02\.0: another bridge leads to the bus behind it too \(0x3\)"):
        found_from(PciRoot(Both({})))


@given(trees)
def test_after_numbering_every_function_of_a_tree_is_found_once(tree: dict[Place, BytesConfigAccess]) -> None:
    def count(functions: dict[Place, BytesConfigAccess]) -> int:
        return sum(1 + (count(fake.behind) if isinstance(fake, FakeBridge) else 0) for fake in functions.values())

    root = PciRoot(FakeBusAccess(tree))
    number_buses(root)

    found = found_from(root)
    assert len(found) == len(set(found)) == count(tree)


# --- Windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "window"),
    [
        (Space.MEMORY, AddressWindow(0xE000_0000, 0x30_0000)),
        (Space.PREFETCHABLE, AddressWindow(0x12_3450_0000, 0x10_0000)),
        (Space.PREFETCHABLE, AddressWindow(0xFFF0_0000, 0x20_0000)),
        (Space.IO, AddressWindow(0xC000, 0x2000)),
        (Space.IO, AddressWindow(0x12_3000, 0x1000)),
    ],
)
def test_a_window_is_written_and_read_back(space: Space, window: AddressWindow) -> None:
    config = ConfigSpace(FakeBridge({}))
    for other in Space:
        write_window(config, other, None)

    write_window(config, space, window)

    assert {found: str(read) for found, read in read_windows(config).items()} == {space: str(window)}
    write_window(config, space, None)
    assert read_windows(config) == {}


def test_closing_the_windows_of_a_bridge_leaves_none_that_decodes_from_zero() -> None:
    bridge = FakeBridge({}, prefetchable=False)
    bridge.write_masks[0x24:0x28] = b"\xf0\xff\xf0\xff"  # prefetchable memory of 32 bits

    for space in Space:
        write_window(ConfigSpace(bridge), space, None)

    assert bridge.data[0x20:0x28].hex() == "f0ff0000" * 2
    assert bridge.data[0x1C:0x1E].hex() == "f101"


def test_the_secondary_status_beside_the_io_window_is_not_written() -> None:
    bridge = FakeBridge({})

    write_window(ConfigSpace(bridge), Space.IO, AddressWindow(0xC000, 0x1000))

    assert [(access.offset, access.width) for access in bridge.writes] == [(0x1C, 2), (0x30, 4)]


@pytest.mark.parametrize(
    ("bridge", "space", "window"),
    [
        (FakeBridge({}, io=0), Space.IO, AddressWindow(0xC000, 0x1000)),
        (FakeBridge({}, io=16), Space.IO, AddressWindow(0x1_C000, 0x1000)),
        (FakeBridge({}, prefetchable=False), Space.PREFETCHABLE, AddressWindow(1 << 40, 0x10_0000)),
        (FakeBridge({}), Space.MEMORY, AddressWindow(0xE000_0000, 0x1000)),
    ],
)
def test_a_window_that_the_bridge_does_not_take_is_an_error(
    bridge: FakeBridge, space: Space, window: AddressWindow
) -> None:
    with pytest.raises(AllocationError, match=f"did not take its {space.value} window") as caught:
        write_window(ConfigSpace(bridge), space, window)
    assert caught.value.errno == errno.EIO


def test_a_bridge_without_an_io_window_has_none_to_close() -> None:
    config = ConfigSpace(FakeBridge({}, io=0))

    write_window(config, Space.IO, None)

    assert Space.IO not in read_windows(config)
