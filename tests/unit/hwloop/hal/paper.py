"""Huge pages and physical addresses on paper, for tests of what stands on them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from hwloop.hal import physical
from hwloop.hal.memory import HUGE_PAGE
from hwloop.hal.physical import Pagemap

FIRST = 0x1_4000_0000
"""The physical address of the first page that anybody is given."""


class PaperPagemap(Pagemap):
    """Every page of the kernel is where `frames` says; those not named yet follow one another from FIRST."""

    def __init__(self) -> None:
        self.frames: dict[int, int] = {}
        self.missing: set[int] = set()
        self.step = HUGE_PAGE
        self.hidden = False
        self.closed = False

    def physical_of(self, vaddr: int) -> int:
        return self.frames.setdefault(vaddr, FIRST + len(self.frames) * self.step)

    def close(self) -> None:
        self.closed = True

    def _read_entry(self, page: int) -> int:
        vaddr = page * 4096
        if vaddr in self.missing:
            return 0
        return 1 << 63 | (0 if self.hidden else self.physical_of(vaddr) // 4096)


def huge_pages_on_paper(monkeypatch: pytest.MonkeyPatch) -> PaperPagemap:
    """Let memory come from an ordinary file in memory, at the addresses of the returned pagemap."""
    pagemap = PaperPagemap()
    monkeypatch.setattr(physical, "create_huge_file", lambda: os.memfd_create("paper"))
    for name in ("hwloop.hal.physical.Pagemap", "hwloop.hal.vfio_function.Pagemap"):
        monkeypatch.setattr(name, lambda: pagemap)
    return pagemap


def mapped() -> int:
    """How much memory of `huge_pages_on_paper` this process has mapped: pieces."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("/memfd:paper")
