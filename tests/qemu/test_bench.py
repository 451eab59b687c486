"""`hwloop bench` on QEMU's own disks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwloop.cli.main import run
from tests.qemu.conftest import CONTENT

ARGUMENTS = ["--requests", "200", "--warm-up", "0", "--count-accesses", "--iodepth", "4"]


def measured(capfd: pytest.CaptureFixture[str], target: str, *arguments: str) -> dict[str, Any]:
    assert run(["bench", target, *ARGUMENTS, *arguments, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("jobs", ["1", "3"])
@pytest.mark.parametrize("wait", ["poll", "irq"])
@pytest.mark.parametrize("options", ["", "?legacy=on", "?machine=microvm"])
def test_every_interface_is_measured_and_its_accesses_are_counted(
    image: Path, capfd: pytest.CaptureFixture[str], options: str, wait: str, jobs: str
) -> None:
    found = measured(capfd, f"qemu:{image}{options}", "--wait", wait, "--numjobs", jobs)
    costs = found["cost_per_request"]
    assert found["requests"] == 200
    assert found["latency_us"]["min"] > 0
    # A message-signalled interrupt is not acknowledged, one of a memory-mapped device by one access or two.
    acknowledged = costs["interrupts"] if "microvm" in options else 0
    assert 0 < costs["notifications"] <= 1
    assert costs["notifications"] + acknowledged <= costs["register_accesses"] + 1e-9
    assert costs["bytes_copied"] == 0
    if wait == "poll":
        assert costs["interrupts"] == 0
    assert image.read_bytes() == CONTENT * 2048


def test_the_target_may_say_how_to_wait_and_the_option_overrules_it(
    image: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert measured(capfd, f"qemu:{image}?wait=irq")["workload"]["wait"] == "irq"
    overruled = measured(capfd, f"qemu:{image}?wait=irq", "--wait", "poll")
    assert (overruled["workload"]["wait"], overruled["cost_per_request"]["interrupts"]) == ("poll", 0)


def test_writes_reach_the_image_where_they_were_meant_to(image: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rw", "write", "--offset", "64k", "--size", "256k", "--yes-destroy-data"]
    assert measured(capfd, f"qemu:{image}", *arguments)["writes"]["requests"] == 200
    data, first, end = image.read_bytes(), 64 << 10, 320 << 10
    assert data[:first] + data[end:] == (CONTENT * 2048)[: (1 << 20) - (256 << 10)]
    assert CONTENT not in data[first:end]
