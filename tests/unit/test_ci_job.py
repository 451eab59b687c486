"""examples/ci-job.sh: one job a device, another try at exit status 3, and the device goes back at the end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples/ci-job.sh"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a `hwloop` that writes down what it is asked."""
    tool = tmp_path / "hwloop"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(0o755)
    return os.environ | {"HWLOOP": str(tool), "HWLOOP_LOCKS": str(tmp_path), "HWLOOP_WAIT": "0", "HWLOOP_PAUSE": "0"}


def run(environment: dict[str, str], script: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), "0000:03:00.0", "sh", "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_device_goes_back_before_and_after(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(environment, 'echo "$HWLOOP_TARGET"; exit 4')
    assert (done.returncode, done.stdout) == (4, "0000:03:00.0\n")
    assert (tmp_path / "asked").read_text() == "restore 0000:03:00.0\n" * 2


@pytest.mark.parametrize(("more", "tries"), [({}, 1), ({"HWLOOP_TRIES": "3"}, 4)])
def test_a_device_in_use_is_tried_again_where_that_is_asked_for(
    environment: dict[str, str], tmp_path: Path, more: dict[str, str], tries: int
) -> None:
    assert run(environment | more, f"echo once >> {tmp_path}/tries; exit 3").returncode == 3
    assert (tmp_path / "tries").read_text() == "once\n" * tries


def test_a_second_job_for_the_device_has_to_wait(environment: dict[str, str]) -> None:
    inner = f"{SCRIPT} 0000:03:00.0 true"
    done = run(environment, inner)
    assert done.returncode == 75
    assert "another job has 0000:03:00.0" in done.stderr
