"""The driver's side of a split ring, called from Python, against the same ring in plain Python: no device at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from bench.group.base import Setting
from bench.python_ring import PythonRing
from bench.row import Row
from cython_ring import Loopback

SIZE, BATCH, BATCHES = 256, 32, 200
_READABLE, _WRITABLE = [(0x1000, 16)], [(0x2000, 4096), (0x3000, 1)]
_SECOND = 1_000_000_000


def rows(setting: Setting) -> Iterator[Row]:
    pairs = [(_cython(), _python()) for _ in range(setting.rounds)]
    ratios = [theirs / ours for ours, theirs in pairs]
    best = min(ours for ours, _ in pairs)
    yield Row(
        "one `add` and `pop` a request from Python, batches of 32: plain Python's time over ours",
        ratios,
        notes=f"{best * 1e9:.0f} ns a request at best",
    )


def _cython() -> float:
    loop = Loopback(SIZE)
    ring = loop.driver

    def batch() -> None:
        for token in range(BATCH):
            ring.add(_READABLE, _WRITABLE, token)
        ring.publish()

    return _timed(loop, batch, ring.pop)


def _python() -> float:
    loop = Loopback(SIZE)
    ring = PythonRing(loop.view("desc"), loop.view("avail"), loop.view("used"), SIZE)

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
