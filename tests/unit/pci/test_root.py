from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pci import (
    BytesConfigAccess,
    BytesRootAccess,
    Command,
    ConfigAccessError,
    DeviceFunction,
    IoBar,
    MemoryBar,
    MemoryBarType,
    PciError,
    PciRoot,
    RootAccess,
    Status,
    SysfsRootAccess,
    new_function,
)

F = DeviceFunction.parse


def multifunction(vendor: int, device: int) -> BytesConfigAccess:
    fake = new_function(vendor, device)
    fake.poke(0x0E, b"\x80")
    return fake


def machine() -> dict[DeviceFunction, BytesConfigAccess]:
    return {
        F("00:00.0"): new_function(0x8086, 0x29C0),
        F("00:05.0"): new_function(0x1AF4, 0x1042),
        F("00:1f.0"): multifunction(0x8086, 0x2918),
        F("00:1f.2"): new_function(0x8086, 0x2922),
        F("00:1f.7"): new_function(0x8086, 0x2930),
        F("01:00.0"): new_function(0x1AF4, 0x1044),
        F("0001:00:00.0"): new_function(0x10DE, 0x0001),
    }


@pytest.fixture(params=["bytes", "sysfs"])
def access(request: pytest.FixtureRequest, tmp_path: Path) -> RootAccess:
    """The machine above, as fakes and as files of a sysfs tree."""
    if request.param == "bytes":
        return BytesRootAccess(machine())
    for function, fake in machine().items():
        folder = tmp_path / "bus/pci/devices" / str(function)
        folder.mkdir(parents=True)
        (folder / "config").write_bytes(fake.data)
    return SysfsRootAccess(tmp_path)


def found_on(root: PciRoot, bus: int, domain: int = 0) -> list[str]:
    return [str(function) for function, _ in root.enumerate_bus(bus, domain)]


def test_a_bus_is_enumerated_with_functions_where_there_are_several(access: RootAccess) -> None:
    assert found_on(PciRoot(access), 0) == [
        "0000:00:00.0",
        "0000:00:05.0",
        "0000:00:1f.0",
        "0000:00:1f.2",
        "0000:00:1f.7",
    ]


def test_enumeration_tells_who_each_function_is(access: RootAccess) -> None:
    ids = [(info.vendor_id, info.device_id) for _, info in PciRoot(access).enumerate_bus(0)]

    assert ids == [(0x8086, 0x29C0), (0x1AF4, 0x1042), (0x8086, 0x2918), (0x8086, 0x2922), (0x8086, 0x2930)]


def test_other_buses_and_domains_are_separate(access: RootAccess) -> None:
    root = PciRoot(access)

    assert found_on(root, 1) == ["0000:01:00.0"]
    assert found_on(root, 0, domain=1) == ["0001:00:00.0"]
    assert found_on(root, 2) == []


def test_functions_behind_a_single_function_device_are_not_looked_for() -> None:
    functions = {F("00:05.0"): new_function(1, 2), F("00:05.1"): new_function(1, 3)}

    assert found_on(PciRoot(BytesRootAccess(functions)), 0) == ["0000:00:05.0"]
    assert functions[F("00:05.1")].accesses == []


def test_functions_without_a_function_zero_are_not_looked_for() -> None:
    assert found_on(PciRoot(BytesRootAccess({F("00:05.1"): new_function(1, 3)})), 0) == []


def test_a_function_zero_without_a_vendor_is_not_there_even_if_it_claims_more() -> None:
    gone = BytesConfigAccess(b"\xff" * 256)

    assert found_on(PciRoot(BytesRootAccess({F("00:05.0"): gone, F("00:05.1"): new_function(1, 2)})), 0) == []


def test_a_bus_is_enumerated_without_writing_anything() -> None:
    functions = machine()
    list(PciRoot(BytesRootAccess(functions)).enumerate_bus(0))

    assert all(fake.writes == [] for fake in functions.values())


def test_a_bus_number_out_of_range_is_refused(access: RootAccess) -> None:
    with pytest.raises(PciError, match="bus is out of range"):
        list(PciRoot(access).enumerate_bus(256))


