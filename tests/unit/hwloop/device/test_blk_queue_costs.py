"""What a look at a queue costs where nothing has completed: no system call, and no object of Python's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.instructions import available, count
from tests.unit.hwloop.device.blk_queue_pair import MAKES, Pair, buffer

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("make", MAKES)
def test_an_empty_poll_makes_no_object(make: Any) -> None:
    pair = Pair(make)
    pair.queue.submit_read(0, buffer(), 1)
    poll, reap, blocks = pair.queue.poll, pair.queue.reap, sys.getallocatedblocks
    for look in (poll, reap):
        look()
        turns, most = iter(range(1000)), 0
        before = blocks()
        for _ in turns:
            look()
            most = max(most, blocks())
        # The numbers of this loop itself are some; one object kept each time would be a thousand.
        assert most - before < 10
    assert pair.queue.poll() is pair.queue.poll()
    assert pair.queue.reap() is pair.queue.reap()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_an_empty_poll_makes_no_system_call(tmp_path: Path) -> None:
    """3,200 polls make as many calls as 32 do, but for what the interpreter does by itself."""
    calls = []
    for batches in (1, 100):
        trace = tmp_path / f"{batches}.trace"
        run = [sys.executable, "-m", "bench.engine_run", "split", str(batches), "empty"]
        done = subprocess.run(["strace", "-f", "-o", trace, *run], cwd=ROOT, capture_output=True, timeout=120)
        if done.returncode and b"ptrace" in done.stderr:
            pytest.skip("ptrace is not allowed here")
        assert done.returncode == 0, done.stderr
        calls.append(len(trace.read_text().splitlines()))
    assert abs(calls[1] - calls[0]) < 100


@pytest.mark.skipif(not available(), reason="valgrind is not installed")
@pytest.mark.parametrize(
    ("kind", "level", "limit"), [("split", "batch", 170), ("split", "each", 635), ("split", "empty", 275)]
)
def test_a_request_through_a_queue_takes_no_more_instructions_than_its_limit(kind: str, level: str, limit: int) -> None:
    assert 20 < count(kind, level).call <= limit
