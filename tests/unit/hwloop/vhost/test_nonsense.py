"""A peer that sends nonsense, one kind at a time: a typed error, no wait without an end, no descriptor left over."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwloop.deadline import Deadline
from hwloop.errors import DeadlineExpired, DeviceClosed, DeviceLost, HwloopError, exit_code_of
from hwloop.vhost import (
    BackEndRefused,
    BrokenProtocol,
    FrontEnd,
    UnexpectedMessage,
    WrongDescriptors,
    WrongFlags,
    WrongSize,
    WrongValue,
)
from hwloop.vhost.fake_backend import EVERYTHING, LIKE_QEMU, PeerFaults
from hwloop.vhost.front_end import MOST_HEARD
from hwloop.vhost.messages import NEED_REPLY, REPLY, VERSION, BackEndRequest, Header, Number, Request
from tests.unit.hwloop.vhost.peer import SIZE, Peer

NONSENSE: list[tuple[dict[str, Any], type[HwloopError], str]] = [
    ({"version": 2}, WrongFlags, "has the flags 0x6, not those of version 1"),
    ({"version": 0}, WrongFlags, "has the flags 0x4"),
    ({"reserved_flags": True}, WrongFlags, "has the flags 0x105"),
    ({"no_reply_flag": True}, WrongFlags, "which say no reply"),
    ({"other_request": True}, UnexpectedMessage, "answered [A-Z_]+ with message"),
    ({"short": True}, WrongSize, "bytes; it has"),
    ({"long": True}, WrongSize, "bytes; it has"),
    ({"huge": True}, WrongSize, "claims 4294967295 bytes; none has more than 4096"),
    ({"descriptors": 1}, WrongDescriptors, "with 1 descriptors, not 0"),
    ({"descriptors": 8}, WrongDescriptors, "with 8 descriptors, not 0"),
    ({"descriptors": 9}, WrongDescriptors, "more than 8 descriptors"),
    ({"descriptors": 100}, WrongDescriptors, "more than 8 descriptors"),
    ({"unasked": True}, UnexpectedMessage, "a message that nobody asked for"),
    ({"hang_up": True}, DeviceLost, "is gone: it closed the connection"),
    ({"hang_up_midway": True}, DeviceLost, "in the middle of a message"),
    ({"silent": True}, DeadlineExpired, "waiting for the back end to answer [A-Z_]+"),
    ({"stall_midway": True}, DeadlineExpired, "waiting for the back end to answer [A-Z_]+"),
]
ASKED_WHILE_OPENING = [
    Request.GET_FEATURES,
    Request.GET_PROTOCOL_FEATURES,
    Request.GET_QUEUE_NUM,
    Request.SET_BACKEND_REQ_FD,
    Request.SET_FEATURES,
    Request.GET_STATUS,
    Request.GET_CONFIG,
    Request.ADD_MEM_REG,
    Request.SET_VRING_ADDR,
    Request.SET_VRING_ENABLE,
]
ids = [" ".join(f"{key}={value}" for key, value in faults.items()) for faults, _, _ in NONSENSE]


def seconds_for(kind: type[HwloopError]) -> float:
    """How long an answer may take: time that is expected to run out is short, other time must not on a busy machine."""
    return 0.04 if kind is DeadlineExpired else 60.0


@pytest.mark.parametrize("at", ASKED_WHILE_OPENING)
@pytest.mark.parametrize(("faults", "kind", "words"), NONSENSE, ids=ids)
def test_nonsense_while_a_disk_is_opened_is_an_error_of_its_kind(
    at: Request, faults: dict[str, Any], kind: type[HwloopError], words: str
) -> None:
    began = time.monotonic()
    with Peer(seconds=seconds_for(kind), at=at, **faults) as peer:
        with pytest.raises(kind, match=words) as caught:
            peer.disk()
        assert type(caught.value) is kind
        assert exit_code_of(caught.value) in (4, 5)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("faults", "kind", "words"), NONSENSE, ids=ids)
def test_nonsense_from_a_disk_at_work_is_told_once_and_then_of_the_device_that_was_lost(
    faults: dict[str, Any], kind: type[HwloopError], words: str
) -> None:
    with Peer() as peer:
        disk = peer.disk()
        disk.write(0, b"x" * 512)
        peer.connection.seconds = seconds_for(kind)
        peer.back_end.faults = PeerFaults(at=Request.GET_CONFIG, **faults)
        with pytest.raises(kind, match=words):
            disk.transport.read_consistent(lambda: disk.transport.read_config_space(0, 8))
        with pytest.raises(kind):
            disk.transport.get_status()
        with pytest.raises(kind):
            disk.transport.read_config_space(0, 8)
        with pytest.raises(DeviceLost, match="cannot be reset"):
            disk.transport.reset()
        disk.close()


@pytest.mark.parametrize(("faults", "kind", "words"), NONSENSE, ids=ids)
def test_nonsense_when_a_queue_is_stopped_leaves_nothing_behind(
    faults: dict[str, Any], kind: type[HwloopError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Peer(LIKE_QEMU) as peer:
        disk = peer.disk()
        peer.back_end.faults = PeerFaults(at=Request.GET_VRING_BASE, **faults)
        monkeypatch.setattr("hwloop.transport.vhost_user.RESET_SECONDS", seconds_for(kind))
        if kind is DeviceLost:
            disk.close()  # who is gone writes no more
            return
        with pytest.raises(kind, match=words):
            disk.close()


@pytest.mark.parametrize("count", [0, 65537, 1 << 63])
def test_a_number_of_queues_that_cannot_be_is_refused(count: int) -> None:
    with Peer(at=Request.GET_QUEUE_NUM, number=count) as peer, pytest.raises(WrongValue, match=f"has {count} queues"):
        peer.front_end()


def test_a_status_of_more_than_8_bits_is_refused() -> None:
    with Peer(at=Request.GET_STATUS, number=0x1_0000_0000) as peer, pytest.raises(WrongValue, match="0x100000000"):
        peer.disk()


def test_an_answer_that_lacks_its_descriptor_is_refused() -> None:
    words = "answered GET_INFLIGHT_FD with 0 descriptors, not 1"
    with Peer(at=Request.GET_INFLIGHT_FD, no_descriptors=True) as peer, pytest.raises(WrongDescriptors, match=words):
        peer.disk()


@pytest.mark.parametrize(
    "at",
    [
        Request.SET_BACKEND_REQ_FD,
        Request.ADD_MEM_REG,
        Request.SET_INFLIGHT_FD,
        Request.SET_VRING_BASE,
        Request.SET_VRING_ADDR,
        Request.SET_VRING_CALL,
        Request.SET_VRING_ERR,
        Request.SET_VRING_KICK,
        Request.SET_VRING_ENABLE,
        Request.SET_STATUS,
    ],
)
def test_a_back_end_that_says_no_is_an_error_that_names_what_it_refused(at: Request) -> None:
    words = f"refused {at.name}: it answers 0x1, not 0"
    with Peer(at=at, refuse=True) as peer, pytest.raises(BackEndRefused, match=words):
        peer.disk()


def test_a_back_end_that_is_no_back_end_at_all_is_found_out_at_once() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(UnexpectedMessage, match="nobody asked for"):
            FrontEnd(ours)


def test_a_back_end_that_takes_nothing_costs_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(4096))
        with pytest.raises(DeadlineExpired, match="the back end to take message 1"):
            FrontEnd(ours, seconds=0.05)


# --- The channel of its own -------------------------------------------------------------------------------------------

HEADER = Header(BackEndRequest.CONFIG_CHANGE_MSG, VERSION, 0).format()


@pytest.mark.parametrize(
    ("data", "descriptors", "kind", "words"),
    [
        (Header(2, 2, 0).format(), 0, WrongFlags, "0x2"),
        (Header(2, VERSION | REPLY, 0).format(), 0, WrongFlags, "a reply to nothing"),
        (Header(1, VERSION, 0).format(), 0, UnexpectedMessage, "sent message 1 on its own channel"),
        (Header(9, VERSION, 0).format(), 0, UnexpectedMessage, "sent message 9"),
        (Header(0xFFFF_FFFF, VERSION, 0).format(), 0, UnexpectedMessage, "sent message 4294967295"),
        (Header(2, VERSION, 8).format() + bytes(8), 0, WrongSize, "has 8 bytes; it has none"),
        (Header(2, VERSION, 0xFFFF_FFFF).format(), 0, WrongSize, "claims 4294967295 bytes"),
        (HEADER, 1, WrongDescriptors, "brings descriptors"),
        (HEADER, 9, WrongDescriptors, "more than 8"),
        (HEADER[:5], 0, DeadlineExpired, "the rest of a message"),
    ],
)
def test_nonsense_on_the_channel_of_its_own_is_noticed_when_the_device_is_looked_at(
    data: bytes, descriptors: int, kind: type[HwloopError], words: str
) -> None:
    with Peer() as peer:
        disk = peer.disk()
        peer.connection._back_end._seconds = seconds_for(kind)  # type: ignore[union-attr]
        peer.back_end.send_unasked(data, [0] * descriptors)
        with pytest.raises(kind, match=words):
            disk.transport.get_status()
        with pytest.raises(DeviceLost):
            disk._check_alive()
        with pytest.raises(DeviceLost):
            disk.read(0, 512)


def test_the_end_of_the_channel_of_its_own_alone_changes_nothing() -> None:
    with Peer() as peer:
        disk = peer.disk()
        own = peer.back_end._live().own
        assert own is not None
        own.close()
        assert disk.transport.get_status()
        assert disk.read(0, 512) == bytes(512)
        assert disk.transport.read_config_generation() == 0


class _AsksFirst(bytearray):
    """A configuration that is read only after the front end has answered on the other channel."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer.device.config)
        self._peer = peer
        self.answers: list[tuple[Header, bytes]] = []

    def __getitem__(self, where: Any) -> Any:
        own, deadline = self._peer.back_end._live().own, Deadline(2)
        assert own is not None
        own.send(Header(BackEndRequest.CONFIG_CHANGE_MSG, VERSION | NEED_REPLY, 0), b"", (), deadline)
        with own.receive(deadline, "an answer") as answer:
            self.answers.append((answer.header, answer.payload))
        return super().__getitem__(where)


