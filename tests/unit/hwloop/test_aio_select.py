"""Without asyncio, a completion is told by a file descriptor, as docs/asyncio.md describes it."""

from __future__ import annotations

import select
from typing import cast

import hwloop
from hwloop.device.blk import VirtioBlk


def test_select_tells_of_completions_in_the_way_that_is_described() -> None:
    with hwloop.open("fake:1M?wait=adaptive") as opened:
        disk = cast(VirtioBlk, opened)
        queue = disk._queue
        fd = queue.fileno()
        assert fd is not None
        assert not queue.waiter.arm()
        token = disk.submit_read(0, 512)
        assert select.select([fd], [], [], 30)[0] == [fd]
        queue.waiter.disarm()
        assert disk.poll() == [token]
        assert disk.complete(token) == bytes(512)
        assert select.select([fd], [], [], 0)[0] == []
