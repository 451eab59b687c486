"""Runs a file of tests/guest inside a guest."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hwloop import vm
from tests import doors, faults

MIB = 1 << 20
KILLS = int(os.environ.get("HWLOOP_KILLS", "3"))
"""SIGKILLs for each way to a disk (tests/guest/test_killed.py)."""
GUEST_SECONDS, KILL_SECONDS = 900, 30


def image(folder: Path, name: str, size: int) -> Path:
    """A sparse disk image."""
    path = folder / name
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def run_in_guest(
    *files: str,
    disks: list[str],
    qemu: list[str] | None = None,
    share: Path | None = None,
    machine: str = "q35",
    kernel: str = "6.1",
    mmio_version: int | None = None,
    leave_out: Sequence[str] = (),
) -> None:
    """Run the tests of these files but those to `leave_out` in one guest; their report appears in ours. Asserts that
    all of them passed."""
    paths = [f"tests/guest/{file}" for file in files]
    # A share is a device more in the guest: not every test can have one.
    noted = ["HWLOOP_DOORS=/share/doors.jsonl", "HWLOOP_FAULTS=/share/faults.jsonl"] if share is not None else []
    noted += [f"HWLOOP_MACHINE={machine}", f"HWLOOP_MMIO_VERSION={mmio_version or ''}"]
    noted.append(f"HWLOOP_KILLS={KILLS}")
    noted.append(f"HWLOOP_ALL_RINGS={os.environ.get('HWLOOP_ALL_RINGS', '')}")
    command = ["env", "HWLOOP_GUEST=1", *noted, "pytest", "-v", "--durations=12", "-p", "no:cacheprovider", *paths]
    command += [f"--deselect=tests/guest/{test}" for test in leave_out]
    result = vm.run(
        command,
        disks=disks,
        qemu=qemu or [],
        share=share,
        machine=machine,
        kernel=kernel,
        mmio_version=mmio_version,
        timeout=GUEST_SECONDS + KILLS * KILL_SECONDS,
    )
    if share is not None:
        doors.merge(share / "doors.jsonl")
        faults.merge(share / "faults.jsonl")
    sys.stdout.write(_text(result.stdout))
    sys.stderr.write(_text(result.stderr))
    assert result.returncode == 0, f"tests failed in the guest; it said:\n{_text(result.stdout)[-6000:]}"


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")
