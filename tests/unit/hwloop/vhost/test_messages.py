"""Messages as bytes, against what the document of the protocol says they are."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwloop.vhost import BrokenProtocol, UnexpectedMessage, WrongFlags, WrongSize
from hwloop.vhost.messages import (
    BACK_END_KINDS,
    HEADER_BYTES,
    KINDS,
    NEED_REPLY,
    REPLY,
    VERSION,
    Config,
    Header,
    Inflight,
    MemoryTable,
    Nothing,
    Number,
    Payload,
    ProtocolFeature,
    Region,
    Request,
    SingleRegion,
    VringAddresses,
    VringState,
    parse_back_end_request,
    parse_request,
)

REGION = Region(0x1_0000_0000, 0x20_0000, 0x7000_0000_0000, 0x3000)
REGION_BYTES = "00000000 01000000 00002000 00000000 00000000 00700000 00300000 00000000"

EXAMPLES: list[tuple[Payload, str]] = [
    (Nothing(), ""),
    (Number(0x1_4000_0200), "00020040 01000000"),
    (VringState(3, 256), "03000000 00010000"),
    (
        VringAddresses(1, 0, 0x1000, 0x3000, 0x2000),
        "01000000 00000000 00100000 00000000 00300000 00000000 00200000 00000000 00000000 00000000",
    ),
    (REGION, REGION_BYTES),
    (SingleRegion(REGION), "00000000 00000000" + REGION_BYTES),
    (MemoryTable((REGION, REGION)), "02000000 00000000" + REGION_BYTES * 2),
    (Config(20, b"\x01\x02\x03", 1), "14000000 03000000 01000000 010203"),
    (Inflight(4096, 16, 2, 128), "00100000 00000000 10000000 00000000 0200 8000 00000000"),
]
ids = [type(payload).__name__ for payload, _ in EXAMPLES]


@pytest.mark.parametrize(("payload", "text"), EXAMPLES, ids=ids)
def test_a_payload_is_the_bytes_that_the_document_gives_it(payload: Payload, text: str) -> None:
    assert payload.format() == bytes.fromhex(text)
    assert type(payload).parse(bytes.fromhex(text)) == payload


@pytest.mark.parametrize(("payload", "text"), EXAMPLES, ids=ids)
def test_a_payload_of_another_length_is_refused(payload: Payload, text: str) -> None:
    data = bytes.fromhex(text)
    for wrong in (data + b"\0", data[:-1], b"", data + bytes(4096)):
        if wrong != data:
            with pytest.raises(WrongSize, match=type(payload).__name__):
                type(payload).parse(wrong)


def test_the_notes_of_requests_may_come_without_the_padding_that_the_document_does_not_have() -> None:
    payload, text = EXAMPLES[-1]
    assert Inflight.parse(bytes.fromhex(text)[:20]) == payload
    with pytest.raises(WrongSize):
        Inflight.parse(bytes.fromhex(text)[:16])


def test_a_table_that_claims_more_regions_than_there_are_is_refused() -> None:
    with pytest.raises(WrongSize):
        MemoryTable.parse(bytes.fromhex("ffffffff00000000" + REGION_BYTES))


def test_a_configuration_that_claims_more_bytes_than_there_are_is_refused() -> None:
    with pytest.raises(WrongSize):
        Config.parse(bytes.fromhex("00000000 ffffffff 00000000 01"))


def test_a_header_is_three_numbers() -> None:
    header = Header(Request.SET_MEM_TABLE, VERSION | NEED_REPLY, 40)
    assert header.format() == bytes.fromhex("05000000 09000000 28000000")
    assert Header.parse(header.format()) == header


@pytest.mark.parametrize("flags", [0, 2, 3, 0x11, 0x8000_0001, 0xFFFF_FFFF])
def test_a_header_of_another_version_or_with_unknown_flags_is_refused(flags: int) -> None:
    with pytest.raises(WrongFlags):
        Header.parse(Header(1, flags, 0).format())


@pytest.mark.parametrize("size", [4097, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_header_that_claims_more_than_any_message_has_is_refused(size: int) -> None:
    with pytest.raises(WrongSize):
        Header.parse(Header(1, VERSION | REPLY, size).format())


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_twelve_bytes_are_a_header_or_an_error_of_ours(data: bytes) -> None:
    with suppress(BrokenProtocol):
        assert Header.parse(data).format() == data


@given(st.sampled_from([type(payload) for payload, _ in EXAMPLES]), st.binary(max_size=300))
def test_any_bytes_are_a_payload_or_an_error_of_ours(kind: type[Payload], data: bytes) -> None:
    try:
        parsed = kind.parse(data)
    except WrongSize:
        return
    assert kind.parse(parsed.format()) == parsed


def test_a_message_that_is_not_used_here_is_not_known() -> None:
    assert parse_request(24) is Request.GET_CONFIG
    for number in (0, 4, 22, 35, 44, 0xFFFF_FFFF):
        with pytest.raises(UnexpectedMessage):
            parse_request(number)
    for number in (0, 1, 3, 4, 5, 0xFFFF_FFFF):
        with pytest.raises(UnexpectedMessage):
            parse_back_end_request(number)


def test_what_is_part_of_a_protocol_feature_names_it() -> None:
    needed = {kind.feature for kind in KINDS.values()} | {kind.feature for kind in BACK_END_KINDS.values()}
    wanted = {
        ProtocolFeature.MQ,
        ProtocolFeature.CONFIG,
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.INFLIGHT_SHMFD,
        ProtocolFeature.RESET_DEVICE,
        ProtocolFeature.STATUS,
        ProtocolFeature.CONFIGURE_MEM_SLOTS,
    }
    assert needed == wanted | {ProtocolFeature(0)}
