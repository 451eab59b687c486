"""`make tsan` runs extensions that ThreadSanitizer watches: this is how we know that it would see a race."""

from __future__ import annotations

import os

import pytest

from tests.sanitizer.test_sanitizer import run

pytestmark = pytest.mark.skipif(not os.environ.get("HWLOOP_SANITIZED", "").endswith("tsan"), reason="for `make tsan`")

# What nobody may do: two loops without the GIL count into one histogram.
A_RACE = """
import sys
sys.path.append({checkout!r})
from threading import Thread
from cython_ring.histogram import Histogram
from tests.unit.hwloop.device.blk_queue_pair import SECOND, Pair, buffer

def drive(pair, histogram):
    pair.queue.run(buffer(8 * 4096), depth=8, requests=20000, latencies=histogram)

pairs, shared = [Pair(), Pair()], [Histogram(), Histogram()]
if {race}:
    shared[1] = shared[0]
threads = [Thread(target=pair.loop.device.serve, args=(20000, 60 * SECOND, 0)) for pair in pairs]
threads += [Thread(target=drive, args=each) for each in zip(pairs, shared)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_a_race_is_found_and_only_where_there_is_one() -> None:
    checkout = os.getcwd()
    with_race = run(A_RACE.format(race=True, checkout=checkout))
    assert "ThreadSanitizer: data race" in with_race.stderr
    assert with_race.returncode == 66
    without = run(A_RACE.format(race=False, checkout=checkout))
    assert "ThreadSanitizer" not in without.stderr
    assert without.returncode == 0, without.stderr
