"""A trace on disk: what was written is read, however the process that wrote it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwloop.errors import SetupError
from hwloop.filter.event import Event, Kind
from hwloop.filter.file import MAGIC, BadTrace, Trace, TraceFile

EVENTS = [
    Event(1, Kind.WRITE_STATUS, value=1),
    Event(2, Kind.READ_CONFIG, width=8, arg=0, value=1 << 63),
    Event(3, Kind.READABLE, queue=65535, arg=5, value=7, payload=b"hello"),
    Event(4, Kind.REGISTER_WRITE, width=4, queue=2, arg=0xFFFFFFFF, value=9),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with TraceFile(str(tmp_path / "t"), {"target": "x"}) as file:
        for event in EVENTS:
            file.write(event)
    trace = Trace.read(tmp_path / "t")
    assert trace.header == {"target": "x"}
    assert list(trace.events()) == EVENTS
    assert len(trace.data) == 24 * 4 + 8, "24 bytes an event, and what it carries"


def test_a_trace_longer_than_a_window(tmp_path: Path) -> None:
    event = Event(1, Kind.WRITABLE, arg=100_000, payload=bytes(range(250)) * 400)
    with TraceFile(str(tmp_path / "t"), {}) as file:
        for _ in range(25):
            file.write(event)
    assert list(Trace.read(tmp_path / "t").events()) == [event] * 25


def test_what_was_written_before_a_sigkill_is_there(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from hwloop.filter.event import Event, Kind\n"
        "from hwloop.filter.file import TraceFile\n"
        "file = TraceFile(sys.argv[1], {})\n"
        "for number in range(1000): file.write(Event(number, Kind.NOTIFY))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "t")], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [event.ns for event in Trace.read(tmp_path / "t").events()] == list(range(1000))


def test_a_child_writes_nothing_and_cuts_nothing_off(tmp_path: Path) -> None:
    file = TraceFile(str(tmp_path / "t"), {})
    pid = os.fork()
    if not pid:
        file.write(EVENTS[0])
        file.close()
        os._exit(0)
    os.waitpid(pid, 0)
    file.write(EVENTS[1])
    file.close()
    file.close()
    assert list(Trace.read(tmp_path / "t").events()) == [EVENTS[1]]


def test_after_close_nothing_is_written(tmp_path: Path) -> None:
    file = TraceFile(str(tmp_path / "t"), {})
    file.close()
    file.write(EVENTS[0])
    assert list(Trace.read(tmp_path / "t").events()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot write the trace"):
        TraceFile(str(tmp_path / "none" / "t"), {})
    with pytest.raises(SetupError, match="cannot write the trace /dev/full"):
        TraceFile("/dev/full", {})


@pytest.mark.parametrize("raw", [b"", b"hwl", b"something else altogether", MAGIC + b"\x02\0\0\0\0\0\0\0"])
def test_what_is_no_trace(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "t").write_bytes(raw)
    with pytest.raises(BadTrace):
        Trace.read(tmp_path / "t")


def test_a_header_that_is_cut_off(tmp_path: Path) -> None:
    TraceFile(str(tmp_path / "t"), {"target": "x"}).close()
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:20])
    with pytest.raises(BadTrace, match="broken header"):
        Trace.read(tmp_path / "t")


def test_an_event_of_an_unknown_kind(tmp_path: Path) -> None:
    TraceFile(str(tmp_path / "t"), {}).close()
    with (tmp_path / "t").open("ab") as file:
        file.write(bytes(8) + b"\xfa" + bytes(15))
    with pytest.raises(BadTrace, match="unknown kind, 0 bytes"):
        list(Trace.read(tmp_path / "t").events())


@pytest.mark.parametrize("cut", range(1, 60))
def test_an_end_in_the_middle_of_an_event_ends_the_trace(tmp_path: Path, cut: int) -> None:
    with TraceFile(str(tmp_path / "t"), {}) as file:
        for event in EVENTS:
            file.write(event)
    raw = (tmp_path / "t").read_bytes()
    (tmp_path / "t").write_bytes(raw[:-cut])
    found = list(Trace.read(tmp_path / "t").events())
    assert found == EVENTS[: len(found)]
    assert len(found) < len(EVENTS)
