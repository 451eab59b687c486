"""How long ranges are cut into segments, for all limits that a device may have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hwloop.device.blk_limits import RangeLimits
from hwloop.device.blk_ranges import _cut


@given(
    offset=st.integers(0, 1 << 54),
    blocks=st.integers(1, 500),
    most=st.none() | st.integers(1, 600),
    alignment=st.integers(1, 600),
    flags=st.sampled_from([0, 1]),
)
def test_segments_are_the_range_no_more_no_less(
    offset: int, blocks: int, most: int | None, alignment: int, flags: int
) -> None:
    block = 4096
    limits = RangeLimits(most and most * block, 1, alignment * block)
    segments = list(_cut(offset * block, blocks * block, limits, flags))
    position = offset * 8
    for segment in segments:
        assert segment.sector == position
        assert segment.sectors > 0
        assert segment.sectors % 8 == 0
        assert most is None or segment.sectors <= most * 8
        assert segment.flags == flags
        assert len(segment.format()) == 16, "so that it fits the words of the protocol"
        position += segment.sectors
    assert position == (offset + blocks) * 8


@given(blocks=st.integers(1, 500), most=st.integers(1, 100), alignment=st.integers(1, 100))
def test_a_range_is_cut_at_aligned_places_where_there_is_one_in_reach(blocks: int, most: int, alignment: int) -> None:
    limits = RangeLimits(most * 512, 1, alignment * 512)
    for segment in list(_cut(512, blocks * 512, limits, 0))[:-1]:
        end = segment.sector + segment.sectors
        in_reach = range(segment.sector + 1, segment.sector + most + 1)
        assert end % alignment == 0 or not any(place % alignment == 0 for place in in_reach)


def test_a_range_of_a_disk_of_many_exabytes_fits_32_bits() -> None:
    segments = list(_cut(0, 1 << 44, RangeLimits(None, 1, 512), 0))
    assert sum(segment.sectors for segment in segments) == 1 << 35
    assert all(segment.sectors < 1 << 32 for segment in segments)
