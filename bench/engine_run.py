"""What `bench.instructions` counts: `python -m bench.engine_run KIND BATCHES [LEVEL]`."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import Any

from cython_ring import COMPLETION_BYTES, DmaBuffer, Engine, Loopback, PackedLoopback
from hwloop.device.blk_queue import Batch, BlkQueue

BATCH, SIZE, LENGTH = 32, 256, 4096
_SECOND = 1_000_000_000

# Each by the loopback and the options that it is made with, and whether requests go into indirect tables.
KINDS: dict[str, tuple[Any, dict[str, bool], bool]] = {
    "split": (Loopback, {}, True),
    "split, event idx": (Loopback, {"event_idx": True}, True),
    "split, in order": (Loopback, {"in_order": True}, True),
    "split, direct": (Loopback, {}, False),
    "packed": (PackedLoopback, {}, True),
    "packed, event idx": (PackedLoopback, {"event_idx": True}, True),
    "packed, in order": (PackedLoopback, {"in_order": True}, True),
    "packed, direct": (PackedLoopback, {}, False),
}


def run_engine(kind: str, batches: int) -> None:
    """Submit, serve and reap so many batches, and check each: every completion is there, and good."""
    make, options, indirect = KINDS[kind]
    loop = make(SIZE, slots=True, **options)
    engine = Engine(loop.driver, loop.slot_memory(), indirect=indirect, owner=loop.memory)
    loop.driver.set_used_notifications(False)
    data = 0x10000  # nothing reads or writes it
    requests = array("Q")
    for tag in range(BATCH):
        requests.extend([0, 8 * tag, data, tag, LENGTH | 1 << 32])
    completions = array("Q", bytes(COMPLETION_BYTES * BATCH))
    for _ in range(batches):
        if engine.submit(requests) != BATCH or loop.device.serve(BATCH, _SECOND, 0) != BATCH:
            raise RuntimeError("a batch was not taken")
        if engine.reap(completions) != BATCH or engine.failed:
            raise RuntimeError("a batch did not come back")


def _queue(kind: str) -> tuple[Any, BlkQueue, DmaBuffer]:
    """A loopback, a queue on it, and memory that nothing reads or writes."""
    make, options, indirect = KINDS[kind]
    loop = make(SIZE, slots=True, **options)
    loop.driver.set_used_notifications(False)
    queue = BlkQueue(loop.driver, loop.slot_memory(), capacity=1 << 30, indirect=indirect, owner=loop.memory)
    return loop, queue, DmaBuffer(0x10000, 0x10000, BATCH * LENGTH)


def run_batch(kind: str, batches: int) -> None:
    """The same through a queue of a disk, with its checks."""
    loop, queue, memory = _queue(kind)
    batch = Batch(BATCH)
    batch.reads(array("Q", range(0, 8 * BATCH, 8)), memory, LENGTH)
    for _ in range(batches):
        if queue.submit(batch) != BATCH or loop.device.serve(BATCH, _SECOND, 0) != BATCH:
            raise RuntimeError("a batch was not taken")
        completions = queue.reap()
        if len(completions) != BATCH or completions.failed:
            raise RuntimeError("a batch did not come back")


def run_each(kind: str, batches: int) -> None:
    """One call to submit each request, and one to hear of all that completed."""
    loop, queue, memory = _queue(kind)
    sectors = range(0, 8 * BATCH, 8)
    for _ in range(batches):
        for tag, sector in enumerate(sectors):
            queue.submit_read(sector, memory, tag, tag * LENGTH, LENGTH)
        if loop.device.serve(BATCH, _SECOND, 0) != BATCH or len(queue.poll()) != BATCH:
            raise RuntimeError("a batch did not come back")


def run_empty(kind: str, batches: int) -> None:
    """Looks at a queue where nothing has completed."""
    _, queue, _ = _queue(kind)
    for _ in range(BATCH * batches):
        queue.poll()


LEVELS: dict[str, Callable[[str, int], None]] = {
    "engine": run_engine,
    "batch": run_batch,
    "each": run_each,
    "empty": run_empty,
}

if __name__ == "__main__":
    LEVELS[sys.argv[3] if len(sys.argv) > 3 else "engine"](sys.argv[1], int(sys.argv[2]))
