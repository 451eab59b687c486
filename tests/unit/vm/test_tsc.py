"""How fast the time stamp counter runs."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from hwloop.vm import tsc
from hwloop.vm.errors import BadOption

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="no x86")


@on_x86
def test_two_measurements_agree_to_a_thousandth() -> None:
    first, second = tsc.frequency_khz(), tsc.frequency_khz()
    assert first > 100_000
    assert abs(first - second) < first / 1000


def test_a_rate_is_ticks_in_a_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsc, "SECONDS", 0)
    monkeypatch.setattr(tsc, "_TRIES", 1)
    ticks, clock = iter([1000, 53_000]), iter([4_999_000, 5_001_000, 24_999_000, 25_001_000])
    assert tsc._rate(ticks.__next__, clock.__next__) == 2600


def test_a_reading_that_was_interrupted_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsc, "_TRIES", 3)
    ticks, clock = iter([10, 20, 30]), iter([0, 9_000_000, 9_000_010, 9_000_012, 9_000_020, 9_500_000])
    assert tsc._moment(ticks.__next__, clock.__next__) == (9_000_011, 20)


@on_x86
def test_where_no_code_may_be_made_the_kernels_number_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise PermissionError(13, "execmem is denied")

    (tmp_path / "cpuinfo").write_text("processor\t: 0\ncpu MHz\t\t: 2596.130\n")
    monkeypatch.setattr(tsc, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("mmap.mmap", refuse)
    assert tsc.frequency_khz() == 2596130


def test_a_machine_that_is_no_x86_is_refused_with_the_machine_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(BadOption, match="microvm-noacpi"):
        tsc.frequency_khz()
