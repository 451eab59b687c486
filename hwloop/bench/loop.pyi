from collections.abc import Callable
from typing import final

from cython_ring import DmaBuffer
from cython_ring.histogram import Histogram
from hwloop.device.blk_queue import BlkQueue

@final
class Loop:
    """Keeps `depth` requests of `block_bytes` in flight on `queue`, whose only user it is, with data in `buffer`."""

    def __init__(
        self,
        queue: BlkQueue,
        buffer: DmaBuffer,
        *,
        block_bytes: int,
        depth: int,
        places: int,
        first_sector: int = 0,
        at_random: bool = True,
        start: int = 0,
        read_percent: int = 100,
        seed: int = 1,
        batch: int = 1,
        looks: int = 1 << 22,
        spin_ns: int = 100_000,
        wait: Callable[[float], object] | None = None,
    ) -> None: ...
    @property
    def queue(self) -> BlkQueue: ...
    @property
    def depth(self) -> int: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def most_in_flight(self) -> int: ...
    @property
    def submitted(self) -> int: ...
    @property
    def completed(self) -> int: ...
    @property
    def waits(self) -> int: ...
    def run(
        self, end_ns: int, requests: int, reads: Histogram | None = None, writes: Histogram | None = None
    ) -> None: ...
    def drain(self, reads: Histogram | None = None, writes: Histogram | None = None) -> None: ...
