"""Requests beyond reading and writing: what every disk that has them must do, and the splitting to its limits."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import partial

import pytest

from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_cache import CacheMode
from hwloop.device.blk_formats import Lifetime, PreEol, ZonedModel, ZoneState, ZoneType
from hwloop.device.blk_limits import Geometry, RangeLimits, ZoneLimits
from hwloop.device.blk_protocol import BlkConfig, RequestType
from hwloop.device.fake_blk import FakeBlk
from hwloop.device.stream import read_range, write_range
from hwloop.errors import DeviceClosed, DeviceError, InvalidParam, IoError, ReadOnlyDisk, Unsupported
from tests.contract.door import Door
from tests.contract.doors import DOORS, FakeDoor
from tests.contract.test_block import MIB, pattern
from tests.contract.vhost_doors import DeviceProcessDoor, VhostUserDoor

KIB = 1 << 10
_QEMU = ["qtest-q35", "qtest-q35-transitional-legacy", "qtest-microvm-2", "vhost-user-qsd"]
_FAKES = ["fake", "mmio-1", "mmio-2", "pci", "pci-legacy", "vhost-user"]
_MODERN_FAKES = ["fake", "mmio-2", "pci", "vhost-user", "testdev"]


def _opened(name: str) -> Iterator[Door]:
    door = partial(DeviceProcessDoor, "testdev")() if name == "testdev" else DOORS[name]()
    yield door
    door.close()


@pytest.fixture(params=[*_FAKES, "testdev", *(pytest.param(name, marks=pytest.mark.qemu) for name in _QEMU)])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    yield from _opened(request.param)


@pytest.fixture(params=_MODERN_FAKES)
def modern(request: pytest.FixtureRequest) -> Iterator[Door]:
    """A disk that can be anything."""
    yield from _opened(request.param)


def opened(door: Door, size: int = MIB, **wants: object) -> VirtioBlk:
    disk = door.open(size, **wants)
    assert isinstance(disk, VirtioBlk)
    return disk


def shaped(door: Door, shape: str, size: int = MIB, **wants: object) -> VirtioBlk:
    return opened(door, size, shape=shape, **wants)


def device_of(door: Door) -> FakeBlk:
    assert isinstance(door, FakeDoor | VhostUserDoor)
    return door.device


@pytest.fixture
def fake() -> Iterator[FakeDoor]:
    door = FakeDoor("fake")
    yield door
    door.close()


# --- Ranges -----------------------------------------------------------------------------------------------------------


def test_a_discarded_range_leaves_the_rest_as_it_is(door: Door) -> None:
    disk = opened(door, discard=True)
    disk.write(0, pattern(MIB))
    disk.discard(64 * KIB, 128 * KIB)
    assert disk.pread(64 * KIB, 0) == pattern(MIB)[: 64 * KIB]
    assert disk.pread(MIB, 192 * KIB) == pattern(MIB)[192 * KIB :]


@pytest.mark.parametrize("unmap", [False, True])
def test_a_zeroed_range_reads_zeros_and_is_zeros_on_the_disk(door: Door, unmap: bool) -> None:
    disk = opened(door, write_zeroes=True)
    disk.write(0, pattern(MIB))
    disk.write_zeroes(8 * KIB, 512 * KIB, unmap=unmap)
    disk.flush()
    whole = pattern(MIB)[: 8 * KIB] + bytes(512 * KIB) + pattern(MIB)[520 * KIB :]
    assert disk.pread(MIB, 0) == whole
    assert door.backing(0, MIB) == whole


def test_many_ranges_are_zeroed_in_one_call(door: Door) -> None:
    disk = opened(door, write_zeroes=True)
    disk.write(0, pattern(MIB))
    disk.write_zeroes_ranges((offset, 512) for offset in range(0, 64 * KIB, 1024))
    for offset in range(0, 64 * KIB, 1024):
        assert disk.pread(1024, offset) == bytes(512) + pattern(MIB)[offset + 512 : offset + 1024]


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (0, -512), (1, 512), (0, 100), (-512, 512), (MIB, 512), (MIB - 512, 1024), (1 << 64, 512), (0, 1 << 70)],
)
def test_ranges_that_are_not_on_the_disk_are_refused_and_none_of_a_call_is_sent(
    door: Door, offset: int, length: int
) -> None:
    disk = opened(door, discard=True, write_zeroes=True)
    disk.write(0, pattern(512))
    for attempt in (disk.discard_ranges, disk.write_zeroes_ranges):
        with pytest.raises(InvalidParam) as caught:
            attempt([(0, 512), (offset, length)])
        assert caught.value.errno == (
            errno.ENOSPC if offset in (MIB, MIB - 512, 1 << 64) or length > MIB else errno.EINVAL
        )
    assert disk.pread(512, 0) == pattern(512)


def test_a_disk_without_the_request_says_so(modern: Door) -> None:
    disk = opened(modern)
    for attempt in (
        lambda: disk.discard(0, 512),
        lambda: disk.write_zeroes(0, 512),
        lambda: disk.secure_erase(0, 512),
        disk.lifetime,
        disk.zones,
        lambda: disk.append_to_zone(0, bytes(512)),
        disk.reset_all_zones,
        lambda: disk.set_cache_mode("writeback"),
    ):
        with pytest.raises(Unsupported) as caught:
            attempt()
        assert caught.value.errno == errno.EOPNOTSUPP


def test_a_read_only_disk_is_asked_for_no_change(modern: Door) -> None:
    disk = shaped(
        modern, "secure-erase=on&zoned=host-managed&zone-size=256k", read_only=True, discard=False, write_zeroes=True
    )
    for attempt in (
        lambda: disk.write_zeroes(0, 512),
        lambda: disk.secure_erase(0, 256 * KIB),
        lambda: disk.open_zone(0),
        lambda: disk.close_zone(0),
        lambda: disk.finish_zone(0),
        lambda: disk.reset_zone(0),
        disk.reset_all_zones,
        lambda: disk.append_to_zone(0, bytes(512)),
        lambda: disk.pwrite(b"x", 0),
    ):
        with pytest.raises(ReadOnlyDisk) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS


def test_ranges_are_cut_to_the_limits_of_the_device(fake: FakeDoor) -> None:
    """The device refuses a request over its limits; so it is enough to count them."""
    disk = shaped(fake, "discard-max=12k&discard-segments=3&discard-alignment=8k", discard=True)
    assert disk.limits.discard == RangeLimits(12 * KIB, 3, 8 * KIB)
    fake.device.requests.clear()
    disk.discard(4 * KIB, 100 * KIB)
    # 4-16, then up to 8k-aligned places: 16-24, ..., 96-104.
    assert fake.device.requests == [RequestType.DISCARD] * 4
    disk.discard_ranges([(0, 4 * KIB), (16 * KIB, 4 * KIB), (32 * KIB, 4 * KIB), (48 * KIB, 4 * KIB)])
    assert len(fake.device.requests) == 6


def test_limits_of_zero_say_nothing_and_one_segment_is_always_allowed(fake: FakeDoor) -> None:
    disk = shaped(fake, "write-zeroes-max=0&write-zeroes-segments=0", write_zeroes=True)
    assert disk.limits.write_zeroes == RangeLimits(None, 1, 512)
    fake.device.requests.clear()
    disk.write_zeroes_ranges([(0, MIB // 2), (MIB // 2, MIB // 2)])
    assert fake.device.requests == [RequestType.WRITE_ZEROES] * 2


def test_segments_travel_in_pieces_of_size_max(fake: FakeDoor) -> None:
    disk = shaped(fake, "discard-segments=1000", discard=True, size_max=512, seg_max=4)
    fake.device.requests.clear()
    disk.discard_ranges((offset, 512) for offset in range(0, MIB, 1024))
    assert fake.device.requests == [RequestType.DISCARD] * 8, "1024 segments of 16 bytes, 2048 bytes a request"


def test_when_ranges_fail_nobody_knows_which(fake: FakeDoor) -> None:
    disk = opened(fake, discard=True)
    fake.device.blk_faults.io_error = 1
    with pytest.raises(IoError) as caught:
        disk.discard(0, 4096)
    assert any("not known which" in note for note in caught.value.__notes__)


# --- Secure erase, lifetime -------------------------------------------------------------------------------------------


def test_what_is_erased_is_gone_and_units_are_kept_to(modern: Door) -> None:
    disk = shaped(modern, "secure-erase=on&secure-erase-alignment=64k&secure-erase-max=128k", size=MIB + 4 * KIB)
    disk.write(0, pattern(MIB))
    for offset, length in ((4 * KIB, 64 * KIB), (0, 4 * KIB), (64 * KIB, 100 * KIB)):
        with pytest.raises(InvalidParam, match="units of 65536 bytes"):
            disk.secure_erase(offset, length)
    disk.secure_erase(64 * KIB, 512 * KIB)
    disk.secure_erase(MIB, 4 * KIB)
    assert disk.pread(MIB, 0) == pattern(MIB)[: 64 * KIB] + bytes(512 * KIB) + pattern(MIB)[576 * KIB :]
    assert modern.backing(64 * KIB, 512 * KIB) == bytes(512 * KIB)


def test_the_lifetime_is_told(modern: Door) -> None:
    disk = shaped(modern, "lifetime=2,11,0")
    assert disk.lifetime() == Lifetime(PreEol.WARNING, 11, 0)
    assert "VIRTIO_BLK_F_LIFETIME" in disk.features


def test_a_lifetime_of_reserved_values_is_not_believed(fake: FakeDoor) -> None:
    disk = shaped(fake, "lifetime=1,1,1")
    fake.device.lifetime = Lifetime(PreEol.NORMAL, 12, 0)
    with pytest.raises(DeviceError, match="reserved"):
        disk.lifetime()


# --- The cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begins", ["writeback", "writethrough"])
def test_the_cache_mode_is_read_and_switched(door: Door, begins: str) -> None:
    if begins == "writethrough" and "shape" not in door.can:
        pytest.skip("QEMU's cache begins as writeback")
    disk = opened(door, write_cache=begins)
    if "shape" in door.can:
        assert disk.cache_mode is CacheMode(begins)
    for mode in ("writethrough", "writeback"):
        disk.set_cache_mode(mode)
        assert disk.cache_mode is disk.read_cache_mode() is CacheMode(mode)
        disk.write(0, pattern(512))
        assert disk.read(0, 512) == pattern(512)
    with pytest.raises(InvalidParam, match="writeback or writethrough"):
        disk.set_cache_mode("none")


@pytest.mark.fault(58)
def test_a_cache_is_switched_while_writes_are_on_their_way_and_a_flush_covers_them(door: Door) -> None:
    disk = opened(door, write_cache="writeback")
    for turn in range(4):
        tokens = [disk.submit_write(8 * at, bytes([turn, at]) * 256) for at in range(8)]
        disk.set_cache_mode(("writethrough", "writeback")[turn % 2])
        for token in tokens:
            disk.wait(token)
        disk.flush()
        for at in range(8):
            assert door.backing(8 * at * 512, 512) == bytes([turn, at]) * 256


@pytest.mark.fault(58)
def test_writes_of_before_the_switch_count_as_volatile_until_a_flush(fake: FakeDoor) -> None:
    """A device may finish what it has begun as it likes; what it was asked for meanwhile does not make it durable."""
    disk = opened(fake, write_cache="writethrough")
    fake.device.hold = True
    token = disk.submit_write(0, b"v" * 512)
    disk.set_cache_mode("writeback")
    fake.device.hold = False
    fake.device.release()
    disk.wait(token)
    assert fake.device.durable[:512] == bytes(512), "it was a write-through cache when this was sent"
    disk.flush()
    assert fake.device.durable[:512] == b"v" * 512


def test_writing_through_makes_durable_what_is_written_and_what_was(fake: FakeDoor) -> None:
    disk = opened(fake, write_cache="writeback")
    disk.write(0, b"a" * 512)
    assert fake.device.durable[:512] == bytes(512)
    disk.set_cache_mode(CacheMode.WRITETHROUGH)
    assert fake.device.durable[:512] == b"a" * 512
    disk.write(1, b"b" * 512)
    assert fake.device.durable[512:1024] == b"b" * 512


@pytest.mark.parametrize(("flush", "mode"), [(True, CacheMode.WRITEBACK), (False, CacheMode.WRITETHROUGH)])
def test_what_is_taken_for_the_mode_of_a_cache_that_cannot_be_asked(modern: Door, flush: bool, mode: CacheMode) -> None:
    assert opened(modern, flush=flush).cache_mode is mode


def test_a_write_with_fua_is_durable_when_it_returns(fake: FakeDoor) -> None:
    disk = opened(fake)
    disk.pwrite(b"f" * 100, 1000, fua=True)
    assert fake.device.durable[1000:1100] == b"f" * 100


def test_a_device_that_does_not_take_the_mode_is_found_out(fake: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = opened(fake, write_cache="writeback")
    monkeypatch.setattr(fake.device, "write_config", lambda offset, width, value: None)
    with pytest.raises(DeviceError, match="did not take writethrough"):
        disk.set_cache_mode("writethrough")


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_limits_are_told_in_bytes(modern: Door) -> None:
    disk = shaped(
        modern,
        "geometry=100/16/63&physical-block-size=16k&alignment-offset=2&min-io=16k&opt-io=1M"
        "&discard-max=1M&discard-segments=7&discard-alignment=64k",
        block_size=4096,
        size_max=64 * KIB,
        seg_max=10,
        discard=True,
    )
    limits = disk.limits
    assert limits.geometry == Geometry(100, 16, 63)
    assert (limits.block_size, limits.physical_block_size, limits.alignment_offset) == (4096, 16 * KIB, 8192)
    assert (limits.min_io, limits.opt_io) == (16 * KIB, MIB)
    assert (limits.max_segment, limits.max_segments, limits.max_transfer) == (64 * KIB, 10, 640 * KIB)
    assert limits.discard == RangeLimits(MIB, 7, 64 * KIB)
    assert (limits.write_zeroes, limits.secure_erase, limits.zones) == (None, None, None)


def test_a_disk_that_says_nothing_has_few_limits(modern: Door) -> None:
    limits = opened(modern).limits
    assert (limits.physical_block_size, limits.geometry, limits.max_segment, limits.discard) == (None, None, None, None)


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
def test_every_block_size_there_is(modern: Door, block_size: int) -> None:
    disk = opened(modern, block_size=block_size, discard=True, write_zeroes=True)
    assert disk.block_size() == block_size
    disk.pwrite(pattern(3 * block_size), block_size - 7)
    assert disk.pread(3 * block_size, block_size - 7) == pattern(3 * block_size)
    disk.write_zeroes(block_size, block_size)
    disk.discard(2 * block_size, block_size)
    assert disk.pread(block_size, block_size) == bytes(block_size)
    if block_size > 512:
        with pytest.raises(InvalidParam, match="not whole blocks"):
            disk.write_zeroes(0, 512)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (BlkConfig.zone_sectors, 0, "zones of 0 bytes"),
        (BlkConfig.zone_sectors, 3, "zones of 1536 bytes are not whole blocks of 4096"),
        (BlkConfig.write_granularity, 0, "granularity of 0"),
        (BlkConfig.write_granularity, 100, "granularity of 100"),
        (BlkConfig.zoned_model, 3, "no zoned model 3"),
        (BlkConfig.max_discard_sectors, 1, "a range of at most 512 bytes is less than a block"),
    ],
)
def test_limits_that_cannot_be_are_refused(fake: FakeDoor, field: BlkConfig, value: int, words: str) -> None:
    zoned = "zoned=host-aware&zone-size=256k"
    shaped(fake, zoned, block_size=4096, discard=True).close()
    fake.device.set_config(field.offset, field.width, value)  # type: ignore[attr-defined]
    with pytest.raises(DeviceError, match=words):
        fake.reopen()


# --- Zones ------------------------------------------------------------------------------------------------------------

_ZONED = "zoned=host-managed&zone-size=128k&zone-capacity=96k&conventional-zones=1&max-append=16k"


def test_zones_are_reported_from_anywhere(modern: Door) -> None:
    disk = shaped(modern, _ZONED, size=MIB + 64 * KIB)
    zones = disk.zones()
    assert [zone.offset for zone in zones] == list(range(0, MIB + 1, 128 * KIB))
    assert [zone.length for zone in zones] == [128 * KIB] * 8 + [64 * KIB]
    assert (zones[0].type, zones[0].state, zones[0].write_pointer) == (
        ZoneType.CONVENTIONAL,
        ZoneState.NOT_WP,
        None,
    )
    assert (zones[1].capacity, zones[1].write_pointer, zones[1].state) == (96 * KIB, 128 * KIB, ZoneState.EMPTY)
    assert disk.zones(200 * KIB, 2) == zones[1:3]
    assert disk.zones(MIB + 1) == zones[8:]
    assert disk.zones(0, 0) == []
    for offset in (-1, MIB + 64 * KIB):
        with pytest.raises(InvalidParam):
            disk.zones(offset)


def test_more_zones_than_one_report_holds(modern: Door) -> None:
    disk = shaped(modern, "zoned=host-managed&zone-size=4k", size=5 * MIB)
    zones = disk.zones()
    assert [zone.offset for zone in zones] == list(range(0, 5 * MIB, 4096))


def test_the_life_of_a_zone(modern: Door) -> None:
    disk = shaped(modern, _ZONED)
    start = 256 * KIB

    def state() -> ZoneState:
        return disk.zones(start, 1)[0].state

    disk.open_zone(start)
    assert state() is ZoneState.EXPLICITLY_OPEN
    disk.pwrite(pattern(4096), start)
    disk.close_zone(start)
    assert (state(), disk.zones(start, 1)[0].write_pointer) == (ZoneState.CLOSED, start + 4096)
    assert disk.append_to_zone(start, pattern(8192)) == start + 4096
    assert state() is ZoneState.IMPLICITLY_OPEN
    disk.finish_zone(start)
    assert state() is ZoneState.FULL
    assert disk.pread(12288, start) == pattern(4096) + pattern(8192)
    disk.reset_zone(start)
    assert state() is ZoneState.EMPTY
    disk.append_to_zone(start, bytes(512))
    disk.reset_all_zones()
    assert {zone.state for zone in disk.zones()[1:]} == {ZoneState.EMPTY}


def test_reads_and_writes_of_any_length_are_split_where_zones_end(modern: Door) -> None:
    disk = shaped(modern, "zoned=host-managed&zone-size=128k")
    assert disk.limits.zones == ZoneLimits(ZonedModel.HOST_MANAGED, 128 * KIB, 0, 0, 128 * KIB, 512)
    disk.write(0, pattern(MIB))
    assert disk.read(1, MIB - 512) == pattern(MIB)[512:]
    assert b"".join(read_range(disk, 1000, MIB - 2000)) == pattern(MIB)[1000:-1000]
    disk.reset_all_zones()
    chunks = [pattern(MIB)[at : at + 50_000] for at in range(0, MIB, 50_000)]
    assert list(write_range(disk, 0, chunks))[-1] == MIB
    assert disk.pread(MIB, 0) == pattern(MIB)


def test_a_write_away_from_the_pointer_is_the_devices_error(modern: Door) -> None:
    disk = shaped(modern, _ZONED)
    with pytest.raises(IoError, match="not at the write pointer of its zone") as caught:
        disk.pwrite(bytes(512), 129 * KIB)
    assert caught.value.errno == errno.EIO
    assert (caught.value.sector, caught.value.queue, caught.value.status) == (258, 0, 4)
    assert "sector 258, queue 0" in caught.value.__notes__


def test_too_many_zones_have_an_errno_of_their_own(modern: Door) -> None:
    disk = shaped(modern, "zoned=host-managed&zone-size=128k&max-open-zones=1&max-active-zones=2")
    disk.open_zone(0)
    with pytest.raises(IoError, match="ZONE_OPEN_RESOURCE") as caught:
        disk.open_zone(128 * KIB)
    assert caught.value.errno == errno.ETOOMANYREFS
    disk.pwrite(bytes(512), 0)
    disk.close_zone(0)
    disk.append_to_zone(128 * KIB, bytes(512))
    with pytest.raises(IoError, match="ZONE_ACTIVE_RESOURCE") as caught:
        disk.append_to_zone(256 * KIB, bytes(512))
    assert caught.value.errno == errno.EOVERFLOW


@pytest.mark.parametrize("offset", [-(128 * KIB), 1, 512, MIB])
def test_an_offset_that_begins_no_zone_is_refused(modern: Door, offset: int) -> None:
    disk = shaped(modern, _ZONED)
    for attempt in (disk.open_zone, disk.close_zone, disk.finish_zone, disk.reset_zone):
        with pytest.raises(InvalidParam, match="no zone begins"):
            attempt(offset)
    with pytest.raises(InvalidParam):
        disk.append_to_zone(offset, bytes(512))


def test_what_cannot_be_appended_is_not_sent(modern: Door) -> None:
    disk = shaped(modern, f"{_ZONED}&write-granularity=4k")
    for length in (0, 512, 6144, 20 * KIB):
        with pytest.raises(InvalidParam, match="cannot be appended"):
            disk.append_to_zone(128 * KIB, bytes(length))


def test_a_device_that_cannot_append_says_so(modern: Door) -> None:
    disk = shaped(modern, "zoned=host-managed&zone-size=128k&max-append=0")
    with pytest.raises(Unsupported, match="max_append_sectors is 0"):
        disk.append_to_zone(0, bytes(512))


def test_discarding_is_not_accepted_of_a_host_managed_device(modern: Door) -> None:
    disk = shaped(modern, _ZONED, discard=True)
    assert "VIRTIO_BLK_F_DISCARD" not in disk.features
    with pytest.raises(Unsupported):
        disk.discard(0, 512)


def test_a_host_aware_disk_is_written_like_any_other(modern: Door) -> None:
    disk = shaped(modern, "zoned=host-aware&zone-size=128k", discard=True)
    assert disk.zoned_model is ZonedModel.HOST_AWARE
    disk.pwrite(pattern(300 * KIB), 100 * KIB)
    assert disk.pread(300 * KIB, 100 * KIB) == pattern(300 * KIB)
    disk.discard(0, 512)
    assert {zone.type for zone in disk.zones()} == {ZoneType.SEQUENTIAL_PREFERRED}


def test_a_disk_that_manages_its_zones_itself_has_none(modern: Door) -> None:
    disk = shaped(modern, "zoned=none")
    assert (disk.zoned_model, disk.limits.zones) == (ZonedModel.NONE, None)
    with pytest.raises(Unsupported, match="manages them itself"):
        disk.zones()


def test_erasing_resets_zones(modern: Door) -> None:
    disk = shaped(modern, f"{_ZONED}&secure-erase=on")
    disk.append_to_zone(128 * KIB, pattern(512))
    with pytest.raises(InvalidParam, match="units of 131072"):
        disk.secure_erase(128 * KIB, 4096)
    disk.secure_erase(128 * KIB, 128 * KIB)
    assert disk.zones(128 * KIB, 1)[0].state is ZoneState.EMPTY


@pytest.mark.parametrize("lie", ["none", "elsewhere", "capacity", "pointer", "behind"])
def test_a_report_that_cannot_be_is_not_believed(fake: FakeDoor, monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    disk = shaped(fake, "zoned=host-managed&zone-size=128k")
    zones = fake.device.zones
    assert zones is not None
    zone = zones.zones[2]
    if lie == "none":
        monkeypatch.setattr(zones, "report", lambda sector: iter(()))
    elif lie == "elsewhere":
        zone.start += 8
    elif lie == "capacity":
        zone.full_at += 8
    elif lie == "pointer":
        zone.write_pointer = zone.end + 1
    else:
        zones.zones.append(zones._new(8, MIB // 512, 1 << 20))
    with pytest.raises(DeviceError):
        disk.zones()


def test_an_append_that_lands_elsewhere_is_not_believed(fake: FakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = shaped(fake, "zoned=host-managed&zone-size=128k")
    assert fake.device.zones is not None
    monkeypatch.setattr(fake.device.zones, "append", lambda sector, count: 8)
    with pytest.raises(DeviceError, match="appended at 4096 to the zone at 131072"):
        disk.append_to_zone(128 * KIB, bytes(512))


# --- Its end ----------------------------------------------------------------------------------------------------------


def test_a_closed_disk_does_none_of_it(modern: Door) -> None:
    disk = shaped(modern, f"{_ZONED}&secure-erase=on&lifetime=1,1,1", write_zeroes=True, write_cache="writeback")
    disk.close()
    for attempt in (
        lambda: disk.write_zeroes(0, 512),
        lambda: disk.secure_erase(0, 128 * KIB),
        disk.lifetime,
        disk.zones,
        lambda: disk.reset_zone(128 * KIB),
        lambda: disk.append_to_zone(128 * KIB, bytes(512)),
        lambda: disk.set_cache_mode("writeback"),
        disk.read_cache_mode,
        lambda: disk.pread(1, 0),
        lambda: disk.pwrite(b"x", 0),
    ):
        with pytest.raises(DeviceClosed):
            attempt()
    assert disk.limits.zones is not None
