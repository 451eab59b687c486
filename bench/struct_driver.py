"""A whole driver in plain Python on `PythonRing`: `python -m bench.struct_driver SOCKET DEPTH SECONDS DEVICE`.

Transport and memory are hwloop's, requests and ring are not. Prints what `bench.driver` prints.
"""

from __future__ import annotations

import ctypes
import json
import random
import signal
import sys
import time
from struct import Struct

from bench.driver import cpu_of
from bench.python_ring import PythonRing
from hwloop import session
from hwloop.hal.base import BufferDirection, Dma, pages_for
from hwloop.queue_areas import make_areas
from hwloop.spec import Feature

SIZE, BYTES = 256, 4096
_HEAD = Struct("<IIQ")


def view(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


def run(socket: str, depth: int, seconds: float, device: int) -> dict[str, float]:
    place = session.find(f"vhost-user:{socket}").open_transport()
    transport, hal = place.transport, place.hal
    with place:
        transport.begin_init(Feature.VERSION_1)
        areas = make_areas(hal, transport, SIZE)
        transport.queue_set(0, SIZE, areas.desc[0], areas.driver[0], areas.device[0])
        transport.finish_init()
        sectors = transport.read_config_space(0, 8)
        pieces = (areas.desc[1], 16 * SIZE), (areas.driver[1], 4 + 2 * SIZE), (areas.device[1], 4 + 8 * SIZE)
        ring = PythonRing(*(view(*piece) for piece in pieces), SIZE)
        memory = Dma(hal, pages_for(depth * (BYTES + 32)), BufferDirection.Both)
        heads = view(memory.vaddr + depth * BYTES, depth * 32)
        heads_at = memory.paddr + depth * BYTES
        own, theirs, began = time.process_time(), cpu_of(device), time.monotonic()
        completed = _go(ring, heads, memory.paddr, heads_at, depth, sectors // 8, began + seconds)
        passed = time.monotonic() - began
        return {
            "iops": completed / passed,
            "driver_cpu": (time.process_time() - own) / passed,
            "device_cpu": (cpu_of(device) - theirs) / passed,
        }


def _go(
    ring: PythonRing, heads: memoryview, data: int, heads_at: int, depth: int, places: int, end: float
) -> int:  # fmt: skip
    """A slot a request: 16 bytes of head, then the status."""
    source, slots, completed = random.Random(1).randrange, list(range(depth)), 0
    slot_of: dict[int, int] = {}
    while time.monotonic() < end:
        while slots:
            slot = slots.pop()
            at = 32 * slot
            heads[at : at + 16] = _HEAD.pack(0, 0, 8 * source(places))
            head = ring.add([(heads_at + at, 16)], [(data + BYTES * slot, BYTES), (heads_at + at + 16, 1)])
            slot_of[head] = slot
        ring.publish()
        while (done := ring.pop()) is not None:
            slot = slot_of.pop(done)
            if heads[32 * slot + 16]:
                raise RuntimeError("a request failed")
            slots.append(slot)
            completed += 1
    while slot_of:
        if (done := ring.pop()) is not None:
            del slot_of[done]
    return completed


def main() -> None:
    signal.alarm(60)
    socket, depth, seconds, device = sys.argv[1:]
    print(json.dumps(run(socket, int(depth), float(seconds), int(device))))


if __name__ == "__main__":
    main()
