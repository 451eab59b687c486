"""The stream from the guest."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwloop.vm import frames
from hwloop.vm.errors import GuestFailed

KINDS = st.sampled_from([frames.READY, frames.STDOUT, frames.STDERR, frames.EXIT, frames.FAILURE])


def encode(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body


@given(st.lists(st.tuples(KINDS, st.binary(max_size=300))), st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    sent: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(encode(kind, body) for kind, body in sent)
    decoder, at = frames.Decoder(), 0
    got: list[tuple[bytes, bytes]] = []
    for turn in range(len(stream)):
        size = cuts[turn % len(cuts)]
        got += decoder.feed(stream[at : at + size])
        at += size
    assert got == sent


def test_a_part_of_a_frame_is_held_back() -> None:
    decoder = frames.Decoder()
    assert list(decoder.feed(encode(frames.STDOUT, b"hello")[:-1])) == []
    assert list(decoder.feed(b"o")) == [(frames.STDOUT, b"hello")]


@pytest.mark.parametrize("stream", [b"?\0\0\0\0", b"o\xff\xff\xff\xff", b"o" + struct.pack("<I", frames.MAX_SIZE + 1)])
def test_what_is_no_frame_is_an_error(stream: bytes) -> None:
    with pytest.raises(GuestFailed, match="no frame"):
        list(frames.Decoder().feed(stream))


@pytest.mark.parametrize("status", [0, 1, 137, 255])
def test_an_exit_status_is_read(status: int) -> None:
    assert frames.exit_status(struct.pack("<I", status)) == status