def test_a_back_end_that_waits_for_an_answer_before_it_gives_one_gets_it() -> None:
    with Peer() as peer:
        disk = peer.disk()
        config = peer.device.config = _AsksFirst(peer)
        assert disk.transport.read_config_space(0, 8) == SIZE // 512
        assert config.answers == [(Header(2, VERSION | REPLY, 8), Number(0).format())]
        assert disk.transport.read_config_generation() == 1


def test_a_back_end_that_never_stops_talking_keeps_nobody() -> None:
    with Peer() as peer:
        disk = peer.disk()
        peer.back_end.send_unasked(HEADER * (3 * MOST_HEARD))
        # A look on its own hears so many; how many looks a question takes depends on when the answer comes.
        peer.connection.check()
        assert peer.connection.config_changes == MOST_HEARD
        disk.transport.get_status()
        assert peer.connection.config_changes <= 3 * MOST_HEARD
        assert disk.read(0, 512) == bytes(512)


# --- Anything at all --------------------------------------------------------------------------------------------------

numbers = st.one_of(st.integers(0, 50), st.integers(0, 0xFFFF_FFFF))
likely = st.builds(
    lambda request, flags, payload, size: (
        Header(request, flags, len(payload) if size is None else size).format() + payload
    ),
    numbers,
    st.sampled_from([VERSION | REPLY, VERSION, VERSION | REPLY | NEED_REPLY, 0xFFFF_FFFF]),
    st.binary(max_size=40),
    st.one_of(st.none(), numbers),
)
plausible = st.sampled_from(
    [Header(request, VERSION | REPLY, 8).format() + Number(0x1_7FFF_FFFF).format() for request in range(44)]
)


