"""Registers by name: what a class may declare, what an instance may do, and what a type checker says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mmio
from mmio import (
    Access,
    FakeRegion,
    LoggingRegion,
    ReadOnly8,
    ReadOnly16,
    ReadOnly32,
    ReadWrite8,
    ReadWrite32,
    ReadWrite64,
    ReadWrite64HiLo,
    ReadWrite64LoHi,
    RegionBoundsError,
    RegisterBlock,
    ValueRangeError,
    WriteOnly16,
    WriteOnly32,
)


class Sample(RegisterBlock):
    select = ReadWrite32(0x00)
    offered = ReadOnly32(0x04)
    notify = WriteOnly16(0x08)
    status = ReadWrite8(0x0A)
    area = ReadWrite64LoHi(0x14)
    other_area = ReadWrite64HiLo(0x1C)
    counter = ReadWrite64(0x28)


@pytest.fixture
def log() -> LoggingRegion:
    return LoggingRegion(FakeRegion(0x40))


@pytest.fixture
def block(log: LoggingRegion) -> Sample:
    return Sample(log)


def test_a_register_is_read_at_its_offset_in_its_width(block: Sample, log: LoggingRegion) -> None:
    block.select.write(0x01020304)
    assert block.select.read() == 0x01020304
    assert log.log == [Access("write", 0, 4, 0x01020304), Access("read", 0, 4, 0x01020304)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("notify", [(0x08, 2, 0x12)]),
        ("status", [(0x0A, 1, 0x12)]),
        ("area", [(0x14, 4, 0x12), (0x18, 4, 0)]),
        ("other_area", [(0x20, 4, 0), (0x1C, 4, 0x12)]),
        ("counter", [(0x28, 8, 0x12)]),
    ],
)
def test_every_form_makes_its_own_accesses(
    block: Sample, log: LoggingRegion, name: str, expected: list[tuple[int, int, int]]
) -> None:
    getattr(block, name).write(0x12)
    assert log.log == [Access("write", *access) for access in expected]


@pytest.mark.parametrize("direction", ["ReadOnly", "WriteOnly", "ReadWrite"])
@pytest.mark.parametrize(
    ("suffix", "accesses"),
    [("8", [1]), ("16", [2]), ("32", [4]), ("64", [8]), ("64LoHi", [4, 4]), ("64HiLo", [4, 4])],
)
def test_every_direction_comes_in_every_width(
    log: LoggingRegion, direction: str, suffix: str, accesses: list[int]
) -> None:
    declare = getattr(mmio, direction + suffix)
    kind: Any = type("One", (RegisterBlock,), {"one": declare(0x08)})
    register = kind(log).one
    if direction == "WriteOnly":
        register.write(1)
    else:
        register.read()
    assert [access.width for access in log.log] == accesses
    assert register.width == sum(accesses) == kind.span - 8


def test_what_is_only_offered_cannot_be_written(block: Sample) -> None:
    assert block.offered.read() == 0
    with pytest.raises(AttributeError, match="write"):
        block.offered.write(1)  # type: ignore[attr-defined]


def test_what_is_only_taken_cannot_be_read(block: Sample) -> None:
    with pytest.raises(AttributeError, match="read"):
        block.notify.read()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "advice"), [("select", r"use \.select\.write\(value\)"), ("offered", "for reading")])
def test_assigning_to_a_register_is_refused(block: Sample, log: LoggingRegion, name: str, advice: str) -> None:
    with pytest.raises(AttributeError, match=advice):
        setattr(block, name, 1)
    assert log.log == []


def test_a_bound_register_knows_its_name_and_place_without_touching_the_device(
    block: Sample, log: LoggingRegion
) -> None:
    register = block.area
    assert (register.name, register.offset, register.width) == ("area", 0x14, 8)
    assert repr(register) == "<ReadableWritable area at 0x14, 64 bits>"
    assert log.log == []


def test_the_class_lists_its_registers_by_offset() -> None:
    listed = [(item.name, item.offset, item.readable, item.writable) for item in Sample.registers()]
    assert listed[:4] == [
        ("select", 0x00, True, True),
        ("offered", 0x04, True, False),
        ("notify", 0x08, False, True),
        ("status", 0x0A, True, True),
    ]
    assert Sample.offered is Sample.registers()[1]


def test_the_span_reaches_the_end_of_the_last_register() -> None:
    assert Sample.span == 0x30
    assert RegisterBlock.span == 0


def test_a_region_that_is_too_short_is_noticed_by_the_registers_beyond_it() -> None:
    block = Sample(FakeRegion(0x18))
    block.select.write(1)
    with pytest.raises(RegionBoundsError, match="8 bytes at offset 0x14"):
        block.area.write(1)
    with pytest.raises(RegionBoundsError):
        block.counter.read()


def test_a_value_too_large_for_the_register_is_refused(block: Sample) -> None:
    with pytest.raises(ValueRangeError):
        block.status.write(0x100)


def test_a_subclass_adds_to_what_it_inherits() -> None:
    class Longer(Sample):
        extra = ReadOnly16(0x30)

    assert Longer.registers()[:-1] == Sample.registers()
    assert Longer.span == 0x32


def declare(**registers: Any) -> type[RegisterBlock]:
    return type("Declared", (RegisterBlock,), registers)


@pytest.mark.parametrize(
    "registers",
    [
        {"a": ReadOnly32(0), "b": ReadOnly16(2)},
        {"a": ReadOnly32(0), "b": ReadWrite32(0)},
        {"a": ReadOnly32(0), "b": ReadOnly32(0)},
        {"a": ReadOnly32(0), "b": WriteOnly16(0)},
        {"a": ReadWrite64(0), "b": ReadOnly8(1), "c": ReadOnly8(7)},
        {"a": ReadOnly32(0), "b": WriteOnly32(0), "c": ReadOnly32(0)},
    ],
)
def test_overlapping_registers_are_refused_when_the_class_is_made(registers: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="overlap"):
        declare(**registers)


def test_a_subclass_that_overlaps_what_it_inherits_is_refused() -> None:
    with pytest.raises(TypeError, match=r"select .* and clash .* overlap"):
        type("Clash", (Sample,), {"clash": ReadOnly8(3)})


def test_one_to_read_and_one_to_write_may_share_a_place() -> None:
    assert declare(state=ReadOnly32(0), command=WriteOnly32(0)).span == 4


@pytest.mark.parametrize("register", [ReadOnly16(1), ReadOnly32(2), ReadWrite64(4), ReadWrite64LoHi(2), ReadOnly8(-1)])
def test_a_misplaced_register_is_refused_when_the_class_is_made(register: Any) -> None:
    with pytest.raises(TypeError, match=r"Declared\.misplaced is at "):
        declare(misplaced=register)


def test_a_register_may_not_hide_what_the_block_has() -> None:
    with pytest.raises(TypeError, match="span hides"):
        declare(span=ReadOnly8(0))


TYPED = """
from mmio import ReadOnly32, ReadWrite32, RegisterBlock, Region, WriteOnly32

class Block(RegisterBlock):
    both = ReadWrite32(0)
    offered = ReadOnly32(4)
    taken = WriteOnly32(8)

def use(region: Region) -> int:
    block = Block(region)
    block.both.write(block.offered.read())
    block.taken.write(1)
    width: int = Block.both.width
    block.offered.write(1)  # refused
    block.taken.read()  # refused
    block.both = 1  # refused
    return block.both.read() + width
"""


def test_a_type_checker_knows_the_directions(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    source = tmp_path / "typed.py"
    source.write_text(TYPED)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(source)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    errors = [line.split(":", 1)[1] for line in done.stdout.splitlines() if ": error:" in line]
    refused = [number for number, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# refused")]
    assert [int(error.split(":")[0]) for error in errors] == refused, done.stdout
    assert '"Readable" has no attribute "write"' in errors[0]
    assert '"Writable" has no attribute "read"' in errors[1]
