"""`python -m bench.verify [REQUESTS]`: as many reads as asked, 10 million without, each of them looked at.

A device completes them and stamps the data with the sector: in turns with us, and one in a hundred requests in a thread
of its own. Each request has to come back once, in order, with status 0, with its tag and with the stamp of its sector.
Both ring formats take turns.
"""

from __future__ import annotations

import ctypes
import mmap
import random
import sys
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cython_ring import DmaBuffer, Loopback, PackedLoopback
from hwloop.device.blk_queue import Batch, BlkQueue

BATCH, LENGTH, ROUND = 64, 512, 500_000
_SECOND = 1_000_000_000


def verify(make: Any, size: int, count: int, seed: int, *, threaded: bool, **options: bool) -> None:
    """Raises RuntimeError for the first batch that is not right."""
    loop = make(size, slots=True, **options)
    loop.driver.set_used_notifications(False)
    queue = BlkQueue(loop.driver, loop.slot_memory(), capacity=1 << 62, indirect=True, owner=loop.memory)
    memory = mmap.mmap(-1, BATCH * LENGTH)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    buffer = DmaBuffer(address, address, len(memory), owner=memory)
    stamps = memoryview(memory).cast("Q")
    chance = random.Random(seed)
    batch = Batch(BATCH)
    with ThreadPoolExecutor(1) as pool:
        device = pool.submit(loop.device.serve, count, 600 * _SECOND, 0, stamp=True) if threaded else None
        for first in range(0, count, BATCH):
            many = min(BATCH, count - first)
            sectors = array("Q", [chance.getrandbits(61) for _ in range(many)])
            batch.clear()
            batch.reads(sectors, buffer, LENGTH, first_tag=first)
            if queue.submit(batch) != many:
                raise RuntimeError(f"batch {first} was not taken")
            if not threaded:
                loop.device.serve(many, _SECOND, 0, stamp=True)
            completions = queue.reap(many, deadline=60)
            read = stamps[:: LENGTH // 8][:many].tolist()
            if completions.failed or completions.tags != tuple(range(first, first + many)) or read != sectors.tolist():
                raise RuntimeError(f"batch {first} came back wrong: {list(completions)[:3]}, {read[:3]}")
        if device is not None and device.result() != count:
            raise RuntimeError("the device served another number")


def main() -> None:
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    began = time.monotonic()
    kinds: list[tuple[Any, int, dict[str, bool]]] = [
        (Loopback, 256, {}),
        (PackedLoopback, 251, {}),
        (Loopback, 128, {"event_idx": True, "in_order": True}),
        (PackedLoopback, 67, {"event_idx": True}),
    ]
    for turn, first in enumerate(range(0, total, ROUND)):
        make, size, options = kinds[turn % len(kinds)]
        count = min(ROUND, total - first)
        verify(make, size, count - count // 100, turn, threaded=False, **options)
        verify(make, size, count // 100, turn, threaded=True, **options)
    print(f"{total} requests verified, none wrong, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
