"""Reading where nothing may be, in a process that may die of it. The bus errors here are real ones."""

from __future__ import annotations

import errno
import mmap
import os
import time
from pathlib import Path

import pytest

from mmio import MmioError, trial


def children() -> str:
    return Path("/proc/thread-self/children").read_text()


def test_a_place_that_answers_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "mem").write_bytes(bytes(mmap.PAGESIZE))
    trial.check_answers(0x200, tmp_path / "mem")
    assert not children()


def test_a_bus_error_ends_the_child_and_is_an_error_with_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the end of a file that became shorter, a mapping is as dead as a bus without a device."""
    path = tmp_path / "mem"
    path.write_bytes(bytes(mmap.PAGESIZE))
    real = trial.survives

    def cut_short(read: object) -> bool:
        os.truncate(path, 0)
        return real(read)  # type: ignore[arg-type]

    monkeypatch.setattr(trial, "survives", cut_short)
    with pytest.raises(MmioError, match="0x200") as caught:
        trial.check_answers(0x200, path)
    assert caught.value.errno == errno.ENXIO
    assert not children()


def test_an_exception_in_the_child_stays_there() -> None:
    def fail() -> None:
        raise SystemExit(3)

    assert trial.survives(fail)


def test_a_read_that_never_returns_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS", 0.1)
    with pytest.raises(MmioError) as caught:
        trial.survives(lambda: time.sleep(60))
    assert caught.value.errno == errno.ETIMEDOUT
    assert not children()


def test_what_cannot_be_mapped_is_refused_before_any_process_is_made(tmp_path: Path) -> None:
    with pytest.raises(MmioError) as caught:
        trial.check_answers(0x200, tmp_path / "none")
    assert caught.value.errno == errno.ENOENT
