"""The soak (tests/soak) for some seconds, over what needs no QEMU; `make soak` is the whole of it."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.soak.__main__ import Sample, Soak
from tests.soak.load import Load
from tests.soak.rigs import HERE, FakeRig, running


def test_ten_seconds_of_load_and_faults_leave_nothing_behind() -> None:
    soak = Soak(6, HERE)
    soak.run(10)
    assert soak.counts["requests"] > 100
    assert soak.counts["faults"] > 5
    assert soak.counts["recovered"] > 0


def some(load: Load, turns: int) -> None:
    for _ in range(turns):
        load.some()


def test_data_that_is_not_what_was_written_is_found() -> None:
    with running(FakeRig, random.Random(1)) as rig:
        load = Load(rig.disk, random.Random(1), Counter())
        some(load, 50)
        assert isinstance(rig, FakeRig)
        rig.device.data[:] = bytes(len(rig.device.data))
        with pytest.raises(AssertionError, match="does not hold what was written"):
            some(load, 500)


def test_memory_that_is_not_given_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Load, "_batch", lambda self: self.disk.alloc(4096))
    monkeypatch.setattr(FakeRig, "faults", lambda self: {"nothing": lambda: None})
    monkeypatch.setattr(FakeRig, "_nothing_is_left", lambda self, hal: None)
    with pytest.raises(AssertionError, match="not given back"):
        Soak(1, [FakeRig]).use(FakeRig)


@pytest.mark.parametrize(
    ("more", "what"), [(Sample(100 << 20, 0, 0, 0), "memory"), (Sample(0, 1, 0, 0), "descriptors")]
)
def test_what_grows_is_found(more: Sample, what: str) -> None:
    soak = Soak(1, [])
    first = soak.first
    soak.last = Sample(
        first.rss + more.rss, first.descriptors + more.descriptors, first.threads + more.threads, first.maps
    )
    with pytest.raises(AssertionError, match=f"{what} leak"):
        soak.check()
