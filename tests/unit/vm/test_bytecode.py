"""Byte code for the guest, made by this machine's Python in the guest's place."""

from __future__ import annotations

import importlib.util
import marshal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hwloop.vm.bytecode import GuestPython
from hwloop.vm.machine import AMD64

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
FOREIGN = replace(AMD64, machine="pdp11")
"""A processor that this machine is not."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hwloop").mkdir()
    (tmp_path / "hwloop/a.py").write_text("x = 1\n")
    (tmp_path / "hwloop/wrong.py").write_text("x = = 1\n")
    return tmp_path / "hwloop"


def made(folder: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(folder / "a.py")))


def test_byte_code_is_made_for_the_path_in_the_guest(folder: Path) -> None:
    GuestPython(folder, OWN, FOREIGN).compile(folder, folder.parent)
    data = made(folder).read_bytes()
    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert data[4:8] == b"\x01\0\0\0"  # PEP 552: by hash, not checked
    assert marshal.loads(data[16:]).co_filename == "/hwloop/a.py"


def test_no_byte_code_is_made_for_a_python_that_cannot_run_here(folder: Path) -> None:
    GuestPython(folder, "3.2", FOREIGN).compile(folder, folder.parent)
    assert not made(folder).parent.exists()


@pytest.mark.parametrize("version", [OWN, "3.2"])
def test_the_guests_interpreter_is_taken_where_it_can_run(
    folder: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    command = GuestPython(Path("/root-of-guest"), version, AMD64)._interpreter()
    assert command is not None
    assert command[0] == "/root-of-guest/usr/lib64/ld-linux-x86-64.so.2"
    assert command[-1] == f"/root-of-guest/usr/bin/python{version}"
