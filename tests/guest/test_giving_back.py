"""The kernel's driver is back after every way a command can end."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.guest import machine
from tests.guest.machine import given_back, hwloop, start

DISK = "0000:00:06.0"


def _in_transfer(process: subprocess.Popen[bytes]) -> bool:
    """The device is ours, and the transfer has begun."""
    assert process.poll() is None, process.stderr.read() if process.stderr else b""
    return machine.driver(DISK) == "vfio-pci"


@pytest.mark.fault(43)
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_in_a_read_ends_it_and_gives_the_disk_back(signum: int, status: int) -> None:
    process = start("read", DISK, "0", "16M")
    # Its output is a pipe that nobody reads: it stands in the middle of the transfer.
    assert machine.wait_for(lambda: _in_transfer(process))
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signum)
    assert process.wait(30) == status
    given_back(DISK)


@pytest.mark.fault(43)
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_write_ends_it_and_gives_the_disk_back(signum: int, status: int) -> None:
    process = start("write", DISK, "0")
    assert process.stdin is not None
    process.stdin.write(b"w" * (3 << 20))
    process.stdin.flush()
    assert machine.wait_for(lambda: _in_transfer(process))
    process.send_signal(signum)
    assert process.wait(30) == status
    given_back(DISK)


def test_a_signal_while_the_disk_is_being_taken_is_not_too_early() -> None:
    process = start("read", DISK, "0", "16M")
    assert machine.wait_for(lambda: machine.override(DISK) == "vfio-pci")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    given_back(DISK)


@pytest.mark.fault(50)
def test_a_broken_pipe_is_quiet_and_gives_the_disk_back() -> None:
    process = start("read", DISK, "0", "16M")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(512)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    given_back(DISK)


@pytest.mark.fault(44)
def test_a_second_process_is_refused_and_told_who_has_the_disk() -> None:
    process = start("write", DISK, "0")
    assert machine.wait_for(lambda: _in_transfer(process))
    second = hwloop("read", DISK, "0", "512")
    assert second.returncode == 3
    assert str(process.pid).encode() in second.stderr
    listed = hwloop("list").stdout.decode()
    assert str(process.pid) in listed
    process.communicate(b"x" * 512, timeout=60)
    assert process.returncode == 0
    given_back(DISK)


def test_an_exception_in_the_callers_code_gives_the_disk_back() -> None:
    code = f"import hwloop\nwith hwloop.open('{DISK}') as disk:\n    disk.read(0, 512)\n    raise KeyError('mine')\n"
    result = subprocess.run(["python3", "-c", code], capture_output=True, timeout=60, check=False)
    assert b"KeyError: 'mine'" in result.stderr
    given_back(DISK)


@pytest.mark.fault(60)
def test_a_disk_that_was_never_closed_is_given_back_at_exit() -> None:
    code = f"import hwloop\ndisk = hwloop.open('{DISK}')\ndisk.submit_read(0, 4096)\n"
    result = subprocess.run(["python3", "-c", code], capture_output=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    given_back(DISK)


def _kill_with_its_guardian(process: subprocess.Popen[bytes]) -> None:
    """The guardian first, so that nobody is left to give the disk back. It is there soon after the disk is taken."""
    assert machine.wait_for(lambda: bool(machine.guardians_of(process.pid)))
    for pid in machine.guardians_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait(30)


@pytest.mark.fault(42)
def test_a_killed_process_and_guardian_are_cleaned_up_by_restore() -> None:
    process = start("write", DISK, "0")
    assert machine.wait_for(lambda: _in_transfer(process))
    _kill_with_its_guardian(process)
    assert machine.driver(DISK) == "vfio-pci"
    restored = hwloop("restore")
    assert restored.returncode == 0, restored.stderr
    assert f"{DISK}: virtio-pci" in restored.stdout.decode()
    (machine.RUN_DIR / f"{DISK}.lock").unlink(missing_ok=True)
    given_back(DISK)


@pytest.mark.fault(42)
def test_a_killed_process_and_guardian_are_cleaned_up_by_the_next_command() -> None:
    process = start("write", DISK, "0")
    assert machine.wait_for(lambda: _in_transfer(process))
    _kill_with_its_guardian(process)
    assert hwloop("read", DISK, "0", "512").returncode == 0
    given_back(DISK)


def test_bind_stays_until_restore() -> None:
    bound = hwloop("bind", DISK, "--driver", "vfio-pci")
    assert bound.returncode == 0, bound.stderr
    assert machine.driver(DISK) == "vfio-pci"
    assert hwloop("read", DISK, "0", "512").returncode == 0
    assert machine.driver(DISK) == "vfio-pci"
    assert hwloop("unbind", DISK).returncode == 0
    assert machine.driver(DISK) is None
    assert hwloop("restore", DISK).returncode == 0
    given_back(DISK)


def test_an_override_that_somebody_left_is_cleared_by_restore() -> None:
    (machine.function(DISK) / "driver_override").write_text("vfio-pci\n")
    assert hwloop("restore", DISK).returncode == 0
    given_back(DISK)


def test_a_user_who_is_not_root_is_told_so() -> None:
    result = subprocess.run(
        ["hwloop", "read", DISK, "0", "512"], capture_output=True, timeout=60, check=False, user=65534, group=65534
    )
    assert result.returncode == 6
    assert b"root" in result.stderr
    given_back(DISK)


def test_all_of_it_left_no_process_behind() -> None:
    names = [os.readlink(f"/proc/{pid}/exe") for pid in filter(str.isdigit, os.listdir("/proc")) if _has_exe(pid)]
    assert sum("python" in name for name in names) <= 2, names


def _has_exe(pid: str) -> bool:
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    return True
