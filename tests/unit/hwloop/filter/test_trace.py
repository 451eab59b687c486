"""What a trace holds, and that nothing is in the way without one."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from hwloop import session
from hwloop.device.blk import VirtioBlk
from hwloop.device.block import BlockDevice
from hwloop.door import Place
from hwloop.errors import DeviceError, InvalidParam, IoError, Unsupported
from hwloop.filter import FILTERS, parse_filters
from hwloop.filter.event import CARRYING, Event, Kind
from hwloop.filter.file import Trace
from hwloop.filter.observe import ObservedQueue
from hwloop.filter.text import describe
from hwloop.queue import VirtQueue
from hwloop.transport.fake import FakeTransport


def traced(target: str, path: Path) -> list[Event]:
    """The events of reading and writing a little."""
    with session.open(f"{target}{'&' if '?' in target else '?'}filter=trace:{path}") as disk:
        assert isinstance(disk, BlockDevice)
        disk.write(0, b"\x5a" * 1024)
        assert disk.read(0, 512) == b"\x5a" * 512
    return list(Trace.read(path).events())


def read_a_sector(target: str) -> bytes:
    with session.open(target) as disk:
        assert isinstance(disk, BlockDevice)
        return disk.read(0, 512)


RINGS = ["fake:1M", "fake:1M?indirect=off", "fake:1M?packed=on", "fake:1M?packed=on&indirect=off&in-order=off"]


@pytest.mark.parametrize("target", RINGS)
def test_each_request_is_published_named_and_used(tmp_path: Path, target: str) -> None:
    events = traced(target, tmp_path / "t")
    ring = [event for event in events if event.kind in (Kind.CHAIN, Kind.REQUEST, Kind.USED, Kind.NOTIFY)]
    assert [event.kind for event in ring] == [Kind.CHAIN, Kind.REQUEST, Kind.NOTIFY, Kind.USED] * 2
    assert [(event.width, event.value) for event in ring if event.kind is Kind.REQUEST] == [(1, 0), (0, 0)]
    assert [(event.value, event.width) for event in ring if event.kind is Kind.USED] == [(1, 0), (513, 0)]


def test_time_never_goes_back(tmp_path: Path) -> None:
    times = [event.ns for event in traced("fake:1M", tmp_path / "t")]
    assert times == sorted(times)


def test_the_life_of_the_device_is_there(tmp_path: Path) -> None:
    events = traced("fake:1M", tmp_path / "t")
    written = [event.value for event in events if event.kind is Kind.WRITE_STATUS]
    assert written == [0, 1, 3, 11, 15, 0]
    assert [events[0].kind, events[-1].kind] == [Kind.DEVICE, Kind.CLOSE]


@pytest.mark.parametrize("packed", ["off", "on"])
def test_many_requests_at_once_are_all_there(tmp_path: Path, packed: str) -> None:
    with session.open(f"fake:1M?packed={packed}&filter=trace:{tmp_path / 't'}") as disk:
        assert isinstance(disk, BlockDevice)
        for _ in range(20):
            tokens = [disk.submit_read(sector, 512) for sector in range(8)]
            for token in tokens:
                disk.wait(token)
    events = list(Trace.read(tmp_path / "t").events())
    counts = Counter(event.kind for event in events)
    assert counts[Kind.CHAIN] == counts[Kind.USED] == counts[Kind.REQUEST] == 160
    assert {(event.value, event.width) for event in events if event.kind is Kind.USED} == {(513, 0)}


@pytest.mark.parametrize("packed", ["off", "on"])
def test_a_ring_is_followed_after_the_disk_was_recovered(tmp_path: Path, packed: str) -> None:
    with session.open(f"fake:1M?packed={packed}&filter=trace:{tmp_path / 't'}") as disk:
        assert isinstance(disk, VirtioBlk)
        disk.read(0, 512)
        disk.recover()
        assert disk.read(0, 512) == bytes(512)
    kinds = [event.kind for event in Trace.read(tmp_path / "t").events()]
    assert kinds.count(Kind.USED) == kinds.count(Kind.CHAIN) == 2
    assert Kind.RING_LOST not in kinds


def test_two_threads_share_a_trace(tmp_path: Path) -> None:
    with session.open(f"fake:1M?filter=trace:{tmp_path / 't'}") as disk:
        assert isinstance(disk, BlockDevice)
        threads = [threading.Thread(target=lambda: [disk.read(0, 512) for _ in range(50)]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    counts = Counter(event.kind for event in Trace.read(tmp_path / "t").events())
    assert counts[Kind.CHAIN] == counts[Kind.USED] == 100


def test_without_a_trace_nothing_is_in_the_way() -> None:
    with session.open("fake:1M") as disk:
        assert type(disk.transport) is FakeTransport  # type: ignore[attr-defined]
        assert type(disk._queue) is VirtQueue  # type: ignore[attr-defined]


def test_with_one_the_queue_is_another_object() -> None:
    with session.open("fake:1M?filter=trace") as disk:
        assert isinstance(disk._queue, ObservedQueue)


def test_an_error_says_what_happened_last() -> None:
    with pytest.raises(IoError) as caught:
        read_a_sector("fake:1M?io-error=1&filter=trace")
    notes = [note for note in caught.value.__notes__ if note.startswith("the last events:")]
    assert len(notes) == 1
    assert ", I/O error" in notes[0].splitlines()[-1]


def test_an_error_of_the_initialisation_says_it_too() -> None:
    with pytest.raises(DeviceError) as caught:
        session.open("fake:1M?refuse-features=on&filter=trace")
    assert any("features accepted" in note for note in caught.value.__notes__)


def test_without_a_trace_an_error_has_no_such_note() -> None:
    with pytest.raises(IoError) as caught:
        read_a_sector("fake:1M?io-error=1")
    assert not any("last events" in note for note in getattr(caught.value, "__notes__", ()))


def test_an_access_that_fails_is_an_event(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        session.open(f"fake:1M?gone=on&filter=trace:{tmp_path / 't'}")
    assert any(event.kind is Kind.ERROR for event in Trace.read(tmp_path / "t").events())


def test_a_place_can_be_opened_again_with_filters_of_its_own(tmp_path: Path) -> None:
    place = session.find(f"fake:1M?filter=trace:{tmp_path / 't'}")
    assert isinstance(place, Place)
    for _ in range(2):
        session.open_place(place).close()
    assert len(list(Trace.read(tmp_path / "t").events())) > 10


@pytest.mark.parametrize("text", ["", "nonsense", "trace,", "trace,nonsense:1", "record"])
def test_a_filter_that_is_none(text: str) -> None:
    with pytest.raises(InvalidParam):
        parse_filters(text)


def test_a_device_without_a_transport_refuses_filters(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    with pytest.raises(Unsupported, match="has no transport"):
        session.open(f"svirtb:{image}?filter=trace")


@pytest.mark.parametrize("name", list(FILTERS))
def test_each_filter_can_be_imported(name: str) -> None:
    assert FILTERS.get(name).__module__.startswith("hwloop.filter.")


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_has_words(kind: Kind) -> None:
    payload = b""
    if kind in CARRYING:
        payload = b'{"type": "IoError", "args": [5, "text"]}'
    value = Kind.READ_STATUS if kind is Kind.ERROR else 1
    assert describe(Event(0, kind, 1, 0, len(payload), value, payload))


@pytest.mark.parametrize("value", range(256))
def test_any_status_has_words(value: int) -> None:
    assert describe(Event(0, Kind.READ_STATUS, value=value)).startswith("status is")
    assert describe(Event(0, Kind.ACK_INTERRUPT, value=value)).startswith("interrupt status")
