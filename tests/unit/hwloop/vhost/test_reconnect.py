"""A back end that goes and comes back: what was in flight is done once in effect, whenever it goes."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwloop
from cython_ring import DmaBuffer
from hwloop.deadline import wait_until
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_protocol import BlkConfig, RequestType
from hwloop.device.blk_request import Request as BlkRequest
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DeviceChanged, DeviceLost, InvalidParam, IoError
from hwloop.hal.base import BufferDirection, Dma
from hwloop.hal.fake import FakeHal
from hwloop.session import find
from hwloop.spec import BlkFeature, Feature
from hwloop.transport.fake_device import Step
from hwloop.vhost.errors import WrongSize
from hwloop.vhost.fake_backend import EVERYTHING, LEAST, LIKE_QEMU, FakeBackEnd, PeerFaults
from hwloop.vhost.messages import ProtocolFeature, Request
from tests.unit.hwloop.vhost.peer import FEATURES, descriptors

SECTORS = 64
SIZE = SECTORS * 512
KNOWING = EVERYTHING
FORGETFUL = EVERYTHING & ~ProtocolFeature.INFLIGHT_SHMFD
PROTOCOLS = pytest.mark.parametrize(
    "protocol", [KNOWING, FORGETFUL, LIKE_QEMU, LEAST], ids=["knowing", "forgetful", "like qemu", "least"]
)

EVENTS = Feature.EVENT_IDX | Feature.INDIRECT_DESC
RINGS = {
    "split": 0,
    "split with events": EVENTS,
    "split in order": Feature.IN_ORDER,
    "packed": Feature.RING_PACKED,
    "packed with events": Feature.RING_PACKED | EVENTS,
    "packed in order": Feature.RING_PACKED | Feature.IN_ORDER,
}


class Mortal:
    """A strict back end at a path, which dies where it is told to, and a disk opened on it."""

    def __init__(
        self, path: Path, protocol: ProtocolFeature, options: str = "reconnect=30", features: int = FEATURES
    ) -> None:
        self.device = FakeBlk(FakeHal(), SIZE, features=features, queue_size=64)
        self.back_end = FakeBackEnd(self.device, protocol)
        self.back_end.listen(path)
        disk = hwloop.open(f"vhost-user:{path}?queue-size=64&{options}")
        assert isinstance(disk, VirtioBlk)
        self.disk = disk

    def __enter__(self) -> Mortal:
        return self

    def __exit__(self, *_: object) -> None:
        self.disk.close()
        self.back_end.close()
        assert self.back_end.violations == []


@pytest.fixture
def path() -> Iterator[Path]:
    before = descriptors()
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "disk.sock"
    assert descriptors() == before


@pytest.mark.fault(7)
@PROTOCOLS
@pytest.mark.parametrize("step", list(Step))
def test_a_request_is_done_whenever_the_back_end_dies(path: Path, protocol: ProtocolFeature, step: Step) -> None:
    with Mortal(path, protocol) as mortal:
        mortal.back_end.die(step)
        mortal.disk.write(3, b"3" * 512)
        # What it had done and did not come to say is done twice, and nothing else is.
        assert mortal.device.requests == [RequestType.OUT] * (2 if step is Step.SERVED else 1)
        mortal.back_end.die(step)
        assert mortal.disk.read(3, 512) == b"3" * 512
        assert mortal.back_end.connections >= 2
        assert mortal.disk.device_id() == "FAKE0"


@PROTOCOLS
@pytest.mark.parametrize("ring", RINGS.values(), ids=list(RINGS))
def test_random_writes_agree_with_a_model_over_many_deaths(
    path: Path, protocol: ProtocolFeature, ring: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight at a time, never two in flight to the same sector, with a death at a random moment of every few."""
    monkeypatch.setattr(VirtioBlk, "SUPPORTED_FEATURES", VirtioBlk.SUPPORTED_FEATURES | ring)
    rng = random.Random(f"{protocol} {ring}")
    model = bytearray(SIZE)
    with Mortal(path, protocol, features=FEATURES | ring) as mortal:
        assert mortal.disk.negotiated & ring == ring
        disk, deaths = mortal.disk, 0
        for _ in range(60):
            sectors = rng.sample(range(SECTORS), 8)
            if rng.random() < 0.4:
                mortal.back_end.die(rng.choice(list(Step)), after=rng.randrange(8))
                deaths += 1
            tokens = {}
            for sector in sectors:
                if rng.random() < 0.7:
                    data = rng.randbytes(512)
                    tokens[disk.submit_write(sector, data)] = b""
                    model[sector * 512 : (sector + 1) * 512] = data
                else:
                    tokens[disk.submit_read(sector, 512)] = bytes(model[sector * 512 : (sector + 1) * 512])
            for token in rng.sample(list(tokens), len(tokens)):
                assert disk.wait(token) == tokens[token]
        assert disk.read(0, SIZE) == model
        assert mortal.back_end.connections > deaths // 2


