"""`python -m bench.copying` measures what it says, in a size that takes seconds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_both_copy_as_many_bytes_wherever_both_know_of_holes(tmp_path: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    command = [sys.executable, "-m", "bench.copying", "--rounds", "1", "--size", "16", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")][2:]
    ends = {row[0]: [cell.rsplit(", ", 1)[1] for cell in row[2:]] for row in rows}
    for way in ("to a disk", "from a disk", "file to file"):
        assert ends[f"{way}, full"] == ["16 MiB in the end"] * 2
        assert ends[f"{way}, an eighth full"] == ["2 MiB in the end"] * 2
    assert list(tmp_path.iterdir()) == []
