from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cython_ring import Loopback, PackedLoopback

COUNT = 200_000
SECOND = 1_000_000_000
READ = ([(0x1000, 16)], [(0x2000, 512), (0x3000, 1)])


def drive(loop: Loopback | PackedLoopback, count: int) -> int:
    """Send `count` requests and check each completion; returns how many waits there were."""
    sent = done = waits = 0
    while done < count:
        while sent < count and loop.driver.free >= 3:
            loop.driver.add(*READ, sent)
            sent += 1
        loop.driver.publish()
        waits += 1
        assert loop.driver.wait(20 * SECOND, 50_000), loop.driver.dump()
        while completion := loop.driver.pop():
            assert completion == (done, 513)
            done += 1
    return waits


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (256, {}),
        (64, {"event_idx": True, "platform_order": True}),
        (64, {"in_order": True, "table_parts": 3}),
    ],
)
def test_a_driver_and_a_device_in_two_threads_lose_and_mix_up_nothing(size: int, options: dict[str, Any]) -> None:
    go(Loopback(size, **options))


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (255, {}),
        (67, {"event_idx": True, "platform_order": True, "table_parts": 3}),
        (61, {"in_order": True}),
    ],
)
def test_so_it_is_with_packed_rings_of_odd_sizes(size: int, options: dict[str, Any]) -> None:
    go(PackedLoopback(size, **options))


def go(loop: Loopback | PackedLoopback) -> None:
    size = loop.driver.size
    with ThreadPoolExecutor(1) as pool:
        device = pool.submit(loop.device.serve, COUNT, 30 * SECOND)
        waits = drive(loop, COUNT)
        assert device.result() == COUNT
    assert 0 < waits <= COUNT
    assert loop.driver.free == size
    assert loop.guards_intact()
