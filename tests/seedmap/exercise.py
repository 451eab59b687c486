"""A plugin of pytest: notes which functions of ours each test calls, in the file that HWLOOP_EXERCISED names."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

ROOT = str(Path(__file__).parents[2])
_OURS = tuple(f"{ROOT}/{name}/" for name in ("hwloop", "pci", "mmio", "udev", "cython_ring"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fixtures count: they often make what the test is about."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            seen.add(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        return (yield)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        _write(item.nodeid, seen)


def _write(test: str, seen: set[CodeType]) -> None:
    called = sorted(
        f"{code.co_filename.removeprefix(ROOT + '/')}:{code.co_qualname}"
        for code in seen
        if code.co_filename.startswith(_OURS)
    )
    with open(os.environ["HWLOOP_EXERCISED"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"test": test, "called": called}) + "\n")
