from __future__ import annotations

import errno

import pytest

from mmio import FakeRegion
from pci import (
    BytesRootAccess,
    Cam,
    CamAccess,
    Command,
    ConfigAccessError,
    DeviceFunction,
    FakeBusAccess,
    FakeCam,
    PciRoot,
    new_function,
)

F = DeviceFunction.parse

CAMS = pytest.mark.parametrize("cam", list(Cam))


def test_a_mechanism_has_the_size_of_65536_functions() -> None:
    assert (Cam.MmioCam.size, Cam.Ecam.size) == (0x100_0000, 0x1000_0000)


@pytest.mark.parametrize(
    ("cam", "function", "register", "offset"),
    [
        (Cam.MmioCam, "00:00.0", 0x3C, 0x3C),
        (Cam.MmioCam, "00:05.2", 0x10, 0x2A10),
        (Cam.MmioCam, "ff:1f.7", 0xFF, 0xFF_FFFF),
        (Cam.Ecam, "00:05.2", 0x10, 0x2_A010),
        (Cam.Ecam, "01:00.0", 0x100, 0x10_0100),
        (Cam.Ecam, "ff:1f.7", 0xFFF, 0xFFF_FFFF),
        (Cam.Ecam, "0001:01:00.0", 0, 0x10_0000),
    ],
)
def test_bus_device_function_and_register_make_the_offset(cam: Cam, function: str, register: int, offset: int) -> None:
    assert cam.cam_offset(F(function), register) == offset


@pytest.mark.parametrize(("cam", "register"), [(Cam.MmioCam, 0x100), (Cam.Ecam, 0x1000), (Cam.Ecam, -1)])
def test_a_register_behind_the_functions_bytes_has_no_offset(cam: Cam, register: int) -> None:
    with pytest.raises(ConfigAccessError, match=r"00:05\.0: .* no register at offset"):
        cam.cam_offset(F("00:05.0"), register)


@CAMS
def test_functions_are_found_through_the_region(cam: Cam) -> None:
    functions = {F("00:00.0"): new_function(0x8086, 0x29C0), F("03:05.0"): new_function(0x1AF4, 0x1042)}
    root = PciRoot(CamAccess(FakeCam(BytesRootAccess(functions), cam), cam))

    assert [str(function) for bus in range(5) for function, _ in root.enumerate_bus(bus)] == [
        "0000:00:00.0",
        "0000:03:05.0",
    ]


@CAMS
@pytest.mark.parametrize("width", [1, 2, 4])
def test_an_access_is_one_access_of_its_width_to_the_region(cam: Cam, width: int) -> None:
    region = FakeCam(FakeBusAccess({(5, 0): new_function(0x1AF4, 0x1042)}), cam)
    access = CamAccess(region, cam).config(F("00:05.0"))

    assert access.read(0, width) == 0x1042_1AF4 & (1 << 8 * width) - 1
    access.write(0x3C, width, 1)

    at = cam.cam_offset(F("00:05.0"), 0)
    assert region.accesses == [("read", at, width), ("write", at + 0x3C, width)]


def test_a_region_of_registers_serves_as_it_is() -> None:
    region = FakeRegion(2 << 20)
    region.poke(Cam.Ecam.cam_offset(F("01:02.0"), 0), 4, 0x1042_1AF4)
    root = PciRoot(CamAccess(region, Cam.Ecam))

    root.set_command(F("01:02.0"), Command.MEMORY_SPACE)

    assert root.config(F("01:02.0")).read_info().device_id == 0x1042
    assert region.peek(Cam.Ecam.cam_offset(F("01:02.0"), 4), 2) == Command.MEMORY_SPACE


@CAMS
def test_a_function_has_the_mechanisms_bytes_of_configuration_space(cam: Cam) -> None:
    access = CamAccess(FakeCam(BytesRootAccess({}), cam), cam).config(F("00:05.0"))

    assert access.size == cam.config_size
    with pytest.raises(ConfigAccessError, match="outside"):
        access.read(cam.config_size, 1)
    with pytest.raises(ConfigAccessError, match="outside"):
        access.write(cam.config_size, 1, 0)


def test_extended_capabilities_are_read_through_ecam() -> None:
    fake = new_function(0x1AF4, 0x1042, size=0x1000)
    fake.poke(0x100, bytes.fromhex("01000100"))
    root = PciRoot(CamAccess(FakeCam(FakeBusAccess({(5, 0): fake}), Cam.Ecam), Cam.Ecam))

    assert [found.id for found in root.config(F("00:05.0")).extended_capabilities()] == [1]


def test_a_function_behind_the_end_of_a_short_region_is_an_error() -> None:
    access = CamAccess(FakeCam(BytesRootAccess({}), Cam.Ecam, buses=4), Cam.Ecam)

    assert access.buses == 4
    assert access.config(F("03:1f.7")).read(0, 2) == 0xFFFF
    with pytest.raises(ConfigAccessError, match=r"04:00\.0: its place in Ecam is behind the 0x400000 bytes") as caught:
        access.config(F("04:00.0"))
    assert caught.value.errno == errno.EINVAL


def test_another_domain_is_an_error_and_not_the_same_function_of_domain_0() -> None:
    access = CamAccess(FakeCam(FakeBusAccess({(5, 0): new_function(1, 2)}), Cam.Ecam), Cam.Ecam)

    with pytest.raises(ConfigAccessError, match=r"0001:00:05\.0: Ecam reaches one domain"):
        access.config(F("0001:00:05.0"))


@pytest.mark.parametrize(("offset", "width"), [(1, 2), (2, 4), (0, 3), (0, 8)])
def test_an_access_that_no_bus_makes_is_refused_before_the_region_is_touched(offset: int, width: int) -> None:
    region = FakeCam(BytesRootAccess({}), Cam.Ecam)
    access = CamAccess(region, Cam.Ecam).config(F("00:05.0"))

    with pytest.raises(ConfigAccessError):
        access.read(offset, width)
    with pytest.raises(ConfigAccessError):
        access.write(offset, width, 0)
    with pytest.raises(ConfigAccessError, match="does not fit"):
        access.write(0, 1, 0x100)
    assert region.accesses == []
