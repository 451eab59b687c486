from __future__ import annotations

import errno
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pci import (
    BarInfo,
    BytesConfigAccess,
    Command,
    ConfigAccessError,
    ConfigSpace,
    InvalidBarType,
    IoBar,
    MemoryBar,
    MemoryBarType,
    PciError,
    new_function,
    parse_resource_file,
    read_bar,
)

ALL_ON = Command.IO_SPACE | Command.MEMORY_SPACE | Command.BUS_MASTER | Command.INTERRUPT_DISABLE

Width32, Below1MiB, Width64 = MemoryBarType.Width32, MemoryBarType.Below1MiB, MemoryBarType.Width64


def function_with(*bars: BarInfo) -> BytesConfigAccess:
    fake = new_function(0x1234, 0x5678)
    for bar in bars:
        fake.declare_bar(bar)
    fake.poke(4, int(ALL_ON).to_bytes(2, "little"))
    return fake


class FailingAccess(BytesConfigAccess):
    """Fails one access, counted from 0, in the way that leaves most to clean up: a write fails after it took effect."""

    fail_at: int | None = None

    def read(self, offset: int, width: int) -> int:
        self._maybe_fail()
        return super().read(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        fails = len(self.accesses) == self.fail_at
        super().write(offset, width, value)
        if fails:
            raise ConfigAccessError(self, "the bus is on fire", code=errno.EIO)

    def _maybe_fail(self) -> None:
        if len(self.accesses) == self.fail_at:
            self.fail_at = None
            raise ConfigAccessError(self, "the bus is on fire", code=errno.EIO)


# --- Sizing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetchable", [False, True])
@pytest.mark.parametrize("shift", range(4, 32))
def test_every_size_of_a_32_bit_memory_bar_is_found(shift: int, prefetchable: bool) -> None:
    bar = MemoryBar(0, Width32, prefetchable, 0x8000_0000, 1 << shift)

    assert ConfigSpace(function_with(bar)).read_bars() == {0: bar}


@pytest.mark.parametrize("prefetchable", [False, True])
@pytest.mark.parametrize("shift", range(4, 64))
def test_every_size_of_a_64_bit_memory_bar_is_found(shift: int, prefetchable: bool) -> None:
    bar = MemoryBar(2, Width64, prefetchable, 0x8000_0000_0000_0000, 1 << shift)

    assert ConfigSpace(function_with(bar)).read_bars() == {2: bar}


@pytest.mark.parametrize("shift", range(4, 20))
def test_every_size_of_a_bar_below_one_mebibyte_is_found(shift: int) -> None:
    bar = MemoryBar(1, Below1MiB, False, 0x8_0000, 1 << shift)

    assert ConfigSpace(function_with(bar)).read_bars() == {1: bar}


@pytest.mark.parametrize("shift", range(2, 32))
def test_every_size_of_an_io_bar_is_found(shift: int) -> None:
    bar = IoBar(5, 0x8000_0000, 1 << shift)

    assert ConfigSpace(function_with(bar)).read_bars() == {5: bar}


def test_an_io_bar_that_decodes_16_bits_has_its_size_all_the_same() -> None:
    fake = function_with(IoBar(0, 0xC000, 128))
    fake.write_masks[0x12:0x14] = b"\0\0"

    assert ConfigSpace(fake).read_bars() == {0: IoBar(0, 0xC000, 128)}


def test_a_memory_bar_without_an_address_has_address_zero() -> None:
    bar = MemoryBar(4, Width64, True, 0, 0x4000)

    assert ConfigSpace(function_with(bar)).read_bars() == {4: bar}


def test_a_64_bit_bar_may_be_at_index_four() -> None:
    bar = MemoryBar(4, Width64, False, 0x40_0000_4000, 0x4000)

    assert ConfigSpace(function_with(bar)).read_bars() == {4: bar}


def test_bars_that_are_not_implemented_are_left_out() -> None:
    assert ConfigSpace(function_with()).read_bars() == {}


def test_a_64_bit_type_without_a_bit_that_can_be_set_is_not_a_bar_and_still_takes_two() -> None:
    fake = function_with(MemoryBar(2, Width32, False, 0xFE00_0000, 0x1000))
    fake.poke(0x10, b"\x04")

    assert list(ConfigSpace(fake).read_bars()) == [2]


@st.composite
def bar_sets(draw: st.DrawFn) -> list[BarInfo]:
    """BARs that fit one function, at addresses that fit their sizes."""
    bars: list[BarInfo] = []
    index = 0
    while index < 6:
        choice = draw(st.sampled_from(["none", "io", "memory32", "low", "memory64"]))
        if choice == "io":
            shift = draw(st.integers(2, 31))
            bars.append(IoBar(index, draw(_aligned(32, shift)), 1 << shift))
        elif choice in ("memory32", "low"):
            kind, width = (Width32, 32) if choice == "memory32" else (Below1MiB, 20)
            shift = draw(st.integers(4, width - 1))
            bars.append(MemoryBar(index, kind, draw(st.booleans()), draw(_aligned(width, shift)), 1 << shift))
        elif choice == "memory64" and index < 5:
            shift = draw(st.integers(4, 63))
            bars.append(MemoryBar(index, Width64, draw(st.booleans()), draw(_aligned(64, shift)), 1 << shift))
            index += 1
        index += 1
    return bars


def _aligned(bits: int, shift: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits - shift) - 1).map(lambda number: number << shift)


