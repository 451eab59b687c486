"""What `bench.instructions` counts: `python -m bench.engine_run KIND BATCHES`."""

from __future__ import annotations

import sys
from array import array
from typing import Any

from cython_ring import COMPLETION_BYTES, Engine, Loopback, PackedLoopback

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


def run(kind: str, batches: int) -> None:
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


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]))