def test_a_back_end_that_knows_is_given_its_notes_and_others_are_given_everything_again(path: Path) -> None:
    with Mortal(path, KNOWING) as mortal:
        mortal.back_end.die(Step.SERVED)
        mortal.disk.write(1, b"1" * 512)
        requests = mortal.back_end.requests
        assert requests.count(Request.GET_INFLIGHT_FD) == 1
        assert requests.count(Request.SET_INFLIGHT_FD) == 2
        assert requests.count(Request.SET_OWNER) == 2


def test_what_is_told_by_interrupt_is_so_afterwards(path: Path) -> None:
    with Mortal(path, FORGETFUL, "reconnect=30&wait=irq") as mortal:
        mortal.back_end.die(Step.FETCHED)
        mortal.disk.write(1, b"1" * 512)
        (queue,) = mortal.disk.virtqueues
        before = queue.interrupts
        for _ in range(20):
            mortal.disk.read(1, 512)
        assert queue.interrupts >= before


def test_an_older_write_does_not_undo_a_newer_one_that_was_completed(path: Path) -> None:
    with Mortal(path, FORGETFUL) as mortal:
        disk, device = mortal.disk, mortal.device
        device.hold = True
        older, other = disk.submit_write(5, b"o" * 512), disk.submit_write(9, b"9" * 512)
        newer = disk.submit_write(5, b"n" * 512)
        wait_until(lambda: len(device.queues[0].held) == 3, "the device to take all three", 30)
        _release_last(device)
        assert disk.wait(newer) == b""
        device.hold = False
        mortal.back_end.hang_up()
        with pytest.raises(IoError, match=r"OUT at sector 5: .*newer request has changed the same sectors"):
            disk.wait(older)
        assert disk.wait(other) == b""
        assert disk.read(5, 512) == b"n" * 512


@pytest.mark.parametrize(
    ("older", "newer", "undone"),
    [
        (BlkRequest(RequestType.OUT, 0, bytes(1024)), BlkRequest(RequestType.OUT, 1, bytes(512)), True),
        (BlkRequest(RequestType.OUT, 0, bytes(1024)), BlkRequest(RequestType.OUT, 2, bytes(512)), False),
        (BlkRequest(RequestType.OUT, 0, bytes(512)), BlkRequest(RequestType.IN, 0, bytes(512)), False),
        (BlkRequest(RequestType.FLUSH, 0), BlkRequest(RequestType.OUT, 0, bytes(512)), False),
        (BlkRequest(RequestType.DISCARD, 0, bytes(16)), BlkRequest(RequestType.OUT, 9, bytes(512)), True),
        (BlkRequest(RequestType.OUT, 9, bytes(512)), BlkRequest(RequestType.WRITE_ZEROES, 0, bytes(16)), True),
    ],
)
def test_what_a_newer_request_has_overtaken_is_what_both_may_have_changed(
    older: BlkRequest, newer: BlkRequest, undone: bool
) -> None:
    assert older.changes_what(newer) is undone


def test_what_would_be_appended_twice_is_not_sent_again() -> None:
    assert BlkRequest(RequestType.ZONE_APPEND, 0, bytes(512)).not_again == "it would be appended twice"
    assert BlkRequest(RequestType.OUT, 0, bytes(512)).not_again == ""


def _release_last(device: FakeBlk) -> None:
    queue = device.queues[0]
    queue.held.insert(0, queue.held.pop())
    device.release(count=1)


# --- It does not come back, or not as it was --------------------------------------------------------------------------


@pytest.mark.fault(8)
def test_a_back_end_that_stays_away_is_lost_once_the_time_is_over(path: Path) -> None:
    with Mortal(path, LIKE_QEMU, "reconnect=0.2") as mortal:
        mortal.back_end.close()
        with pytest.raises(DeviceLost, match=r"did not come back within 0\.2 s"):
            mortal.disk.read(0, 512)
        with pytest.raises(DeviceLost, match="out of order"):
            mortal.disk.read(0, 512)


