"""`make bench`: the split ring in Cython against the same ring in plain Python, on the same device side.

Rounds are interleaved, and each gives a ratio of its own: the machine's speed may change between rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bench.python_ring import PythonRing
from cython_ring import Loopback

SIZE, BATCH, BATCHES, ROUNDS = 256, 32, 200, 7
_READABLE, _WRITABLE = [(0x1000, 16)], [(0x2000, 4096), (0x3000, 1)]
_SECOND = 1_000_000_000


def cython_round() -> float:
    loop = Loopback(SIZE)
    ring = loop.driver

    def batch() -> None:
        for token in range(BATCH):
            ring.add(_READABLE, _WRITABLE, token)
        ring.publish()

    return _timed(loop, batch, ring.pop)


def python_round() -> float:
    loop = Loopback(SIZE)
    ring = PythonRing(loop, SIZE)

    def batch() -> None:
        for _ in range(BATCH):
            ring.add(_READABLE, _WRITABLE)
        ring.publish()

    return _timed(loop, batch, ring.pop)


def _timed(loop: Loopback, batch: Callable[[], None], pop: Callable[[], object]) -> float:
    """Seconds that the driver's side takes for a request; the device's side is not in it."""
    spent = 0.0
    for _ in range(BATCHES):
        began = time.perf_counter()
        batch()
        spent += time.perf_counter() - began
        loop.device.serve(BATCH, _SECOND)
        began = time.perf_counter()
        for _ in range(BATCH):
            pop()
        spent += time.perf_counter() - began
    return spent / (BATCH * BATCHES)


def main() -> None:
    rounds = [(cython_round(), python_round()) for _ in range(ROUNDS)]
    ratios = sorted(plain / ours for ours, plain in rounds)
    ours = statistics.median(seconds for seconds, _ in rounds)
    print(f"split ring, three parts a request, batches of {BATCH}, {ROUNDS} interleaved rounds")
    print(f"  driver's side in Cython, called from Python: {ours * 1e9:.0f} ns a request (median)")
    print(f"  plain Python takes {statistics.median(ratios):.1f} times as long ({ratios[0]:.1f} to {ratios[-1]:.1f})")


if __name__ == "__main__":
    main()
