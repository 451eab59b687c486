from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pci import BytesConfigAccess, CapabilityId, Command, ConfigAccessError, ConfigSpace, Status, new_function


def test_registers_are_little_endian_and_one_access_each() -> None:
    fake = BytesConfigAccess(bytes(range(16)))
    config = ConfigSpace(fake)

    assert (config.read8(3), config.read16(2), config.read32(4)) == (0x03, 0x0302, 0x07060504)
    assert fake.accesses == [("read", 3, 1, 0x03), ("read", 2, 2, 0x0302), ("read", 4, 4, 0x07060504)]


def test_writes_are_one_access_of_their_width() -> None:
    fake = BytesConfigAccess(bytes(16), dict.fromkeys(range(16), 0xFF))
    config = ConfigSpace(fake)

    config.write8(1, 0x11)
    config.write16(2, 0x3322)
    config.write32(8, 0x77665544)

    assert fake.accesses == [("write", 1, 1, 0x11), ("write", 2, 2, 0x3322), ("write", 8, 4, 0x77665544)]
    assert fake.data == bytes.fromhex("00112233 00000000 44556677 00000000")


@pytest.mark.parametrize(("offset", "width"), [(1, 2), (1, 4), (2, 4), (0xFE, 4), (0x100, 1), (0x100, 4), (-4, 4)])
def test_an_access_misaligned_or_outside_is_refused_before_it_is_made(offset: int, width: int) -> None:
    fake = new_function(1, 2)
    config = ConfigSpace(fake)
    read = {2: config.read16, 4: config.read32, 1: config.read8}[width]
    write = {2: config.write16, 4: config.write32, 1: config.write8}[width]

    with pytest.raises(ConfigAccessError) as caught:
        read(offset)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(ConfigAccessError):
        write(offset, 0)
    assert fake.accesses == []


@pytest.mark.parametrize(("width", "value"), [(1, 0x100), (2, 0x10000), (4, 1 << 32), (4, -1)])
def test_a_value_that_does_not_fit_is_refused_before_it_is_written(width: int, value: int) -> None:
    fake = new_function(1, 2)
    config = ConfigSpace(fake)

    with pytest.raises(ConfigAccessError, match=f"does not fit {width} bytes"):
        {1: config.write8, 2: config.write16, 4: config.write32}[width](0x3C, value)
    assert fake.accesses == []


@given(st.integers(-0x200, 0x1200), st.sampled_from([0x40, 0x100, 0x1000]))
def test_reads_work_exactly_inside_the_space(offset: int, size: int) -> None:
    config = ConfigSpace(BytesConfigAccess(bytes(size)))
    inside = 0 <= offset <= size - 4 and offset % 4 == 0
    try:
        assert config.read32(offset) == 0
    except ConfigAccessError:
        assert not inside
    else:
        assert inside


def test_the_command_register_is_written_without_touching_the_status_beside_it() -> None:
    fake = new_function(1, 2)
    fake.poke(6, b"\x00\x20")

    ConfigSpace(fake).write_command(Command.BUS_MASTER | Command.MEMORY_SPACE)

    assert fake.accesses == [("write", 4, 2, 0x0006)]
    assert ConfigSpace(fake).read_status() == Status.RECEIVED_MASTER_ABORT


def test_setting_command_bits_gives_back_what_was_there() -> None:
    fake = new_function(1, 2)
    fake.poke(4, b"\x03\x04")
    config = ConfigSpace(fake)

    before = config.set_command_bits(Command.BUS_MASTER, Command.IO_SPACE | Command.INTERRUPT_DISABLE)

    assert before == Command.IO_SPACE | Command.MEMORY_SPACE | Command.INTERRUPT_DISABLE
    assert config.read_command() == Command.MEMORY_SPACE | Command.BUS_MASTER


def test_reserved_command_bits_are_written_back_as_they_were() -> None:
    fake = new_function(1, 2)
    fake.poke(4, b"\x86\xf8")

    ConfigSpace(fake).set_command_bits(Command.IO_SPACE, Command.BUS_MASTER)

    assert fake.writes == [("write", 4, 2, 0xF883)]


def test_a_bit_both_set_and_cleared_is_set() -> None:
    config = ConfigSpace(new_function(1, 2))

    config.set_command_bits(Command.BUS_MASTER, Command.BUS_MASTER)

    assert config.read_command() == Command.BUS_MASTER


def test_command_bits_that_are_as_wanted_are_not_written_again() -> None:
    fake = new_function(1, 2)
    fake.poke(4, b"\x06\x00")

    ConfigSpace(fake).set_command_bits(Command.BUS_MASTER, Command.IO_SPACE)

    assert fake.writes == []


def test_the_raw_bytes_are_all_of_them_in_reads_of_32_bits() -> None:
    data = bytes(range(256))
    fake = BytesConfigAccess(data)

    assert ConfigSpace(fake).read_raw() == data
    assert {access.width for access in fake.accesses} == {4}


def test_the_raw_bytes_may_be_only_the_first_ones() -> None:
    assert ConfigSpace(BytesConfigAccess(bytes(range(256)))).read_raw(8) == bytes(range(8))


def test_a_capability_is_found_by_its_id_or_is_none() -> None:
    fake = new_function(1, 2)
    fake.declare_capability(0x40, CapabilityId.VENDOR_SPECIFIC, b"\x10\x01")
    fake.declare_capability(0x50, CapabilityId.VENDOR_SPECIFIC, b"\x10\x02")
    config = ConfigSpace(fake)

    found = config.find_capability(CapabilityId.VENDOR_SPECIFIC)

    assert found is not None
    assert (found.offset, found.private_header) == (0x40, 0x0110)
    assert config.find_capability(CapabilityId.MSIX) is None


def test_errors_name_the_function() -> None:
    with pytest.raises(ConfigAccessError, match=r"^0000:00:05\.0: "):
        ConfigSpace(BytesConfigAccess(bytes(256), name="0000:00:05.0")).read32(0x100)
