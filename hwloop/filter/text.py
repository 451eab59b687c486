"""A trace as text: one line an event."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from hwloop.filter.event import NO_STATUS, Event, Kind
from hwloop.spec import DeviceStatus, InterruptStatus

REQUESTS: Mapping[int, str] = {
    0: "read", 1: "write", 4: "flush", 8: "get id", 10: "get lifetime", 11: "discard", 13: "write zeroes",
    14: "secure erase", 15: "zone append", 16: "zone report", 18: "zone open", 20: "zone close", 22: "zone finish",
    24: "zone reset", 26: "zone reset all",
}  # fmt: skip
"""Types of block requests by number (VIRTIO 1.4, 5.2.6)."""

_STATUSES = {0: "ok", 1: "I/O error", 2: "unsupported", 3: "zone invalid", 4: "zone unaligned", 5: "zone open resource",
             6: "zone active resource"}  # fmt: skip

_SHAPES: dict[Kind, Callable[[Event], str]] = {
    Kind.DEVICE: lambda e: "device " + ", ".join(f"{key} {value}" for key, value in json.loads(e.payload).items()),
    Kind.READ_FEATURES: lambda e: f"features offered {e.value:#x}",
    Kind.WRITE_FEATURES: lambda e: f"features accepted {e.value:#x}",
    Kind.READ_STATUS: lambda e: f"status is {_status(e.value)}",
    Kind.WRITE_STATUS: lambda e: f"status := {_status(e.value)}",
    Kind.READ_QUEUE_SIZE: lambda e: f"largest size {e.value}",
    Kind.QUEUE_SIZE: lambda e: f"set up with {e.value} descriptors",
    Kind.QUEUE_DESC: lambda e: f"descriptors at {e.value:#x}",
    Kind.QUEUE_DRIVER: lambda e: f"driver area at {e.value:#x}",
    Kind.QUEUE_DEVICE: lambda e: f"device area at {e.value:#x}",
    Kind.QUEUE_UNSET: lambda e: "reset",
    Kind.READ_QUEUE_USED: lambda e: f"in use: {'yes' if e.value else 'no'}",
    Kind.NOTIFY: lambda e: f"notify{f' {e.value:#x}' if e.value else ''}",
    Kind.ACK_INTERRUPT: lambda e: f"interrupt status {_isr(e.value)}",
    Kind.READ_GENERATION: lambda e: f"config generation {e.value}",
    Kind.READ_CONFIG: lambda e: f"config[{e.arg:#x}] is {e.value:#x} ({e.width} bytes)",
    Kind.WRITE_CONFIG: lambda e: f"config[{e.arg:#x}] := {e.value:#x} ({e.width} bytes)",
    Kind.PAGE_SIZE: lambda e: f"page size := {e.value}",
    Kind.CONFIG_VECTOR: lambda e: f"config vector := {e.value:#x}",
    Kind.DMA_ON: lambda e: "DMA on",
    Kind.DMA_OFF: lambda e: "DMA off",
    Kind.CLOSE: lambda e: "registers closed",
    Kind.REGISTERS: lambda e: f"registers {e.queue} are {e.arg:#x} bytes at {e.value:#x}",
    Kind.REGISTER_READ: lambda e: f"registers {e.queue} [{e.arg:#x}] is {e.value:#0{2 * e.width + 2}x}",
    Kind.REGISTER_WRITE: lambda e: f"registers {e.queue} [{e.arg:#x}] := {e.value:#0{2 * e.width + 2}x}",
    Kind.CHAIN: lambda e: f"published head {e.arg}: {e.value >> 32} bytes to read, {e.value & 0xFFFFFFFF} to write",
    Kind.REQUEST: lambda e: f"head {e.arg} is {request_name(e.width)} at sector {e.value}",
    Kind.READABLE: lambda e: f"head {e.value} gives {_bytes(e.payload)}",
    Kind.USED: lambda e: f"used head {e.arg}: {e.value} bytes written{_outcome(e.width)}",
    Kind.WRITABLE: lambda e: f"head {e.value} got {_bytes(e.payload)}",
    Kind.RING_LOST: lambda e: f"not followed: {e.payload.decode(errors='replace')}",
    Kind.INTERRUPT: lambda e: f"interrupt{f' of vector {e.value}' if e.value != 0xFFFF else ''}",
    Kind.ERROR: lambda e: _error(e),
    Kind.TAKES_VECTOR: lambda e: f"vector {e.arg} is {'taken' if e.value else 'refused'}{_event_of(e.queue)}",
    Kind.VECTORS: lambda e: f"{e.value} interrupt vectors of {e.arg} that are wanted",
    Kind.LINE: lambda e: f"{_line(e.arg)} is {'open' if e.value & 1 else 'not there'}",
}

_OF_A_QUEUE = frozenset({
    Kind.READ_QUEUE_SIZE, Kind.QUEUE_SIZE, Kind.QUEUE_DESC, Kind.QUEUE_DRIVER, Kind.QUEUE_DEVICE, Kind.QUEUE_UNSET,
    Kind.READ_QUEUE_USED, Kind.NOTIFY, Kind.CHAIN, Kind.REQUEST, Kind.READABLE, Kind.USED, Kind.WRITABLE,
    Kind.RING_LOST,
})  # fmt: skip


def queue_of(event: Event) -> int | None:
    """The queue that an event belongs to, or None."""
    return event.queue if event.kind in _OF_A_QUEUE else None


def describe(event: Event) -> str:
    """What happened, without its time."""
    text = _SHAPES[event.kind](event)
    queue = queue_of(event)
    return text if queue is None else f"queue {queue}: {text}"


def lines(events: Iterable[Event], start_ns: int | None = None) -> list[str]:
    """A line each, with seconds since `start_ns`, or since the first of them."""
    found = list(events)
    start = start_ns if start_ns is not None else (found[0].ns if found else 0)
    return [f"{(event.ns - start) / 1e9:12.6f}  {describe(event)}" for event in found]


def request_name(number: int) -> str:
    """`read`, `flush`; `request 99` for one that has no name."""
    return REQUESTS.get(number, f"request {number}")


def status_name(number: int) -> str:
    """What a block device says of a request."""
    return _STATUSES.get(number, f"status {number:#x}")


def _status(value: int) -> str:
    return "0" if not value else f"{value:#04x} {'|'.join(bit.name or '' for bit in DeviceStatus(value))}"


def _isr(value: int) -> str:
    return "0" if not value else "|".join(bit.name or "" for bit in InterruptStatus(value))


def _outcome(status: int) -> str:
    return "" if status == NO_STATUS else f", {status_name(status)}"


def _bytes(data: bytes) -> str:
    return f"{len(data)} bytes {data[:16].hex(' ')}{' ...' if len(data) > 16 else ''}"


def _line(vector: int) -> str:
    return "the interrupt line" if vector == 0xFFFF else f"interrupt vector {vector}"


def _event_of(queue: int) -> str:
    return " for the configuration" if queue == 0xFFFF else f" for queue {queue}"


def _error(event: Event) -> str:
    content = json.loads(event.payload)
    return f"{Kind(event.value).name} failed: {content['type']}: {content['args'][-1]}"
