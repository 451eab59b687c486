"""A thread a queue, and no lock between them: also what `make tsan` watches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cython_ring.histogram import Histogram
from tests.unit.hwloop.device.blk_queue_pair import MAKES, SECOND, Pair, buffer

QUEUES = 4
COUNT = 20_000


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("event_idx", [False, True])
def test_queues_run_beside_each_other_and_each_does_all_of_its_own(make: Any, event_idx: bool) -> None:
    pairs = [Pair(make, 64, ring={"event_idx": event_idx, "table_parts": 3}) for _ in range(QUEUES)]
    histograms = [Histogram() for _ in pairs]

    def drive(number: int) -> int:
        memory = buffer(32 * 4096)
        done, _ = pairs[number].queue.run(
            memory, depth=32, requests=COUNT, write_share=0.25, seed=number + 1, latencies=histograms[number]
        )
        return int(done)

    with ThreadPoolExecutor(2 * QUEUES) as pool:
        devices = [pool.submit(pair.loop.device.serve, COUNT, 60 * SECOND, 0) for pair in pairs]
        drivers = [pool.submit(drive, number) for number in range(QUEUES)]
        assert [driver.result() for driver in drivers] == [COUNT] * QUEUES
        assert [device.result() for device in devices] == [COUNT] * QUEUES
    assert [histogram.count for histogram in histograms] == [COUNT] * QUEUES
    assert all(pair.loop.guards_intact() for pair in pairs)
