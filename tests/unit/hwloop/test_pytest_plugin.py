"""The pytest plugin, in runs of pytest inside this one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import hwloop
import hwloop.pytest_disk
import hwloop.pytest_trace
from hwloop import pytest_plugin, session

pytest_plugins = ["pytester"]

LEFT_OUT = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist"]
"""Plugins that a run inside does without. A run forgets what it imported, and hypothesis, rewritten and compiled anew
at the end of each, took two of its three seconds."""

USES_A_DISK = "def test_it(virtio_blk):\n    assert virtio_blk.size() == 1 << 20\n"
READS_A_FAILING_DISK = "def test_it(virtio_blk, hwloop_trace):\n    virtio_blk.read(8, 512)\n"
LEAVES_AN_XFS = "def test_{}(scratch_blk):\n    scratch_blk.write(0, b'XFSB'.ljust(512))\n"


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """A run inside forgets what it imported, and extensions are not imported twice."""
    with hwloop.open("fake:1M?filter=trace"):
        pass


def run(pytester: pytest.Pytester, code: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(code)
    return pytester.runpytest_inprocess(*load(), *LEFT_OUT, "-rs", *options)


def load() -> list[str]:
    """What pytest needs in an environment that was made before hwloop had an entry point."""
    return [] if entry_points(group="pytest11", name="hwloop") else ["-p", "hwloop.pytest_plugin"]


def fake(pytester: pytest.Pytester, content: bytes = b"") -> str:
    """A svirtb disk of 1 MiB in a file: it keeps what it holds from one test to the next."""
    path = pytester.path / "disk.img"
    path.write_bytes(content.ljust(1 << 20, b"\0"))
    return f"svirtb:{path}"


# --- Targets ----------------------------------------------------------------------------------------------------------


def test_without_a_target_a_test_is_skipped_and_says_what_to_give(pytester: pytest.Pytester) -> None:
    result = run(pytester, USES_A_DISK)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*no device to test: give --hwloop-target*")


def test_each_target_is_a_run_of_its_own(pytester: pytest.Pytester) -> None:
    options = ["--hwloop-target", "fake:1M", "--hwloop-target", "fake:1M?block-size=4096", "--hwloop-target", "fake:1M"]
    result = run(pytester, USES_A_DISK, "-v", *options)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["hwloop: fake:1M, fake:1M?block-size=4096", "*test_it?fake:1M? PASSED*"])


def test_a_target_is_text_that_open_takes(pytester: pytest.Pytester) -> None:
    code = (
        "import hwloop\ndef test_it(hwloop_target):\n    with hwloop.open(hwloop_target) as disk:\n        disk.flush()"
    )
    run(pytester, code, "--hwloop-target", "fake:1M").assert_outcomes(passed=1)


def test_a_device_that_cannot_be_reached_is_an_error_in_our_words(pytester: pytest.Pytester) -> None:
    result = run(pytester, USES_A_DISK, "--hwloop-target", "vhost-user:/nowhere.sock?reconnect=0")
    result.assert_outcomes(errors=1)
    assert "Traceback" not in result.stdout.str()
    result.stdout.fnmatch_lines("*vhost-user:/nowhere.sock*")


def test_a_disk_is_closed_when_its_test_is_over(pytester: pytest.Pytester) -> None:
    code = """
        import pytest, hwloop
        disks = []
        def test_one(virtio_blk):
            disks.append(virtio_blk)
        def test_two():
            with pytest.raises(hwloop.HwloopError):
                disks[0].read(0, 512)
    """
    run(pytester, code, "--hwloop-target", "fake:1M").assert_outcomes(passed=2)


# --- What a disk holds ------------------------------------------------------------------------------------------------


def test_a_disk_that_holds_data_is_refused_with_the_option_that_helps(pytester: pytest.Pytester) -> None:
    target = fake(pytester, b"XFSB")
    result = run(pytester, LEAVES_AN_XFS.format(1), "--hwloop-target", target)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(f"*an XFS file system; nothing was written*--hwloop-disposable {target}*")


def test_one_that_is_disposable_is_written(pytester: pytest.Pytester) -> None:
    target = fake(pytester, b"\0" * 512 + b"EFI PART")
    run(pytester, LEAVES_AN_XFS.format(1), "--hwloop-disposable", target).assert_outcomes(passed=1)
    assert (pytester.path / "disk.img").read_bytes()[:4] == b"XFSB"


def test_what_a_test_left_on_a_blank_disk_does_not_count(pytester: pytest.Pytester) -> None:
    code = LEAVES_AN_XFS.format(1) + LEAVES_AN_XFS.format(2)
    run(pytester, code, "--hwloop-target", fake(pytester)).assert_outcomes(passed=2)


def test_a_read_only_disk_is_no_scratch_disk(pytester: pytest.Pytester) -> None:
    result = run(pytester, LEAVES_AN_XFS.format(1), "--hwloop-disposable", "fake:1M?read-only=on")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*has not: writable*")


# --- Markers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "target", "outcome"),
    [
        ("'flush', 'discard'", "fake:1M?discard=on", "passed"),
        ("'flush', 'discard'", "fake:1M", "skipped"),
        ("'write-zeroes', 'VERSION_1'", "fake:1M?write-zeroes=on", "passed"),
        ("'levitation'", "fake:1M", "errors"),
    ],
)
def test_needs(pytester: pytest.Pytester, needs: str, target: str, outcome: str) -> None:
    code = f"import pytest\n@pytest.mark.hwloop_needs({needs})\ndef test_it(virtio_blk):\n    pass"
    result = run(pytester, code, "--strict-markers", "--hwloop-target", target)
    result.assert_outcomes(**{outcome: 1})
    said = {"passed": "*1 passed*", "skipped": "*fake:1M has not: discard*", "errors": "*'levitation' is no feature*"}
    result.stdout.fnmatch_lines(said[outcome])


@pytest.mark.parametrize(("uid", "outcome"), [(0, "passed"), (1000, "skipped")])
def test_root(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, uid: int, outcome: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    run(pytester, "import pytest\n@pytest.mark.hwloop_root\ndef test_it(): pass").assert_outcomes(**{outcome: 1})


@pytest.mark.parametrize(("there", "outcome"), [(True, "passed"), (False, "skipped")])
def test_iommu(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, there: bool, outcome: str) -> None:
    monkeypatch.setattr(pytest_plugin, "_has_iommu", lambda: there)
    run(pytester, "import pytest\n@pytest.mark.hwloop_iommu\ndef test_it(): pass").assert_outcomes(**{outcome: 1})


def test_an_iommu_that_is_on_has_groups(tmp_path: Path) -> None:
    assert not pytest_plugin._has_iommu(tmp_path / "none")
    assert not pytest_plugin._has_iommu(tmp_path)
    (tmp_path / "0").mkdir()
    assert pytest_plugin._has_iommu(tmp_path)


# --- Reports ----------------------------------------------------------------------------------------------------------


def test_a_test_that_fails_shows_the_trace(pytester: pytest.Pytester) -> None:
    result = run(pytester, READS_A_FAILING_DISK, "--hwloop-target", "fake:1M?io-error=2")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*hwloop trace of fake:1M?io-error=2*", "*is read at sector 8*", "*I/O error*", "*hwloop trace show /*"]
    )
    assert session.EVERY_DEVICE == []


def test_a_test_that_passes_shows_none_and_can_look_at_it(pytester: pytest.Pytester) -> None:
    code = """
        def test_it(virtio_blk, hwloop_trace):
            virtio_blk.read(8, 512)
            assert any("is read at sector 8" in line for line in hwloop_trace.lines())
    """
    result = run(pytester, code, "-rA", "--hwloop-target", "fake:1M")
    result.assert_outcomes(passed=1)
    assert "hwloop trace of" not in result.stdout.str()


def test_a_test_that_did_not_ask_is_not_traced(pytester: pytest.Pytester) -> None:
    code = "def test_it(virtio_blk):\n    assert virtio_blk.transport.last_events() == []"
    run(pytester, code, "--hwloop-target", "fake:1M").assert_outcomes(passed=1)


def properties(path: Path) -> list[dict[str, str]]:
    cases = ElementTree.parse(path).iter("testcase")
    return [{str(one.get("name")): str(one.get("value")) for one in case.iter("property")} for case in cases]


def test_junit_says_what_was_tested(pytester: pytest.Pytester) -> None:
    run(pytester, USES_A_DISK, "--junitxml=report.xml", "--hwloop-target", "fake:1M?serial=N1").assert_outcomes(
        passed=1
    )
    [found] = properties(pytester.path / "report.xml")
    assert found["hwloop_target"] == "fake:1M?serial=N1"
    assert (found["hwloop_serial"], found["hwloop_capacity"]) == ("N1", "1048576")
    assert found["hwloop_transport"] == found["hwloop_hal"] == "fake"
    assert "VIRTIO_BLK_F_FLUSH" in found["hwloop_features"]


def test_a_device_without_transport_has_properties_too(pytester: pytest.Pytester) -> None:
    target = fake(pytester)
    run(pytester, USES_A_DISK, "--junitxml=report.xml", "--hwloop-target", target).assert_outcomes(passed=1)
    [found] = properties(pytester.path / "report.xml")
    assert (found["hwloop_transport"], found["hwloop_serial"], found["hwloop_features"]) == ("none", "", "")


def test_a_disk_that_refuses_to_say_its_serial_is_tested_and_one_that_is_lost_is_not(
    pytester: pytest.Pytester,
) -> None:
    run(pytester, USES_A_DISK, "--hwloop-target", "fake:1M?io-error=1").assert_outcomes(passed=1)
    result = run(pytester, USES_A_DISK, "--hwloop-target", "fake:1M?filter=fault:gone-after=1")
    result.assert_outcomes(errors=1)
    assert "Traceback" not in result.stdout.str()
    result.stdout.fnmatch_lines("*the device is gone*")


# --- QMP and the VM ---------------------------------------------------------------------------------------------------


def test_only_a_qemu_target_has_qmp(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_it(virtio_blk, hwloop_qmp): pass", "--hwloop-target", "fake:1M")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*fake:1M has no QMP*")


VM = "def test_it(hwloop_vm):\n    assert hwloop_vm(['uname']) == (['uname'], {'machine': 'q35', 'kernel': '6.12'})\n"


def test_the_vm_is_for_those_who_ask(pytester: pytest.Pytester) -> None:
    result = run(pytester, VM)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines("*give --hwloop-vm q35*")


def test_the_vm_is_the_one_of_the_command_line(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    from hwloop import vm

    def run_it(command: list[str], **named: Any) -> Any:
        return command, named

    monkeypatch.setattr(vm, "run", run_it)
    run(pytester, VM, "--hwloop-vm", "q35/6.12").assert_outcomes(passed=1)


# --- Other people's tests ---------------------------------------------------------------------------------------------


def test_loading_it_imports_nothing_else_of_ours() -> None:
    code = "import sys, hwloop.pytest_plugin; print(sorted(n for n in sys.modules if n.split('.')[0] in sys.argv[1:]))"
    packages = ["hwloop", "cython_ring", "mmio", "pci", "udev", "rich", "click", "pyudev"]
    done = subprocess.run([sys.executable, "-c", code, *packages], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['hwloop', 'hwloop.pytest_plugin']"


def test_tests_that_use_no_fixture_of_ours_are_left_alone(pytester: pytest.Pytester) -> None:
    code = "def test_it(request):\n    assert not request.node.user_properties and not request.fixturenames[1:]"
    result = run(pytester, code, "--hwloop-target", "fake:1M", "--hwloop-vm", "q35")
    result.assert_outcomes(passed=1)
