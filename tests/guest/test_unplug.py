"""Fault 9: the kernel asks for a function that a command has, and waits for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.guest import machine

DISK = "0000:00:05.0"
"""Stays; its driver is unbound, or the function removed, from inside."""
PLUGGED = "0000:01:00.0"
"""Behind a port; the host unplugs it."""
WHY = b"the kernel asks for the device back"
ASK_HOST, HOST_DONE = Path("/share/unplug"), Path("/share/unplugged")
COMMANDS = {
    "bench": ["bench", "--time", "600", "--iodepth", "8"],
    "copy": ["copy", "--no-progress"],
    "serve": ["serve", "nbd", "--socket", "/tmp/unplug.sock"],
}


def start(name: str, address: str) -> subprocess.Popen[bytes]:
    """`copy` waits for a pipe that nobody writes to, `serve` for a client."""
    command, *options = COMMANDS[name]
    target = f"{address}?hal=vfio"
    where = ["nbd", target, *options[1:]] if name == "serve" else [*(["-"] if name == "copy" else []), target, *options]
    process = machine.start(command, *where)
    # The one that listens for the kernel; the device is set up by then.
    assert machine.wait_for(lambda: len(list(Path(f"/proc/{process.pid}/task").iterdir())) > 1, 120)
    assert machine.driver(address) == "vfio-pci"
    return process


def ended_as_lost(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 5, said
    assert WHY in said or b"out of order" in said, said


@pytest.mark.fault(9)
@pytest.mark.parametrize("name", COMMANDS)
def test_faults_09_a_function_that_is_removed_is_given_back(name: str) -> None:
    process = start(name, DISK)
    try:
        subprocess.run(["sh", "-c", f"echo 1 > {machine.function(DISK)}/remove"], check=True, timeout=120)
        ended_as_lost(process)
        assert not list(machine.RUN_DIR.glob("*")), "a journal or a lock is left over"
    finally:
        Path("/sys/bus/pci/rescan").write_text("1")
    assert machine.wait_for(lambda: machine.driver(DISK) == "virtio-pci")
    assert machine.wait_for(lambda: any(machine.function(DISK).glob("virtio*/block/*")))
    machine.given_back(DISK)


@pytest.mark.fault(9)
def test_faults_09_a_disk_that_the_host_unplugs_is_let_go_of() -> None:
    process = start("bench", PLUGGED)
    ASK_HOST.touch()
    ended_as_lost(process)
    assert machine.wait_for(HOST_DONE.exists, 120)
    assert not machine.function(PLUGGED).exists()
    assert not list(machine.RUN_DIR.glob("*")), "a journal or a lock is left over"
