"""The one fixture that several files here share."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.unit.hwloop.machine import Machine, NewMachine


@pytest.fixture
def new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewMachine:
    """Makes a machine with one disk; the keyword arguments are those of `FakeBlk`."""
    return partial(Machine, tmp_path, monkeypatch)