def answer_with(sock: socket.socket, answers: list[bytes]) -> None:
    """Say one of the answers to whatever comes, then hang up."""
    with sock, suppress(OSError):
        for answer in answers:
            if not sock.recv(4096):
                return
            sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)


@pytest.mark.fault(62)
@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(plausible, likely, st.binary(max_size=30)), max_size=6))
def test_whatever_a_peer_answers_is_a_typed_error_and_no_hang(answers: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    peer = threading.Thread(target=answer_with, args=(theirs, answers))
    peer.start()
    began = time.monotonic()
    with pytest.raises((BrokenProtocol, DeviceLost, DeadlineExpired, BackEndRefused)):
        FrontEnd(ours, seconds=0.01).read_config(60)
    assert time.monotonic() - began < 30
    ours.close()
    peer.join()


# --- The other side goes away -----------------------------------------------------------------------------------------


@pytest.mark.fault(8)
@pytest.mark.parametrize("protocol", [EVERYTHING, LIKE_QEMU])
def test_a_back_end_that_dies_is_noticed_long_before_the_deadline(protocol: Any) -> None:
    with Peer(protocol) as peer:
        disk = peer.disk()
        peer.device.hold = True
        token = disk.submit_read(0, 512)
        peer.back_end.hang_up()
        began = time.monotonic()
        with pytest.raises(DeviceLost, match="the back end is gone"):
            disk.wait(token, 120)
        assert time.monotonic() - began < 60
        with pytest.raises(DeviceLost):
            disk.read(0, 512)


def test_a_connection_that_was_closed_says_so() -> None:
    with Peer() as peer:
        front_end = peer.front_end()
        front_end.close()
        front_end.close()
        with pytest.raises(DeviceClosed):
            front_end.read_features()
        with pytest.raises(DeviceClosed):
            front_end.check()


def test_a_question_that_was_interrupted_is_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer may still come, and would be taken for the next one's."""
    with Peer() as peer:
        disk = peer.disk()
        with monkeypatch.context() as patch:
            patch.setattr(FrontEnd, "_answer", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                disk.transport.read_config_space(0, 8)
        with pytest.raises(DeviceLost, match="was interrupted"):
            disk.transport.read_config_space(0, 8)
        disk.close()


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_every_kind_of_nonsense_is_one_family() -> None:
    for kind in (WrongFlags, WrongSize, UnexpectedMessage, WrongDescriptors, WrongValue):
        assert issubclass(kind, BrokenProtocol)
        assert kind("x").errno == 71