def test_command_and_status_are_read_and_the_command_written(access: RootAccess) -> None:
    root, function = PciRoot(access), F("00:05.0")

    root.set_command(function, Command.MEMORY_SPACE | Command.BUS_MASTER)

    assert root.get_status_command(function) == (Status(0), Command.MEMORY_SPACE | Command.BUS_MASTER)


def test_bars_capabilities_and_one_bar_are_those_of_the_function() -> None:
    fake = new_function(1, 2)
    memory = MemoryBar(2, MemoryBarType.Width64, False, 0x40_0000_0000, 0x4000)
    fake.declare_bar(IoBar(0, 0xC000, 128))
    fake.declare_bar(memory)
    fake.declare_capability(0x40, 0x11, b"\0\0")
    root, function = PciRoot(BytesRootAccess({F("00:05.0"): fake})), F("00:05.0")

    assert root.bars(function) == {0: IoBar(0, 0xC000, 128), 2: memory}
    assert root.bar_info(function, 2) == memory
    assert root.bar_info(function, 3) is None
    assert [found.id for found in root.capabilities(function)] == [0x11]


def test_bars_are_placed() -> None:
    fake = new_function(1, 2)
    fake.declare_bar(IoBar(0, 0, 128))
    fake.declare_bar(MemoryBar(4, MemoryBarType.Width64, True, 0, 0x4000))
    root, function = PciRoot(BytesRootAccess({F("00:05.0"): fake})), F("00:05.0")

    root.set_bar_32(function, 0, 0xC080)
    root.set_bar_64(function, 4, 0x12_3456_4000)

    assert fake.writes == [("write", 0x10, 4, 0xC080), ("write", 0x20, 4, 0x3456_4000), ("write", 0x24, 4, 0x12)]
    assert root.bars(function) == {
        0: IoBar(0, 0xC080, 128),
        4: MemoryBar(4, MemoryBarType.Width64, True, 0x12_3456_4000, 0x4000),
    }


@pytest.mark.parametrize(("index", "address"), [(5, 0), (0, 1 << 64), (0, -1), (-1, 0)])
def test_a_64_bit_bar_that_cannot_be_placed_is_refused_before_anything_is_written(index: int, address: int) -> None:
    fake = new_function(1, 2)

    with pytest.raises(PciError):
        PciRoot(BytesRootAccess({F("00:05.0"): fake})).set_bar_64(F("00:05.0"), index, address)
    assert fake.writes == []


@pytest.mark.parametrize("ask", ["bars", "capabilities"])
def test_asking_a_function_that_is_not_there_says_so(access: RootAccess, ask: str) -> None:
    with pytest.raises(ConfigAccessError, match=r"0000:00:09\.0: no function answers") as caught:
        list(getattr(PciRoot(access), ask)(F("00:09.0")))
    assert caught.value.errno == errno.ENODEV


def test_a_function_that_vanishes_from_sysfs_is_a_typed_error(tmp_path: Path) -> None:
    folder = tmp_path / "bus/pci/devices/0000:00:05.0"
    folder.mkdir(parents=True)
    (folder / "config").write_bytes(new_function(1, 2).data)
    config = PciRoot(SysfsRootAccess(tmp_path)).config(F("00:05.0"))
    (folder / "config").unlink()

    with pytest.raises(ConfigAccessError) as caught:
        config.read_info()
    assert caught.value.errno == errno.ENOENT


def test_a_function_plugged_in_again_is_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "bus/pci/devices/0000:00:05.0/config"
    path.parent.mkdir(parents=True)
    path.write_bytes(new_function(1, 2).data)
    root = PciRoot(SysfsRootAccess(tmp_path))
    before = root.config(F("00:05.0"))
    assert before.read_info().device_id == 2

    path.unlink()
    path.write_bytes(new_function(1, 3).data)

    assert before.read_info().device_id == 3
    assert [info.device_id for _, info in root.enumerate_bus(0)] == [3]
