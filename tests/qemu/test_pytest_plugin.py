"""The pytest plugin as users have it: plain pytest in a process of its own, on a device of QEMU's."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest

TESTS = """
def test_a_block_comes_back(scratch_blk):
    scratch_blk.write(8, b"x" * 4096)
    assert scratch_blk.read(8, 4096) == b"x" * 4096

def test_the_machine_can_be_asked(virtio_blk, hwloop_qmp):
    assert hwloop_qmp.execute("query-status")["status"]
"""


def test_plain_pytest_on_an_image(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    (tmp_path / "test_disk.py").write_text(TESTS)
    load = [] if entry_points(group="pytest11", name="hwloop") else ["-p", "hwloop.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", *load, "--junitxml=report.xml", "--hwloop-target", "qemu:disk.img"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.fail(done.stdout + done.stderr)
    cases = list(ElementTree.parse(tmp_path / "report.xml").iter("testcase"))
    assert len(cases) == 2
    for case in cases:
        found = {one.get("name"): one.get("value") for one in case.iter("property")}
        assert found["hwloop_target"] == "qemu:disk.img"
        assert "VIRTIO_F_VERSION_1" in str(found["hwloop_features"]).split()
