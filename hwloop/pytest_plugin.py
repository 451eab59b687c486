"""The pytest plugin: tests that drive devices, which the command line names (docs/ci.md).

    pytest --hwloop-target 0000:03:00.0 --junitxml=report.xml

    def test_a_block_comes_back(scratch_blk):
        scratch_blk.write(8, b"x" * 4096)
        assert scratch_blk.read(8, 4096) == b"x" * 4096

pytest loads it wherever hwloop is installed, so it imports nothing of ours before a test asks for a fixture, and does
nothing to tests that ask for none.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hwloop.device.block import BlockDevice
    from hwloop.pytest_disk import DiskUnderTest
    from hwloop.pytest_trace import DeviceTrace
    from hwloop.qtest.qmp import QmpClient

_MARKERS = (
    "hwloop_needs(feature, ...): skip on a disk without these features (flush, discard, write_zeroes, ...); "
    "'writable': on one that is read-only",
    "hwloop_root: skip unless run as root",
    "hwloop_iommu: skip on a machine whose IOMMU is off",
)
_TRACES = pytest.StashKey["DeviceTrace"]()
_BLANK = pytest.StashKey[set[str]]()


# --- Options and markers ----------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hwloop", "devices under test (hwloop)")
    group.addoption(
        "--hwloop-target",
        action="append",
        default=[],
        metavar="TARGET",
        help="Run the tests of `hwloop_target` and of the disk fixtures on this device; may be given again.",
    )
    group.addoption(
        "--hwloop-disposable",
        action="append",
        default=[],
        metavar="TARGET",
        help="As --hwloop-target, and promise that nobody needs what the disk holds.",
    )
    group.addoption(
        "--hwloop-vm",
        action="append",
        default=[],
        metavar="MACHINE[/KERNEL]",
        help="Run the tests of `hwloop_vm`, in this machine: q35, microvm, virt, q35/6.12; may be given again.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_BLANK] = set()
    for line in _MARKERS:
        config.addinivalue_line("markers", line)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"hwloop: {', '.join(targets)}"] if (targets := _targets(config)) else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, values in (
        ("hwloop_target", _targets(metafunc.config)),
        ("hwloop_vm", metafunc.config.getoption("hwloop_vm")),
    ):
        if values and fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, values, indirect=True, scope="session")


def _targets(config: pytest.Config) -> list[str]:
    """Each target once, in the order of the command line."""
    return list(dict.fromkeys([*config.getoption("hwloop_target"), *config.getoption("hwloop_disposable")]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("hwloop_root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("hwloop_iommu") and not _has_iommu():
        pytest.skip("needs an IOMMU that is on (intel_iommu=on or amd_iommu=on on the kernel's command line)")


def _has_iommu(groups: Path = Path("/sys/kernel/iommu_groups")) -> bool:
    return groups.is_dir() and any(groups.iterdir())


# The old way to wrap a hook: every pytest that we support has it.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """A test that fails shows what passed between the driver and its device."""
    outcome = yield
    report, trace = outcome.get_result(), item.stash.get(_TRACES, None)
    if report.failed and trace is not None:
        report.sections += trace.sections()


# --- Fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def hwloop_target(request: pytest.FixtureRequest) -> str:
    """A target of the command line, as `hwloop.open` takes it; without one the test is skipped."""
    if not hasattr(request, "param"):
        pytest.skip("no device to test: give --hwloop-target")
    return str(request.param)


@pytest.fixture
def hwloop_trace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeviceTrace]:
    """The devices that the test opens are traced from now on; a test that fails shows the end of their traces."""
    from hwloop.pytest_trace import DeviceTrace

    with DeviceTrace(tmp_path / "hwloop.trace") as trace:
        request.node.stash[_TRACES] = trace
        yield trace


@pytest.fixture
def _hwloop_disk(request: pytest.FixtureRequest, hwloop_target: str) -> Iterator[DiskUnderTest]:
    from hwloop.pytest_disk import DiskUnderTest

    if "hwloop_trace" in request.fixturenames:
        # A device that is open already is not traced any more.
        request.getfixturevalue("hwloop_trace")
    with DiskUnderTest(hwloop_target) as disk:
        request.node.user_properties += disk.properties()
        for marker in request.node.iter_markers("hwloop_needs"):
            disk.skip_without(marker.args)
        yield disk


@pytest.fixture
def virtio_blk(_hwloop_disk: DiskUnderTest) -> BlockDevice:
    """The disk, open, and closed at the end of the test. What it holds may be anybody's: only read it."""
    return _hwloop_disk.device


@pytest.fixture
def scratch_blk(request: pytest.FixtureRequest, _hwloop_disk: DiskUnderTest) -> BlockDevice:
    """As `virtio_blk`, a disk that may be written.

    One that holds a file system, a partition table or the like is refused, unless --hwloop-disposable names it. What a
    test leaves on a disk that was blank at first does not count.
    """
    blank, target = request.config.stash[_BLANK], _hwloop_disk.target
    _hwloop_disk.skip_without(["writable"])
    if target not in (*blank, *request.config.getoption("hwloop_disposable")):
        _hwloop_disk.refuse_data()
        blank.add(target)
    return _hwloop_disk.device


@pytest.fixture
def hwloop_qmp(_hwloop_disk: DiskUnderTest) -> QmpClient:
    """QMP of the QEMU behind the disk; skipped where the target is none of `qemu:`."""
    return _hwloop_disk.qmp()


@pytest.fixture(scope="session")
def hwloop_vm(request: pytest.FixtureRequest) -> Any:
    """`hwloop.vm.run` for the machine of the command line: `hwloop_vm(["uname", "-r"], disks=["disk.img"])`."""
    if not hasattr(request, "param"):
        pytest.skip("boots a VM, which takes its time: give --hwloop-vm q35")
    from hwloop import vm
    from hwloop.vm.machine import OWN_KERNEL

    machine, _, kernel = request.param.partition("/")
    return partial(vm.run, machine=machine, kernel=kernel or OWN_KERNEL)