@pytest.mark.fault(8)
def test_with_reconnect_0_it_is_lost_at_once(path: Path) -> None:
    with Mortal(path, LIKE_QEMU, "reconnect=0") as mortal:
        mortal.back_end.die(Step.FETCHED)
        with pytest.raises(DeviceLost, match="is gone"):
            mortal.disk.read(0, 512)
        assert mortal.back_end.connections == 1


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("features", "came back without VIRTIO_BLK_F_FLUSH"),
        ("capacity", "came back with 32 sectors"),
        ("block size", "blocks of 4096 bytes"),
        ("protocol", "came back with another protocol"),
    ],
)
def test_a_back_end_that_comes_back_as_another_is_refused(path: Path, what: str, words: str) -> None:
    with Mortal(path, LIKE_QEMU) as mortal:
        device, back_end = mortal.device, mortal.back_end

        def change() -> None:
            if what == "features":
                device.features &= ~BlkFeature.FLUSH
            elif what == "capacity":
                device.config[:8] = (32).to_bytes(8, "little")
            elif what == "block size":
                device.config[BlkConfig.blk_size.offset : BlkConfig.blk_size.offset + 4] = (4096).to_bytes(4, "little")
            else:
                back_end.protocol_offered &= ~ProtocolFeature.MQ

        back_end.die(Step.FETCHED, then=change)
        with pytest.raises(DeviceChanged, match=words) as caught:
            mortal.disk.write(1, b"1" * 512)
        assert caught.value.exit_code == 5
        assert mortal.device.data[512:1024] == bytes(512)


def test_one_that_comes_back_and_talks_nonsense_is_not_asked_again(path: Path) -> None:
    with Mortal(path, LIKE_QEMU) as mortal:
        back_end = mortal.back_end
        back_end.die(Step.FETCHED, then=lambda: setattr(back_end, "faults", PeerFaults(huge=True)))
        with pytest.raises(WrongSize, match="claims 4294967295 bytes"):
            mortal.disk.read(0, 512)
        assert back_end.connections == 2


def test_a_request_that_kills_every_back_end_is_not_sent_for_ever(path: Path) -> None:
    with Mortal(path, FORGETFUL) as mortal:
        mortal.back_end.die(Step.FETCHED, always=True)
        with pytest.raises(DeviceLost, match="went 4 times in a row without completing a request"):
            mortal.disk.read(0, 512)
        assert mortal.back_end.connections == 4


@PROTOCOLS
def test_threads_that_wait_at_the_same_time_all_get_what_they_asked_for(path: Path, protocol: ProtocolFeature) -> None:
    with Mortal(path, protocol) as mortal:
        mortal.back_end.die(Step.SERVED, after=5)
        results: list[bytes] = []

        def work(sector: int) -> None:
            for _ in range(5):
                mortal.disk.write(sector, bytes([sector]) * 512)
                results.append(mortal.disk.read(sector, 512)[:1])

        threads = [threading.Thread(target=work, args=(sector,)) for sector in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == sorted(bytes([sector]) for sector in range(4) for _ in range(5))


@pytest.mark.parametrize("value", ["-1", "soon", "3601", "nan"])
def test_a_time_that_means_nothing_is_refused(value: str) -> None:
    with pytest.raises(InvalidParam, match="option reconnect cannot be"):
        find(f"vhost-user:/nowhere?reconnect={value}")


# --- Several queues ---------------------------------------------------------------------------------------------------

TWO = FEATURES | BlkFeature.MQ


class TwoQueues(Mortal):
    """As `Mortal`, with two queues in use."""

    def __init__(self, path: Path, protocol: ProtocolFeature) -> None:
        self.device = FakeBlk(FakeHal(), SIZE, features=TWO, queue_size=64, queues=2)
        self.back_end = FakeBackEnd(self.device, protocol)
        self.back_end.listen(path)
        disk = hwloop.open(f"vhost-user:{path}?queue-size=64&queues=2&reconnect=30")
        assert isinstance(disk, VirtioBlk)
        self.disk = disk


@pytest.mark.parametrize("protocol", [KNOWING, FORGETFUL], ids=["knowing", "forgetful"])
def test_every_queue_is_given_to_a_back_end_that_came_back(path: Path, protocol: ProtocolFeature) -> None:
    with TwoQueues(path, protocol) as mortal:
        mortal.back_end.die(Step.FETCHED)
        mortal.disk.write(3, b"3" * 512)
        assert mortal.back_end.connections == 2
        with Dma(mortal.disk.hal, 1, BufferDirection.Both) as memory:
            buffer = DmaBuffer(memory.vaddr, memory.paddr, 4096)
            mortal.disk.queues[1].read_into(3, buffer, 0, 512)
            assert bytes(memoryview(buffer)[:512]) == b"3" * 512
            buffer.close()
