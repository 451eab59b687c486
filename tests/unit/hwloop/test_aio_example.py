"""The example of docs/asyncio.md does what it says."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path
from typing import cast

import hwloop
from hwloop.device.blk import VirtioBlk

ROOT = Path(__file__).parents[3]


def test_the_example_runs() -> None:
    text = (ROOT / "docs" / "asyncio.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "1000 blocks, 32768 sectors\n"


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
