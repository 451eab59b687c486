"""A trace as Chrome's JSON: slices that do not overlap on a track, counters, instants."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from hwloop import session
from hwloop.cli.main import run
from hwloop.device.block import BlockDevice
from hwloop.filter.chrome import chrome_trace
from hwloop.filter.event import NO_STATUS, Event, Kind

REQUESTS = [
    Event(1000, Kind.NOTIFY, queue=0),
    Event(2000, Kind.CHAIN, queue=0, arg=0, value=16 << 32 | 513),
    Event(2100, Kind.REQUEST, queue=0, arg=0, value=8),
    Event(3000, Kind.CHAIN, queue=0, arg=3, value=528 << 32 | 1),
    Event(3100, Kind.REQUEST, width=1, queue=0, arg=3, value=9),
    Event(4000, Kind.USED, width=0, queue=0, arg=0, value=513),
    Event(5000, Kind.CHAIN, queue=1, arg=0, value=16 << 32 | 1),
    Event(6000, Kind.USED, width=1, queue=0, arg=3, value=1),
    Event(7000, Kind.INTERRUPT, value=0xFFFF),
    Event(8000, Kind.USED, width=NO_STATUS, queue=0, arg=7, value=1),
]


def export(events: list[Event]) -> list[dict[str, Any]]:
    found = chrome_trace(events, {"target": "disk", "started_ns": 1000})["traceEvents"]
    assert isinstance(found, list)
    return found


def test_a_request_is_a_slice_with_its_name_and_outcome() -> None:
    first = next(entry for entry in export(REQUESTS) if entry["ph"] == "X")
    assert (first["name"], first["ts"], first["dur"]) == ("read", 1.0, 2.0)
    assert first["args"] == {
        "head": 0, "readable": 16, "writable": 513, "sector": 8, "written": 513, "status": "ok"
    }  # fmt: skip


def test_slices_of_a_track_do_not_overlap() -> None:
    tracks: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for entry in export(REQUESTS):
        if entry["ph"] == "X":
            tracks[entry["tid"]].append((entry["ts"], entry["ts"] + entry["dur"]))
    assert len(tracks) == 2, "two requests at once"
    for spans in tracks.values():
        spans.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_each_queue_has_a_track_of_its_name() -> None:
    names = {entry["args"]["name"] for entry in export(REQUESTS) if entry["name"] == "thread_name"}
    assert names == {"registers and interrupts", "queue 0", "queue 0, 2 at once", "queue 1"}


def test_the_outstanding_requests_are_counted() -> None:
    counts = [
        entry["args"]["requests"] for entry in export(REQUESTS) if entry["ph"] == "C" and "queue 0" in entry["name"]
    ]
    assert counts == [1, 2, 1, 0]


def test_what_never_completed_is_a_beginning_without_an_end() -> None:
    assert [entry["tid"] >> 15 for entry in export(REQUESTS) if entry["ph"] == "B"] == [3]


def test_the_rest_are_instants() -> None:
    names = [entry["name"] for entry in export(REQUESTS) if entry["ph"] == "i"]
    assert names == ["queue 0: notify", "interrupt", "queue 0: used head 7: 1 bytes written"]


# --- As a viewer takes it ---------------------------------------------------------------------------------------------


def phase(ph: str, *required: str, **properties: object) -> dict[str, object]:
    """What the Trace Event Format requires of the events of one phase, and what Perfetto's importer reads."""
    usual = {"ph": {"const": ph}, "name": {"type": "string", "minLength": 1}, "pid": _UINT32, "tid": _UINT32}
    return {"required": ["ph", "name", "pid", *required], "properties": {**usual, **properties}}


_UINT32 = {"type": "integer", "minimum": 0, "maximum": 0xFFFFFFFF}
_TIME = {"type": "number", "minimum": 0}
_FORMAT = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"additionalProperties": {"type": "string"}},
        "traceEvents": {
            "type": "array",
            "items": {
                "type": "object",
                "oneOf": [
                    phase("X", "ts", "dur", "tid", ts=_TIME, dur=_TIME, args={"type": "object"}),
                    phase("B", "ts", "tid", ts=_TIME, args={"type": "object"}),
                    phase("i", "ts", "tid", "s", ts=_TIME, s={"enum": ["t", "p", "g"]}),
                    phase("C", "ts", "args", ts=_TIME, args={"additionalProperties": {"type": "number"}}),
                    phase(
                        "M", "tid", "args",
                        name={"enum": ["process_name", "thread_name", "thread_sort_index"]},
                        args={"anyOf": [
                            {"required": ["name"], "properties": {"name": {"type": "string", "minLength": 1}}},
                            {"required": ["sort_index"], "properties": {"sort_index": {"type": "integer"}}},
                        ]},
                    ),
                ],
            },
        },
    },
}  # fmt: skip


def check_format(trace: dict[str, Any]) -> None:
    """The events have the shape of their phase; slices of a track do not overlap; each track has a name."""
    Draft202012Validator(_FORMAT).validate(trace)
    tracks: dict[int, list[tuple[float, float]]] = defaultdict(list)
    named = {entry["tid"] for entry in trace["traceEvents"] if entry["name"] == "thread_name"}
    for entry in trace["traceEvents"]:
        if entry["ph"] in "XB":
            tracks[entry["tid"]].append((entry["ts"], entry["ts"] + entry.get("dur", float("inf"))))
    assert set(tracks) <= named
    for spans in tracks.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(spans)))


def test_what_a_viewer_requires_is_there() -> None:
    trace = chrome_trace(REQUESTS, {"target": "disk", "started_ns": 1000, "pid": 7, "data": False})
    assert {entry["ph"] for entry in trace["traceEvents"]} == set("XBiCM")
    check_format(trace)


@pytest.mark.parametrize("options", ["", "packed=on&", "packed=on&indirect=off&in-order=off&"])
def test_a_trace_of_many_requests_at_once_is_one_that_a_viewer_takes(tmp_path: Path, options: str) -> None:
    with session.open(f"fake:1M?{options}filter=trace:{tmp_path / 't'}") as disk:
        assert isinstance(disk, BlockDevice)
        for _ in range(10):
            tokens = [disk.submit_read(sector, 512) for sector in range(8)]
            for token in reversed(tokens):
                disk.wait(token)
    assert run(["trace", "export", str(tmp_path / "t"), "-o", str(tmp_path / "t.json")]) == 0
    trace = json.loads((tmp_path / "t.json").read_text())
    check_format(trace)
    assert [entry["name"] for entry in trace["traceEvents"] if entry["ph"] == "X"] == ["read"] * 80
    assert not [entry for entry in trace["traceEvents"] if entry["ph"] == "B"]
