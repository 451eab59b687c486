"""The device side of the block protocol: what a strict device refuses, and what another one answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hwloop.device.blk_formats import (
    Lifetime,
    PreEol,
    Segment,
    ZoneDescriptor,
    ZonedModel,
    ZoneState,
    ZoneType,
    parse_report,
)
from hwloop.device.blk_protocol import BlkConfig, RequestType, RespStatus
from hwloop.device.fake_blk import FakeBlk, RequestBroken
from hwloop.device.fake_zones import ZoneShape
from hwloop.hal.fake import FakeHal
from hwloop.spec import BlkFeature, DeviceStatus
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, RuleBroken

F, R, S = BlkFeature, RequestType, RespStatus
EVERYTHING = int(MODERN | F.FLUSH | F.DISCARD | F.WRITE_ZEROES | F.SECURE_ERASE | F.LIFETIME | F.CONFIG_WCE)
ZONED = EVERYTHING & ~F.DISCARD | F.ZONED
SIZE = 1 << 20
ZONE = 256
SHAPE = ZoneShape(zone_sectors=ZONE, conventional=1, zone_capacity=192, max_append=64)


class Chain:
    """A buffer as the device side has one, without a ring."""

    def __init__(self, readable: list[bytes], writable: list[int]) -> None:
        self.data = b"".join(readable)
        self.readable = [(0, len(piece)) for piece in readable]
        self.writable = [(0, length) for length in writable]
        self.writable_bytes = sum(writable)
        self.written = bytearray(self.writable_bytes)

    def read(self) -> bytes:
        return self.data

    def write(self, data: bytes, offset: int = 0) -> int:
        self.written[offset : offset + len(data)] = data
        return len(data)


class Wire:
    """Sends requests to a device that has accepted `features`, as any driver could."""

    def __init__(self, features: int = EVERYTHING, *, accept: int | None = None, **shape: Any) -> None:
        self.device = FakeBlk(FakeHal(), SIZE, features=features, **shape)
        FakeTransport(self.device).begin_init(lambda offered: offered if accept is None else accept)

    def send(self, kind: int, sector: int = 0, payload: bytes = b"", room: int = 0) -> tuple[int, bytes]:
        """The status and what the device wrote in front of it."""
        header = kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")
        chain: Any = Chain([header] + [payload] * bool(payload), [room] * bool(room) + [1])
        written = self.device.serve(chain)
        assert written == room + 1
        return chain.written[-1], bytes(chain.written[:-1])

    def status(self, kind: int, sector: int = 0, payload: bytes = b"", room: int = 0) -> int:
        return self.send(kind, sector, payload, room)[0]

    def refuses(self, status: RespStatus, kind: int, sector: int = 0, payload: bytes = b"", room: int = 0) -> None:
        """A rule is broken: the strict device says so, another one answers with the status."""
        before = bytes(self.device.data)
        self.device.strict = True
        with pytest.raises(RequestBroken):
            self.status(kind, sector, payload, room)
        self.device.strict = False
        assert self.status(kind, sector, payload, room) == status
        assert self.device.data == before

    def zone(self, index: int) -> ZoneDescriptor:
        status, report = self.send(R.ZONE_REPORT, index * ZONE, room=128)
        assert status == S.OK
        return next(parse_report(report))

    def state(self, index: int) -> ZoneState:
        return self.zone(index).state


def segments(*ranges: tuple[int, int, int]) -> bytes:
    return b"".join(Segment(*each).format() for each in ranges)


# --- Ranges -----------------------------------------------------------------------------------------------------------


def test_zeroes_are_written_to_each_segment_and_nowhere_else() -> None:
    wire = Wire()
    wire.status(R.OUT, 0, b"x" * 8192)
    assert wire.status(R.WRITE_ZEROES, 0, segments((1, 2, 0), (5, 1, 1))) == S.OK
    assert wire.device.data[:4096] == b"x" * 512 + bytes(1024) + b"x" * 1024 + bytes(512) + b"x" * 1024


def test_an_erased_range_is_zeros_and_a_discarded_one_is_not() -> None:
    wire = Wire()
    wire.status(R.OUT, 0, b"x" * 2048)
    assert wire.status(R.DISCARD, 0, segments((0, 1, 0))) == S.OK
    assert wire.status(R.SECURE_ERASE, 0, segments((2, 1, 0))) == S.OK
    assert wire.device.data[512:1024] == b"x" * 512
    assert wire.device.data[:512] not in (b"x" * 512, bytes(512)), "or somebody would come to rely on it"
    assert wire.device.data[1024:1536] == bytes(512)


@pytest.mark.parametrize("kind", [R.DISCARD, R.WRITE_ZEROES, R.SECURE_ERASE])
@pytest.mark.parametrize(
    ("ranges", "sector", "cut"),
    [
        (((0, 0, 0),), 0, 0),
        (((2048, 1, 0),), 0, 0),
        (((2047, 2, 0),), 0, 0),
        ((((1 << 64) - 1, 1, 0),), 0, 0),
        (((0, 9, 0),), 0, 0),
        (((0, 1, 0),) * 3, 0, 0),
        (((0, 1, 0),), 1, 0),
        (((0, 1, 0),), 0, 1),
        ((), 0, 0),
        (((0, 1, 0), (2047, 2, 0)), 0, 0),
    ],
)
def test_ranges_against_the_rules_are_io_errors_and_nothing_is_done(
    kind: RequestType, ranges: tuple[tuple[int, int, int], ...], sector: int, cut: int
) -> None:
    limits = {field.name: 8 for field in BlkConfig.fields() if field.name.startswith("max_")}
    limits |= {field.name: 2 for field in BlkConfig.fields() if field.name.endswith("_seg")}
    payload = segments(*ranges)
    Wire(config=limits).refuses(S.IO_ERR, kind, sector, payload[: len(payload) - cut])


@pytest.mark.parametrize(
    ("kind", "flags"), [(R.DISCARD, 1), (R.DISCARD, 2), (R.SECURE_ERASE, 1), (R.WRITE_ZEROES, 2), (R.WRITE_ZEROES, 3)]
)
def test_flags_that_a_request_does_not_have_are_unsupported(kind: RequestType, flags: int) -> None:
    Wire().refuses(S.UNSUPPORTED, kind, 0, segments((0, 1, flags)))


def test_an_erase_is_aligned_unless_it_reaches_the_end() -> None:
    wire = Wire(config={"secure_erase_sector_alignment": 768})
    wire.refuses(S.IO_ERR, R.SECURE_ERASE, 0, segments((8, 768, 0)))
    wire.refuses(S.IO_ERR, R.SECURE_ERASE, 0, segments((0, 8, 0)))
    assert wire.status(R.SECURE_ERASE, 0, segments((1536, 512, 0))) == S.OK


# --- What was not negotiated, and what else is wrong ------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(set(R) - {R.IN, R.OUT, R.GET_ID}))
def test_a_request_whose_feature_was_not_accepted_is_unsupported(kind: RequestType) -> None:
    Wire(ZONED, accept=int(MODERN), zones=ZoneShape(ZonedModel.HOST_AWARE)).refuses(S.UNSUPPORTED, kind)


@pytest.mark.parametrize("kind", [2, 3, 5, 9, 12, 0x8000_0001, 0xFFFF_FFFF])
def test_types_that_do_not_exist_are_unsupported(kind: int) -> None:
    assert Wire().status(kind) == S.UNSUPPORTED


def test_a_read_only_disk_changes_nothing_whatever_it_is_asked() -> None:
    wire = Wire(ZONED | F.RO, zones=SHAPE)
    for kind in (R.OUT, R.WRITE_ZEROES, R.SECURE_ERASE, R.ZONE_APPEND, R.ZONE_RESET, R.ZONE_RESET_ALL):
        wire.refuses(S.IO_ERR, kind, 0, segments((0, 1, 0)))


@pytest.mark.parametrize(
    ("kind", "sector", "payload", "room"),
    [
        (R.IN, 2048, b"", 512),
        (R.IN, 0, b"", 511),
        (R.IN, 0, b"", 0),
        (R.OUT, 2047, bytes(1024), 0),
        (R.OUT, 0, bytes(100), 0),
        (R.FLUSH, 1, b"", 0),
        (R.FLUSH, 0, b"x", 0),
        (R.GET_ID, 0, b"", 19),
        (R.GET_LIFETIME, 0, b"", 8),
        (R.GET_LIFETIME, 1, b"", 6),
    ],
)
def test_requests_of_the_wrong_shape_are_io_errors(kind: RequestType, sector: int, payload: bytes, room: int) -> None:
    Wire().refuses(S.IO_ERR, kind, sector, payload, room)


def test_the_lifetime_is_what_the_device_was_given() -> None:
    lifetime = Lifetime(PreEol.URGENT, 11, 3)
    assert Wire(lifetime=lifetime).send(R.GET_LIFETIME, room=6) == (S.OK, lifetime.format())


# --- The cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "writeback", "durable"),
    [
        (0, 1, True),
        (F.FLUSH, 1, False),
        (F.FLUSH | F.CONFIG_WCE, 1, False),
        (F.FLUSH | F.CONFIG_WCE, 0, True),
        (F.CONFIG_WCE, 1, True),
    ],
)
def test_when_a_write_is_durable(accepted: int, writeback: int, durable: bool) -> None:
    wire = Wire(accept=int(MODERN) | int(accepted), config={"writeback": writeback})
    wire.status(R.OUT, 8, b"w" * 512)
    assert (wire.device.durable[8 * 512] == ord("w")) is durable
    if accepted & F.FLUSH:
        wire.status(R.FLUSH)
        assert wire.device.durable == wire.device.data


def test_the_cache_mode_is_the_only_thing_that_can_be_written_and_not_read_too_early() -> None:
    wire = Wire()
    wire.device.write_config(32, 1, 0)
    assert wire.device.field(BlkConfig.writeback) == 0
    for offset, width, value in ((0, 8, 1), (32, 1, 2), (33, 1, 1), (36, 4, 1)):
        with pytest.raises(RuleBroken):
            wire.device.write_config(offset, width, value)
    wire.device.write_status(0)
    with pytest.raises(RuleBroken, match="FEATURES_OK"):
        wire.device.read_config(32, 1)


# --- Zones ------------------------------------------------------------------------------------------------------------


def zoned(**changes: Any) -> Wire:
    return Wire(ZONED, zones=ZoneShape(**vars(SHAPE) | changes))


def test_a_report_begins_with_the_zone_of_its_sector_and_ends_with_the_buffer() -> None:
    wire = zoned()
    status, report = wire.send(R.ZONE_REPORT, 1, room=64 * 3 + 63)
    assert status == S.OK
    assert list(parse_report(report)) == [
        ZoneDescriptor(0, 256, 0, ZoneType.CONVENTIONAL, ZoneState.NOT_WP),
        ZoneDescriptor(256, 192, 256, ZoneType.SEQUENTIAL_REQUIRED, ZoneState.EMPTY),
    ]
    _, report = wire.send(R.ZONE_REPORT, 7 * ZONE + 255, room=1024)
    assert [zone.start for zone in parse_report(report)] == [7 * ZONE]


def test_the_last_zone_may_be_smaller() -> None:
    wire = zoned(zone_sectors=1536)
    assert wire.device.zones is not None
    assert [(zone.start, zone.end) for zone in wire.device.zones.zones] == [(0, 1536), (1536, 2048)]


def test_a_sequential_zone_is_written_at_its_pointer_until_it_is_full() -> None:
    wire = zoned()
    assert wire.status(R.OUT, 256, bytes(512 * 100)) == S.OK
    assert (wire.zone(1).write_pointer, wire.state(1)) == (356, ZoneState.IMPLICITLY_OPEN)
    assert wire.status(R.OUT, 256, bytes(512)) == S.ZONE_UNALIGNED_WP
    assert wire.status(R.OUT, 357, bytes(512)) == S.ZONE_UNALIGNED_WP
    assert wire.status(R.OUT, 356, bytes(512 * 93)) == S.ZONE_INVALID_CMD, "one sector more than the zone has"
    assert wire.status(R.OUT, 356, bytes(512 * 92)) == S.OK
    assert wire.state(1) == ZoneState.FULL
    assert wire.status(R.OUT, 448, bytes(512)) == S.ZONE_INVALID_CMD


def test_a_conventional_zone_is_written_anywhere() -> None:
    wire = zoned()
    assert wire.status(R.OUT, 100, b"c" * 512) == S.OK
    assert wire.status(R.OUT, 3, b"c" * 512) == S.OK
    assert wire.state(0) == ZoneState.NOT_WP


def test_no_request_reaches_over_the_end_of_a_sequential_zone() -> None:
    wire = zoned()
    assert wire.status(R.IN, 255, room=1024) == S.ZONE_INVALID_CMD
    assert wire.status(R.IN, 511, room=1024) == S.ZONE_INVALID_CMD
    assert wire.status(R.OUT, 255, bytes(1024)) == S.ZONE_INVALID_CMD
    assert wire.status(R.IN, 511, room=512) == S.OK


def test_writes_keep_to_the_granularity() -> None:
    wire = zoned(write_granularity=4096)
    assert wire.status(R.OUT, 256, bytes(512)) == S.ZONE_UNALIGNED_WP
    assert wire.status(R.OUT, 256, bytes(4096)) == S.OK
    wire.refuses(S.ZONE_INVALID_CMD, R.ZONE_APPEND, 256, bytes(512), 8)


def test_an_append_says_where_it_went() -> None:
    wire = zoned()
    for turn in range(3):
        status, where = wire.send(R.ZONE_APPEND, 512, bytes([turn + 1]) * 1024, 8)
        assert (status, int.from_bytes(where, "little")) == (S.OK, 512 + 2 * turn)
    assert wire.send(R.IN, 512, room=2048)[1] == b"\1" * 1024 + b"\2" * 1024


def test_what_cannot_be_appended() -> None:
    wire = zoned()
    assert wire.status(R.ZONE_APPEND, 0, bytes(512), 8) == S.ZONE_INVALID_CMD, "a conventional zone"
    wire.refuses(S.ZONE_INVALID_CMD, R.ZONE_APPEND, 257, bytes(512), 8)
    wire.refuses(S.ZONE_INVALID_CMD, R.ZONE_APPEND, 256, bytes(65 * 512), 8)
    for _ in range(3):
        assert wire.status(R.ZONE_APPEND, 256, bytes(64 * 512), 8) == S.OK
    assert wire.status(R.ZONE_APPEND, 256, bytes(512), 8) == S.ZONE_INVALID_CMD, "the zone is full"
    assert zoned(max_append=0).status(R.ZONE_APPEND, 256, bytes(512), 8) == S.UNSUPPORTED


_MANAGE = {"open": R.ZONE_OPEN, "close": R.ZONE_CLOSE, "finish": R.ZONE_FINISH, "reset": R.ZONE_RESET}
_PREPARE: dict[ZoneState, Callable[[Wire], object]] = {
    ZoneState.EMPTY: lambda wire: None,
    ZoneState.IMPLICITLY_OPEN: lambda wire: wire.status(R.OUT, 256, bytes(512)),
    ZoneState.EXPLICITLY_OPEN: lambda wire: (wire.status(R.ZONE_OPEN, 256), wire.status(R.OUT, 256, bytes(512))),
    ZoneState.CLOSED: lambda wire: (wire.status(R.OUT, 256, bytes(512)), wire.status(R.ZONE_CLOSE, 256)),
    ZoneState.FULL: lambda wire: (wire.status(R.ZONE_OPEN, 256), wire.status(R.ZONE_FINISH, 256)),
    ZoneState.READ_ONLY: lambda wire: wire.device.zones.break_zone(1, ZoneState.READ_ONLY),
    ZoneState.OFFLINE: lambda wire: wire.device.zones.break_zone(1, ZoneState.OFFLINE),
}
E, I, X, C, U, P, O = _PREPARE  # noqa: E741
_BECOMES = [
    ("open", {E: X, I: X, X: X, C: X, U: None, P: None, O: None}),
    ("close", {E: None, I: C, X: C, C: C, U: None, P: None, O: None}),
    ("finish", {E: None, I: U, X: U, C: None, U: U, P: None, O: None}),
    ("reset", {E: E, I: E, X: E, C: E, U: E, P: None, O: None}),
]


@pytest.mark.parametrize(
    ("action", "before", "after"), [(action, *change) for action, table in _BECOMES for change in table.items()]
)
def test_the_state_machine_of_the_specification(action: str, before: ZoneState, after: ZoneState | None) -> None:
    wire = zoned()
    _PREPARE[before](wire)
    assert wire.state(1) == before
    status = wire.status(_MANAGE[action], 256)
    assert status == (S.ZONE_INVALID_CMD if after is None else S.OK)
    assert wire.state(1) == (before if after is None else after)


@pytest.mark.parametrize("action", _MANAGE)
def test_a_conventional_zone_is_not_managed_and_others_by_their_first_sector(action: str) -> None:
    wire = zoned()
    assert wire.status(_MANAGE[action], 0) == S.ZONE_INVALID_CMD
    wire.refuses(S.ZONE_INVALID_CMD, _MANAGE[action], 257)
    wire.refuses(S.ZONE_INVALID_CMD, _MANAGE[action], 2048)
    wire.refuses(S.ZONE_INVALID_CMD, _MANAGE[action], 256, b"x")


def test_an_open_zone_that_nobody_wrote_is_empty_when_it_is_closed() -> None:
    wire = zoned()
    wire.status(R.ZONE_OPEN, 256)
    assert wire.status(R.ZONE_CLOSE, 256) == S.OK
    assert wire.state(1) == ZoneState.EMPTY


def test_a_reset_forgets_the_data_and_resetting_all_spares_what_cannot_be() -> None:
    wire = zoned()
    for zone in (1, 2, 3):
        wire.status(R.OUT, zone * ZONE, b"d" * 512)
    assert wire.device.zones is not None
    wire.device.zones.break_zone(3, ZoneState.READ_ONLY)
    wire.refuses(S.ZONE_INVALID_CMD, R.ZONE_RESET_ALL, 256)
    assert wire.status(R.ZONE_RESET_ALL) == S.OK
    assert [wire.state(zone) for zone in (1, 2, 3)] == [ZoneState.EMPTY, ZoneState.EMPTY, ZoneState.READ_ONLY]
    assert wire.send(R.IN, 256, room=512) == (S.OK, bytes(512))
    assert wire.send(R.IN, 3 * ZONE, room=512) == (S.OK, b"d" * 512)


def test_a_read_only_zone_is_read_and_an_offline_one_is_not() -> None:
    wire = zoned()
    assert wire.device.zones is not None
    wire.device.zones.break_zone(1, ZoneState.READ_ONLY)
    wire.device.zones.break_zone(2, ZoneState.OFFLINE)
    assert wire.status(R.IN, 256, room=512) == S.OK
    assert wire.status(R.OUT, 256, bytes(512)) == S.ZONE_INVALID_CMD
    assert wire.status(R.IN, 512, room=512) == S.ZONE_INVALID_CMD


def test_open_zones_are_limited_and_the_oldest_implicit_one_makes_room() -> None:
    wire = zoned(max_open=2)
    for zone in (1, 2, 3):
        assert wire.status(R.OUT, zone * ZONE, bytes(512)) == S.OK
    assert [wire.state(zone) for zone in (1, 2, 3)] == [
        ZoneState.CLOSED,
        ZoneState.IMPLICITLY_OPEN,
        ZoneState.IMPLICITLY_OPEN,
    ]
    assert wire.status(R.ZONE_OPEN, 2 * ZONE) == wire.status(R.ZONE_OPEN, 3 * ZONE) == S.OK
    assert wire.status(R.OUT, 4 * ZONE, bytes(512)) == S.ZONE_OPEN_RESOURCE
    assert wire.status(R.ZONE_OPEN, 4 * ZONE) == S.ZONE_OPEN_RESOURCE
    assert wire.state(4) == ZoneState.EMPTY


def test_active_zones_are_limited_and_their_status_comes_first() -> None:
    wire = zoned(max_open=1, max_active=2)
    assert wire.status(R.OUT, 1 * ZONE, bytes(512)) == wire.status(R.OUT, 2 * ZONE, bytes(512)) == S.OK
    assert wire.status(R.OUT, 3 * ZONE, bytes(512)) == S.ZONE_ACTIVE_RESOURCE
    assert wire.status(R.ZONE_OPEN, 2 * ZONE) == S.OK
    assert wire.status(R.ZONE_APPEND, 3 * ZONE, bytes(512), 8) == S.ZONE_ACTIVE_RESOURCE
    assert wire.status(R.ZONE_FINISH, 2 * ZONE) == S.OK
    assert wire.status(R.OUT, 3 * ZONE, bytes(512)) == S.OK


def test_erasing_resets_the_zones_of_its_range() -> None:
    wire = zoned()
    wire = Wire(ZONED, zones=SHAPE, config={"secure_erase_sector_alignment": ZONE})
    for zone in (0, 1, 2, 3):
        wire.status(R.OUT, zone * ZONE, b"d" * 512)
    assert wire.status(R.SECURE_ERASE, 0, segments((0, 3 * ZONE, 0))) == S.OK
    assert [wire.state(zone) for zone in (1, 2, 3)] == [
        ZoneState.EMPTY,
        ZoneState.EMPTY,
        ZoneState.IMPLICITLY_OPEN,
    ]
    assert wire.device.data[: 3 * ZONE * 512] == bytes(3 * ZONE * 512)


def test_a_host_aware_zone_is_written_anywhere_and_keeps_a_pointer() -> None:
    wire = zoned(model=ZonedModel.HOST_AWARE)
    assert wire.status(R.OUT, 256 + 8, bytes(512)) == S.OK
    assert wire.status(R.OUT, 256, bytes(512)) == S.OK
    assert (wire.zone(1).write_pointer, wire.state(1)) == (256 + 9, ZoneState.IMPLICITLY_OPEN)
    assert wire.status(R.IN, 500, room=512 * 20) == S.OK, "a read may cross"
    assert wire.status(R.ZONE_APPEND, 256, bytes(512), 8) == S.ZONE_INVALID_CMD


def test_a_host_managed_device_refuses_a_driver_that_knows_no_zones() -> None:
    device = FakeBlk(FakeHal(), SIZE, features=ZONED, zones=SHAPE)
    with pytest.raises(OSError, match="refused the accepted features"):
        FakeTransport(device).begin_init(int(MODERN))
    assert not device.status & DeviceStatus.FEATURES_OK


def test_discard_must_not_be_accepted_of_a_host_managed_device() -> None:
    with pytest.raises(RuleBroken, match="DISCARD"):
        Wire(ZONED | F.DISCARD, zones=SHAPE)
