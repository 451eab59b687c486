"""The back end in process notices each rule that a front end breaks, and hangs up."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from hwloop.errors import DeviceLost
from hwloop.vhost import FrontEnd
from hwloop.vhost.fake_backend import EVERYTHING, LIKE_QEMU
from hwloop.vhost.memory import SharedRegion, user_address
from hwloop.vhost.messages import (
    NO_DESCRIPTOR,
    PROTOCOL_FEATURES,
    Config,
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
)
from tests.unit.hwloop.vhost.peer import FEATURES, Peer

R = Request
MEMORY = SharedRegion(0, 1 << 20)
EVENT = os.eventfd(0)
GUEST = MEMORY.region.guest
Step = Callable[[FrontEnd], object]


def tell(request: Request, payload: Payload, *descriptors: int) -> Step:
    return lambda front_end: front_end.tell(request, payload, descriptors)


def ask(request: Request, payload: Payload, reply: type[Payload]) -> Step:
    return lambda front_end: front_end.ask(request, payload, reply)


def features(front_end: FrontEnd) -> None:
    """The steps up to FEATURES_OK, with the status that the back end keeps."""
    if front_end.protocol & ProtocolFeature.STATUS:
        for status in (0, 1, 3):
            front_end.tell(R.SET_STATUS, Number(status))
    front_end.write_features(FEATURES)
    if front_end.protocol & ProtocolFeature.STATUS:
        front_end.tell(R.SET_STATUS, Number(11))


def queue(front_end: FrontEnd, *, size: int = 64, base: int = 0, at: int = user_address(GUEST), kick: int = 0) -> None:
    """A queue that is set up, with what a test wants to be wrong."""
    front_end.tell(R.SET_VRING_NUM, VringState(0, size))
    front_end.tell(R.SET_VRING_BASE, VringState(0, base))
    front_end.tell(R.SET_VRING_ADDR, VringAddresses(0, 0, at, at + 8192, at + 4096))
    front_end.tell(R.SET_VRING_CALL, Number(0), [EVENT])
    front_end.tell(R.SET_VRING_KICK, Number(kick), [EVENT])
    front_end.tell(R.SET_VRING_ENABLE, VringState(0, 1))


add = tell(R.ADD_MEM_REG, SingleRegion(MEMORY.region), MEMORY.fd)
USER = MEMORY.region.user

BROKEN: list[tuple[list[Step], str]] = [
    ([tell(R.SET_OWNER, Nothing())], "SET_OWNER twice"),
    ([tell(R.SET_OWNER, Nothing(), 0)], "SET_OWNER came with 1 descriptors"),
    ([tell(R.SET_OWNER, Number(0))], "WrongSize: a Nothing of 8 bytes"),
    ([tell(R.SET_LOG_BASE, Nothing())], "UnexpectedMessage: message 6 is not known"),
    ([tell(R.SET_PROTOCOL_FEATURES, Number(1 << 8))], "protocol features 0x100"),
    ([tell(R.SET_FEATURES, Number(FEATURES))], "SET_FEATURES without bit 30"),
    ([tell(R.SET_FEATURES, Number(PROTOCOL_FEATURES | 1 << 63))], "features 0x8000000040000000 of"),
    ([tell(R.SET_FEATURES, Number(PROTOCOL_FEATURES))], "features were written while the status was"),
    ([tell(R.SET_VRING_NUM, VringState(0, 64))], "described before SET_FEATURES"),
    ([features, tell(R.SET_VRING_NUM, VringState(1, 64))], "there is no queue 1"),
    ([features, tell(R.SET_VRING_NUM, VringState(0, 63))], "queue 0 with 63 descriptors"),
    ([features, tell(R.SET_VRING_NUM, VringState(0, 0))], "queue 0 with 0 descriptors"),
    ([features, tell(R.SET_VRING_BASE, VringState(0, 7))], "begins at 7"),
    ([features, tell(R.SET_VRING_ADDR, VringAddresses(0, 0, USER, USER, USER))], "before SET_VRING_NUM"),
    ([features, lambda f: queue(f, at=USER + 8)], "descriptors of queue 0 is not aligned"),
    ([features, queue], "no region of memory has 1024 bytes at the user address"),
    ([features, add, lambda f: queue(f, at=GUEST)], "no region of memory has 1024 bytes at the user address"),
    ([features, add, lambda f: queue(f, at=USER + (1 << 20) - 4096)], "no region of memory"),
    ([features, add, lambda f: queue(f, kick=0x200)], "SET_VRING_KICK with 0x200"),
    ([features, add, lambda f: queue(f, kick=NO_DESCRIPTOR)], "with 1 descriptors and bit 8 True"),
    ([features, add, queue, tell(R.SET_VRING_NUM, VringState(0, 32))], "queue 0 was changed while it runs"),
    ([features, add, queue, tell(R.SET_VRING_ENABLE, VringState(0, 2))], "SET_VRING_ENABLE with 2"),
    ([features, add, queue, tell(R.SET_FEATURES, Number(FEATURES | PROTOCOL_FEATURES))], "while a queue runs"),
    ([features, add, queue, tell(R.REM_MEM_REG, SingleRegion(MEMORY.region))], "REM_MEM_REG while a queue runs"),
    ([features, add, queue, tell(R.RESET_DEVICE, Nothing())], "RESET_DEVICE while a queue runs"),
    (
        [features, add, queue, tell(R.SET_MEM_TABLE, MemoryTable((MEMORY.region,)), MEMORY.fd)],
        "SET_MEM_TABLE while a queue runs",
    ),
    ([features, ask(R.GET_VRING_BASE, VringState(0, 0), VringState)], "GET_VRING_BASE of queue 0, which was not"),
    ([add, add], "overlaps"),
    ([tell(R.ADD_MEM_REG, SingleRegion(Region(GUEST, 2 << 20, USER)), MEMORY.fd)], "is not in its file"),
    ([tell(R.ADD_MEM_REG, SingleRegion(Region(GUEST, 0, USER)), MEMORY.fd)], "is not in its file"),
    ([tell(R.REM_MEM_REG, SingleRegion(MEMORY.region))], "was not there"),
    ([tell(R.SET_MEM_TABLE, MemoryTable((MEMORY.region,)), MEMORY.fd, MEMORY.fd)], "1 regions, 2 files"),
    ([ask(R.GET_CONFIG, Config(0, bytes(257)), Config)], "GET_CONFIG up to 257"),
    ([tell(R.SET_CONFIG, Config(32, b"\1"))], "1 bytes at 32 of the configuration were written"),
    ([ask(R.GET_INFLIGHT_FD, Inflight(0, 0, 5, 64), Inflight)], "for 5 queues"),
    ([tell(R.SET_INFLIGHT_FD, Inflight(2 << 20, 0, 1, 64), MEMORY.fd)], "is not in its file"),
    ([tell(R.SET_STATUS, Number(7))], "skips a step"),
    ([tell(R.SET_BACKEND_REQ_FD, Nothing(), 0)], "SET_BACKEND_REQ_FD twice"),
]


@pytest.mark.parametrize(("steps", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_a_rule_that_is_broken_is_noted_and_hung_up_on(steps: list[Step], words: str) -> None:
    with Peer(EVERYTHING) as peer:
        front_end = peer.front_end()
        for step in steps[:-1]:
            step(front_end)
        with pytest.raises(DeviceLost):
            steps[-1](front_end)
        peer.back_end.close()
        assert len(peer.back_end.violations) == 1
        assert words in peer.back_end.violations[0]
        peer.expected_violations = peer.back_end.violations


@pytest.mark.parametrize("request_", [R.SET_STATUS, R.RESET_DEVICE, R.SET_INFLIGHT_FD])
def test_what_was_not_negotiated_must_not_be_said(request_: Request) -> None:
    with Peer(LIKE_QEMU) as peer:
        front_end = peer.front_end()
        with pytest.raises(DeviceLost):
            front_end.tell(request_, Nothing())
        peer.back_end.close()
        assert f"{request_.name} was sent without" in peer.back_end.violations[0]
        peer.expected_violations = peer.back_end.violations


def test_a_region_whose_file_is_too_short_is_noticed_before_anything_is_mapped() -> None:
    with Peer() as peer:
        front_end = peer.front_end()
        file = os.memfd_create("short")
        try:
            with pytest.raises(DeviceLost):
                front_end.tell(R.ADD_MEM_REG, SingleRegion(Region(GUEST, 4096, USER)), [file])
        finally:
            os.close(file)
        peer.back_end.close()
        peer.expected_violations = peer.back_end.violations
        assert "which has 0 bytes" in peer.back_end.violations[0]