@given(bar_sets())
def test_any_set_of_bars_is_found_again_and_left_as_it_was(bars: list[BarInfo]) -> None:
    fake = function_with(*bars)
    before = bytes(fake.data)

    assert ConfigSpace(fake).read_bars() == {bar.index: bar for bar in bars}
    assert bytes(fake.data) == before


@given(bar_sets(), st.integers(0, 5))
def test_one_bar_alone_is_what_it_is_among_all(bars: list[BarInfo], index: int) -> None:
    config = ConfigSpace(function_with(*bars))

    assert read_bar(config, index) == config.read_bars().get(index)


def test_sizing_one_bar_writes_to_no_other() -> None:
    fake = function_with(IoBar(0, 0xC000, 128), MemoryBar(1, Width32, False, 0xFE00_0000, 0x1000))

    read_bar(ConfigSpace(fake), 1)

    assert {access.offset for access in fake.writes} == {0x04, 0x14}


@pytest.mark.parametrize("index", [-1, 6])
def test_a_bar_that_no_function_has_is_the_callers_mistake(index: int) -> None:
    fake = function_with()

    with pytest.raises(PciError, match="use 0 to 5"):
        read_bar(ConfigSpace(fake), index)
    assert fake.accesses == []


def test_decoding_is_off_while_ones_are_in_a_bar() -> None:
    commands = []

    class Watching(BytesConfigAccess):
        def write(self, offset: int, width: int, value: int) -> None:
            if offset >= 0x10:
                commands.append(Command(int.from_bytes(self.data[4:6], "little")))
            super().write(offset, width, value)

    fake = Watching(bytes(function_with(IoBar(0, 0xC000, 128)).data))
    ConfigSpace(fake).read_bars()

    # 6 BARs, ones and the value from before; and bus mastering is nobody's business here.
    assert commands == [Command.BUS_MASTER | Command.INTERRUPT_DISABLE] * 12


def test_the_command_register_is_as_before_and_the_status_untouched() -> None:
    fake = function_with(IoBar(0, 0xC000, 128))
    fake.poke(6, b"\x00\xf9")

    config = ConfigSpace(fake)
    config.read_bars()

    assert config.read_command() == ALL_ON
    assert config.read_status() == 0xF900
    assert [access.width for access in fake.writes if access.offset == 4] == [2, 2]


def test_reserved_command_bits_stay_set_while_decoding_is_off() -> None:
    fake = function_with()
    fake.poke(4, b"\x87\xf8")

    ConfigSpace(fake).read_bars()

    assert [access.value for access in fake.writes if access.offset == 4] == [0xF884, 0xF887]


_SIZED = (MemoryBar(0, Width64, True, 0x40_0000_0000, 0x10_0000), IoBar(2, 0xC000, 128))


