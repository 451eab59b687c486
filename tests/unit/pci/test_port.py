from __future__ import annotations

import threading

import pytest

from mmio import FakeRegion
from pci import (
    BytesRootAccess,
    ConfigAccessError,
    ConfigSpace,
    DeviceFunction,
    FakeBusAccess,
    FakePorts,
    PciRoot,
    PortAccess,
    new_function,
)

F = DeviceFunction.parse


def ports_of(*numbers: int) -> FakePorts:
    return FakePorts(FakeBusAccess({(number, 0): new_function(0x1AF4, 0x1000 + number) for number in numbers}))


def test_functions_are_found_through_the_two_ports() -> None:
    functions = {F("00:00.0"): new_function(0x8086, 0x29C0), F("03:1f.0"): new_function(0x1AF4, 0x1042)}
    root = PciRoot(PortAccess(FakePorts(BytesRootAccess(functions))))

    assert [str(function) for bus in (0, 3) for function, _ in root.enumerate_bus(bus)] == [
        "0000:00:00.0",
        "0000:03:1f.0",
    ]


@pytest.mark.parametrize(
    ("register", "width", "place"), [(0, 4, 4), (2, 2, 6), (4, 2, 4), (0x3C, 1, 4), (0x3D, 1, 5), (0x3F, 1, 7)]
)
def test_an_access_is_the_address_in_32_bits_and_the_data_in_its_width(register: int, width: int, place: int) -> None:
    ports = ports_of(5)
    access = PortAccess(ports).config(F("00:05.0"))

    access.read(register, width)
    access.write(register, width, 0)

    assert ports.accesses == [("write", 0, 4), ("read", place, width), ("write", 0, 4), ("write", place, width)]


def test_the_address_has_the_enable_bit_the_function_and_the_dword() -> None:
    ports = ports_of(5)

    PortAccess(ports).config(F("12:1f.7")).read(0x3F, 1)

    assert ports.address == 0x8000_0000 | 0x12 << 16 | 0x1F << 11 | 7 << 8 | 0x3C


def test_registers_are_written_and_read_back() -> None:
    config = ConfigSpace(PortAccess(ports_of(5)).config(F("00:05.0")))

    config.write8(0x3C, 0x5A)

    assert (config.read8(0x3C), config.read8(0x3D), config.read_info().device_id) == (0x5A, 0, 0x1005)


def test_there_are_256_bytes_and_no_more() -> None:
    access = PortAccess(ports_of(5)).config(F("00:05.0"))

    assert access.size == 0x100
    with pytest.raises(ConfigAccessError, match="outside"):
        access.read(0x100, 4)


def test_another_domain_is_an_error() -> None:
    with pytest.raises(ConfigAccessError, match="reaches one domain"):
        PortAccess(ports_of(5)).config(F("0001:00:05.0"))


def test_a_region_without_the_data_register_is_an_error() -> None:
    with pytest.raises(ConfigAccessError, match=r"8 bytes, and the region has \(0x4\)"):
        PortAccess(FakeRegion(4))


def test_a_region_of_ports_serves_as_it_is() -> None:
    region = FakeRegion(8)
    region.poke(4, 4, 0x1042_1AF4)

    assert PortAccess(region).config(F("00:05.0")).read(2, 2) == 0x1042
    assert region.peek(0, 4) == 0x8000_2800


def test_threads_do_not_come_between_an_address_and_its_data() -> None:
    access = PortAccess(ports_of(5, 6))
    wrong: list[int] = []

    def read(number: int) -> None:
        config = access.config(DeviceFunction(0, number, 0))
        wrong.extend(value for _ in range(2000) if (value := config.read(2, 2)) != 0x1000 + number)

    threads = [threading.Thread(target=read, args=(number,)) for number in (5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_lock_is_held_from_the_address_to_the_data() -> None:
    ports = ports_of(5)
    access = PortAccess(ports)
    held: list[bool] = []
    ports.read = lambda offset, width: held.append(access._lock.locked()) or 0  # type: ignore[method-assign, func-returns-value]

    access.config(F("00:05.0")).read(0, 4)

    assert held == [True]
    assert not access._lock.locked()
