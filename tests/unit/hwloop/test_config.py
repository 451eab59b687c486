"""Fields of a configuration space: place, width, direction."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hwloop.config import ConfigStruct, Field, ReadOnly, ReadWrite, WriteOnly, read_config, write_config
from hwloop.device.blk_protocol import FIELD_FEATURES, BlkConfig
from hwloop.errors import DriverError, InvalidParam


class Recorder:
    """A configuration space that writes down what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def read_config_space(self, offset: int, width: int) -> int:
        self.calls.append(("read", offset, width))
        return 7

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        self.calls.append(("write", offset, width, value))


class Example(ConfigStruct):
    last = WriteOnly(6, 1)
    first = ReadOnly(0, 4)
    both = ReadWrite(4, 2)


def test_a_field_is_accessed_at_its_place_with_its_width() -> None:
    space = Recorder()
    assert read_config(space, Example.first) == 7
    write_config(space, Example.both, 0xFFFF)
    assert space.calls == [("read", 0, 4), ("write", 4, 2, 0xFFFF)]


def test_the_direction_is_kept_at_run_time() -> None:
    space = Recorder()
    with pytest.raises(DriverError, match="last cannot be read"):
        read_config(space, Example.last)  # type: ignore[arg-type]
    with pytest.raises(DriverError, match="first cannot be written"):
        write_config(space, Example.first, 1)  # type: ignore[arg-type]
    assert space.calls == []


@pytest.mark.parametrize("value", [-1, 0x100])
def test_a_value_that_does_not_fit_is_refused(value: int) -> None:
    space = Recorder()
    with pytest.raises(InvalidParam, match="does not fit the 1 bytes of configuration field last"):
        write_config(space, Example.last, value)
    assert space.calls == []


@pytest.mark.parametrize(("offset", "width"), [(0, 3), (0, 0), (1, 2), (2, 4), (4 + 2, 8), (-4, 4), (0, 16)])
def test_a_field_that_no_access_reaches_cannot_be_declared(offset: int, width: int) -> None:
    with pytest.raises(InvalidParam):
        ReadOnly(offset, width)


def test_the_fields_of_a_structure_are_listed_by_place() -> None:
    assert [field.name for field in Example.fields()] == ["first", "both", "last"]
    assert repr(Example.both) == "ReadWrite(both at 0x4, 2 bytes)"


def test_the_block_configuration_is_that_of_the_specification() -> None:
    """struct virtio_blk_config (VIRTIO 1.4, 5.2.4), offsets counted by hand."""
    assert {field.name: (field.offset, field.width) for field in BlkConfig.fields()} == {
        "capacity": (0, 8), "size_max": (8, 4), "seg_max": (12, 4), "cylinders": (16, 2), "heads": (18, 1),
        "sectors": (19, 1), "blk_size": (20, 4), "physical_block_exp": (24, 1), "alignment_offset": (25, 1),
        "min_io_size": (26, 2), "opt_io_size": (28, 4), "writeback": (32, 1), "num_queues": (34, 2),
        "max_discard_sectors": (36, 4), "max_discard_seg": (40, 4), "discard_sector_alignment": (44, 4),
        "max_write_zeroes_sectors": (48, 4), "max_write_zeroes_seg": (52, 4), "write_zeroes_may_unmap": (56, 1),
        "max_secure_erase_sectors": (60, 4), "max_secure_erase_seg": (64, 4), "secure_erase_sector_alignment": (68, 4),
            "zone_sectors": (72, 4), "max_open_zones": (76, 4), "max_active_zones": (80, 4),
            "max_append_sectors": (84, 4), "write_granularity": (88, 4), "zoned_model": (92, 1),
    }  # fmt: skip


def test_no_field_of_the_block_configuration_overlaps_another() -> None:
    fields = BlkConfig.fields()
    assert all(first.end <= second.offset for first, second in pairwise(fields))


def test_each_field_of_the_block_configuration_belongs_to_one_feature() -> None:
    named = [field.name for group in FIELD_FEATURES.values() for field in group]
    assert sorted(named) == sorted(field.name for field in BlkConfig.fields())
    assert isinstance(FIELD_FEATURES, dict)
    assert all(isinstance(field, Field) for group in FIELD_FEATURES.values() for field in group)