def _accesses_of_a_sizing() -> int:
    fake = function_with(*_SIZED)
    ConfigSpace(fake).read_bars()
    return len(fake.accesses)


@pytest.mark.parametrize("fail_at", range(_accesses_of_a_sizing()))
def test_whichever_access_fails_everything_is_put_back(fail_at: int) -> None:
    whole = function_with(*_SIZED)
    fake = FailingAccess(bytes(whole.data))
    fake.write_masks = whole.write_masks
    fake.fail_at = fail_at
    before = bytes(fake.data)

    with pytest.raises(ConfigAccessError, match="on fire"):
        ConfigSpace(fake).read_bars()

    assert bytes(fake.data) == before


# --- Types that cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.fault(32)
@pytest.mark.parametrize("low", [0x4, 0xC])
def test_a_64_bit_bar_at_the_last_index_is_an_error_and_nothing_is_written(low: int) -> None:
    fake = function_with(MemoryBar(0, Width32, False, 0xFE00_0000, 0x1000))
    fake.poke(0x24, bytes([low]))

    with pytest.raises(InvalidBarType, match="BAR 5: a 64-bit BAR") as caught:
        ConfigSpace(fake).read_bars()
    assert caught.value.errno == errno.EIO
    assert fake.writes == []


@pytest.mark.parametrize("low", [0x6, 0xE])
@pytest.mark.parametrize("index", range(6))
def test_the_reserved_memory_type_is_an_error_and_nothing_is_written(index: int, low: int) -> None:
    fake = function_with()
    fake.poke(0x10 + 4 * index, bytes([low]))

    with pytest.raises(InvalidBarType, match=f"BAR {index}: the memory type is the reserved one"):
        ConfigSpace(fake).read_bars()
    assert fake.writes == []


def test_a_bridge_has_two_bars_and_what_comes_behind_is_something_else() -> None:
    fake = function_with(MemoryBar(0, Width32, False, 0xFE00_0000, 0x1000), MemoryBar(1, Width32, True, 0, 0x2000))
    fake.poke(0x0E, b"\x01")
    fake.poke(0x18, bytes.fromhex("00010100 f6000000 f6ff0000 f7ff0100"))

    assert list(ConfigSpace(fake).read_bars()) == [0, 1]
    assert {access.offset for access in fake.writes} == {0x04, 0x10, 0x14}


def test_a_64_bit_bar_of_a_bridge_at_index_one_is_an_error() -> None:
    fake = function_with()
    fake.poke(0x0E, b"\x01")
    fake.poke(0x14, b"\x04")

    with pytest.raises(InvalidBarType, match="BAR 1"):
        ConfigSpace(fake).read_bars()


def test_a_cardbus_bridge_has_one_bar() -> None:
    fake = function_with(MemoryBar(0, Width32, False, 0xFE00_0000, 0x1000))
    fake.poke(0x0E, b"\x02")
    fake.poke(0x14, b"\x06")

    assert list(ConfigSpace(fake).read_bars()) == [0]


def test_a_header_that_nobody_knows_has_no_bars_that_anybody_knows() -> None:
    fake = function_with(MemoryBar(0, Width32, False, 0xFE00_0000, 0x1000))
    fake.poke(0x0E, b"\x05")

    assert ConfigSpace(fake).read_bars() == {}


def test_a_function_that_is_not_there_is_not_sized() -> None:
    fake = BytesConfigAccess(b"\xff" * 256)

    with pytest.raises(ConfigAccessError) as caught:
        ConfigSpace(fake).read_bars()
    assert caught.value.errno == errno.ENODEV
    assert fake.writes == []


@given(st.binary(min_size=256, max_size=256), st.dictionaries(st.integers(0, 255), st.integers(0, 255), max_size=40))
def test_random_bytes_give_bars_or_a_typed_error_and_are_left_as_they_were(data: bytes, masks: dict[int, int]) -> None:
    fake = BytesConfigAccess(data, masks)
    try:
        bars = ConfigSpace(fake).read_bars()
    except PciError:
        pass
    else:
        assert all(bar.size & (bar.size - 1) == 0 and bar.index == index for index, bar in bars.items())
    assert bytes(fake.data) == data


# --- The kernel's resource file ---------------------------------------------------------------------------------------

