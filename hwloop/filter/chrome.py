"""A trace as Chrome's JSON, which https://ui.perfetto.dev opens: one track a queue, one slice a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from hwloop.filter.event import NO_STATUS, Event, Kind
from hwloop.filter.text import describe, queue_of, request_name, status_name

_DEVICE = 1
_REGISTERS = 1
_FIRST_QUEUE = 1 << 16
_LANES = 1 << 15
"""Tracks of a queue at most: requests that it can hold."""
_SILENT = frozenset({Kind.READABLE, Kind.WRITABLE, Kind.REQUEST})


def chrome_events(events: Iterable[Event], name: str, start_ns: int) -> Iterator[dict[str, Any]]:
    """The entries of `traceEvents`. Requests that never completed are slices without an end."""
    yield _named("process_name", name)
    yield _named("thread_name", "registers and interrupts", _REGISTERS)
    exporter = _Exporter(start_ns)
    for event in events:
        yield from exporter.export(event)
    yield from exporter.leftovers()


def chrome_trace(events: Iterable[Event], header: dict[str, Any]) -> dict[str, Any]:
    """The whole of the file."""
    found = list(chrome_events(events, str(header.get("target", "device")), int(header.get("started_ns", 0))))
    return {"traceEvents": found, "displayTimeUnit": "ns", "otherData": {k: str(v) for k, v in header.items()}}


class _Exporter:
    """Pairs what was published with what was used. Slices of one track may not overlap, so requests that do get tracks
    of their own below that of their queue."""

    def __init__(self, start_ns: int) -> None:
        self._start = start_ns
        self._open: dict[tuple[int, int], dict[str, Any]] = {}
        self._lanes: dict[int, list[bool]] = {}

    def export(self, event: Event) -> Iterator[dict[str, Any]]:
        if event.kind is Kind.CHAIN:
            yield from self._begin(event)
        elif event.kind is Kind.REQUEST:
            self._name(event)
        elif event.kind is Kind.USED:
            yield from self._end(event)
        elif event.kind not in _SILENT:
            yield self._instant(event)

    def leftovers(self) -> Iterator[dict[str, Any]]:
        """What was never used, as beginnings without an end."""
        yield from ({**slice_, "ph": "B"} for slice_ in self._open.values())

    def _begin(self, event: Event) -> Iterator[dict[str, Any]]:
        lanes = self._lanes.setdefault(event.queue, [])
        lane = lanes.index(False) if False in lanes else len(lanes)
        track = _FIRST_QUEUE + event.queue * _LANES + lane
        if lane == len(lanes):
            lanes.append(True)
            yield _named("thread_name", f"queue {event.queue}{f', {lane + 1} at once' if lane else ''}", track)
            yield {**_named("thread_sort_index", "", track), "args": {"sort_index": track}}
        lanes[lane] = True
        readable, writable = event.value >> 32, event.value & 0xFFFFFFFF
        self._open[event.queue, event.arg] = {
            "ph": "X", "name": "request", "pid": _DEVICE, "tid": track, "ts": self._at(event),
            "args": {"head": event.arg, "readable": readable, "writable": writable},
        }  # fmt: skip
        yield self._counter(event)

    def _name(self, event: Event) -> None:
        slice_ = self._open.get((event.queue, event.arg))
        if slice_ is not None:
            slice_["name"] = request_name(event.width)
            slice_["args"] |= {"sector": event.value}

    def _end(self, event: Event) -> Iterator[dict[str, Any]]:
        slice_ = self._open.pop((event.queue, event.arg), None)
        if slice_ is None:
            yield self._instant(event)
            return
        slice_["dur"] = self._at(event) - slice_["ts"]
        slice_["args"]["written"] = event.value
        if event.width != NO_STATUS:
            slice_["args"]["status"] = status_name(event.width)
        self._lanes[event.queue][slice_["tid"] - _FIRST_QUEUE - event.queue * _LANES] = False
        yield slice_
        yield self._counter(event)

    def _counter(self, event: Event) -> dict[str, Any]:
        name, count = f"outstanding, queue {event.queue}", sum(self._lanes[event.queue])
        return {"ph": "C", "name": name, "pid": _DEVICE, "ts": self._at(event), "args": {"requests": count}}

    def _instant(self, event: Event) -> dict[str, Any]:
        queue = queue_of(event)
        return {
            "ph": "i", "s": "t", "name": describe(event), "pid": _DEVICE, "ts": self._at(event),
            "tid": _REGISTERS if queue is None else _FIRST_QUEUE + queue * _LANES,
        }  # fmt: skip

    def _at(self, event: Event) -> float:
        """Microseconds since the trace began."""
        return (event.ns - self._start) / 1000


def _named(what: str, name: str, thread: int = 0) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": _DEVICE, "tid": thread, "args": {"name": name}}
