"""Numbers, names and formats of the block protocol."""

from __future__ import annotations

import errno

import pytest

from hwloop.device.blk_formats import (
    Lifetime,
    PreEol,
    Segment,
    ZoneDescriptor,
    ZoneState,
    ZoneType,
    format_report,
    parse_report,
)
from hwloop.device.blk_protocol import (
    FIELD_FEATURES,
    REQUEST_FEATURES,
    STATUS_ERRORS,
    BlkConfig,
    RequestType,
    RespStatus,
    request_name,
    status_meaning,
)
from hwloop.errors import DeviceError


def test_request_types_have_the_numbers_of_the_specification() -> None:
    assert {kind.name: kind.value for kind in RequestType} == {
        "IN": 0, "OUT": 1, "FLUSH": 4, "GET_ID": 8, "GET_LIFETIME": 10, "DISCARD": 11, "WRITE_ZEROES": 13,
        "SECURE_ERASE": 14, "ZONE_APPEND": 15, "ZONE_REPORT": 16, "ZONE_OPEN": 18, "ZONE_CLOSE": 20,
        "ZONE_FINISH": 22, "ZONE_RESET": 24, "ZONE_RESET_ALL": 26,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "IN"),
        (26, "ZONE_RESET_ALL"),
        (2, "SCSI_CMD"),
        (5, "FLUSH_OUT"),
        (0x8000_0001, "OUT | BARRIER"),
        (0x63, "type 0x63"),
    ],
)
def test_every_type_in_a_header_has_a_name_legacy_ones_too(number: int, name: str) -> None:
    assert request_name(number) == name


def test_statuses_have_their_numbers_and_each_failure_an_errno_and_a_sentence() -> None:
    assert [status.value for status in RespStatus] == [0, 1, 2, 3, 4, 5, 6]
    assert set(STATUS_ERRORS) == set(RespStatus) - {RespStatus.OK}


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (1, errno.EIO, "I/O error"),
        (2, errno.EOPNOTSUPP, "does not support"),
        (5, errno.ETOOMANYREFS, "too many zones are open"),
        (6, errno.EOVERFLOW, "too many zones are active"),
        (0xFF, errno.EIO, "did not write the status"),
        (0x77, errno.EIO, "undefined status 0x77"),
    ],
)
def test_every_byte_that_can_be_a_status_means_something(status: int, code: int, words: str) -> None:
    found, text = status_meaning(status)
    assert found == code
    assert words in text


def test_every_field_of_the_configuration_exists_by_one_feature() -> None:
    listed = [field for group in FIELD_FEATURES.values() for field in group]
    assert sorted(field.offset for field in listed) == [field.offset for field in BlkConfig.fields()]


def test_requests_that_need_a_feature_say_which() -> None:
    assert set(RequestType) - set(REQUEST_FEATURES) == {RequestType.IN, RequestType.OUT, RequestType.GET_ID}


def test_a_segment_has_16_bytes() -> None:
    segment = Segment(0x1122334455667788, 0x99AABBCC, 1)
    assert segment.format().hex() == "8877665544332211ccbbaa9901000000"
    assert Segment.parse(segment.format()) == segment


def test_a_lifetime_is_three_words_and_a_sentence() -> None:
    lifetime = Lifetime.parse(bytes.fromhex("020001000b00"))
    assert lifetime == Lifetime(PreEol.WARNING, 1, 11)
    assert lifetime.format().hex() == "020001000b00"
    assert str(lifetime) == "80% of the reserved blocks are used up; SLC 0 to 10% used, MLC past its end"
    assert "SLC not known" in str(Lifetime(PreEol.UNDEFINED, 0, 0))


@pytest.mark.parametrize("data", ["040000000000", "00000c000000", "000000000c00"])
def test_reserved_values_of_a_lifetime_are_not_believed(data: str) -> None:
    with pytest.raises(DeviceError, match="reserved"):
        Lifetime.parse(bytes.fromhex(data))


def test_a_zone_has_64_bytes_and_a_report_counts_them() -> None:
    zone = ZoneDescriptor(0x800, 0x700, 0x810, ZoneType.SEQUENTIAL_REQUIRED, ZoneState.IMPLICITLY_OPEN)
    data = zone.format()
    assert len(data) == 64
    assert data[:26].hex() == "0007000000000000000800000000000010080000000000000202"
    report = format_report([zone, zone])
    assert len(report) == 192
    assert list(parse_report(report)) == [zone, zone]
    assert list(parse_report(report.ljust(1024, b"\xff"))) == [zone, zone]


@pytest.mark.parametrize(("count", "offset", "value"), [(3, 0, 3), (2, 64 + 24, 9), (2, 64 + 25, 5)])
def test_a_report_that_cannot_be_is_not_believed(count: int, offset: int, value: int) -> None:
    """More zones than there is room for; a type and a state that do not exist."""
    zone = ZoneDescriptor(0, 8, 0, ZoneType.CONVENTIONAL, ZoneState.NOT_WP)
    report = bytearray(format_report([zone, zone]))
    report[offset] = value
    with pytest.raises(DeviceError):
        list(parse_report(bytes(report)))