NOTHING = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"


def test_a_resource_file_of_a_64_bit_memory_bar_is_decoded() -> None:
    text = "0x0000004000080000 0x00000040000fffff 0x0000000000140204\n" + NOTHING * 6

    assert parse_resource_file(text) == {0: MemoryBar(0, Width64, False, 0x40_0008_0000, 0x8_0000)}


def test_a_resource_file_of_a_transitional_disk_is_decoded() -> None:
    text = (
        "0x000000000000c000 0x000000000000c07f 0x0000000000040101\n"
        "0x00000000febd1000 0x00000000febd1fff 0x0000000000040200\n"
        + NOTHING * 2
        + "0x00000000fe000000 0x00000000fe003fff 0x000000000014220c\n"
        + NOTHING * 2
    )
    assert parse_resource_file(text) == {
        0: IoBar(0, 0xC000, 128),
        1: MemoryBar(1, Width32, False, 0xFEBD_1000, 0x1000),
        4: MemoryBar(4, Width64, True, 0xFE00_0000, 0x4000),
    }


def test_the_type_below_one_mebibyte_comes_from_the_low_bits_of_the_flags() -> None:
    text = "0x00000000000d0000 0x00000000000d0fff 0x0000000000040202\n"

    assert parse_resource_file(text) == {0: MemoryBar(0, Below1MiB, False, 0xD_0000, 0x1000)}


def test_lines_behind_the_six_bars_are_not_bars() -> None:
    rom = "0x00000000febc0000 0x00000000febcffff 0x0000000000046200\n"

    assert parse_resource_file(NOTHING * 6 + rom * 7) == {}


def test_a_bar_without_an_address_keeps_its_size() -> None:
    text = "0x0000000000000000 0x0000000000003fff 0x0000000020140204\n"

    assert parse_resource_file(text) == {0: MemoryBar(0, Width64, False, 0, 0x4000)}


@pytest.mark.parametrize(
    "line",
    [
        "0x0000000000000000 0x0000000000000000 0x0000000000040200",
        "0x0000000000000000 0xffffffffffffffff 0x0000000000040200",
    ],
)
def test_an_empty_range_is_no_bar(line: str) -> None:
    assert parse_resource_file(line) == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "not three hexadecimal numbers"),
        ("0x0 0x0", "not three hexadecimal numbers"),
        ("0x0 0x0 0x0 0x0", "not three hexadecimal numbers"),
        ("zero 0x0 0x0", "not three hexadecimal numbers"),
        ("-0x1 0x0 0x200", "negative"),
        ("0x2000 0x1000 0x200", "ends before it starts"),
        ("0x1000 0x1fff 0x400", "neither memory nor I/O"),
    ],
)
def test_a_line_that_cannot_be_one_is_refused_with_its_number(line: str, problem: str) -> None:
    with pytest.raises(PciError, match=f"line 2: .*{problem}") as caught:
        parse_resource_file(NOTHING + line + "\n")
    assert caught.value.errno == errno.EINVAL


@given(st.text(max_size=200))
def test_any_text_is_bars_or_a_typed_error(text: str) -> None:
    with suppress(PciError):
        assert len(parse_resource_file(text)) <= 6


@given(bar_sets())
def test_the_kernels_text_and_sizing_agree(bars: list[BarInfo]) -> None:
    lines: list[Any] = [NOTHING] * 7
    for bar in bars:
        lines[bar.index] = _resource_line(bar)
    expected = {bar.index: bar for bar in bars}

    assert parse_resource_file("".join(lines)) == expected == ConfigSpace(function_with(*bars)).read_bars()


def _resource_line(bar: BarInfo) -> str:
    """As Linux writes it: IORESOURCE_ flags, with the low bits of the register in the low byte."""
    if isinstance(bar, IoBar):
        flags = 0x40101
    else:
        flags = 0x40200 | bar.address_type << 1 | bar.prefetchable << 3 | bar.prefetchable << 13
        flags |= 0x10_0000 if bar.address_type is Width64 else 0
    return f"{bar.address:#018x} {bar.address + bar.size - 1:#018x} {flags:#018x}\n"
