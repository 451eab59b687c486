"""However we end, QEMU ends with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import hwloop
from hwloop.deadline import wait_until
from tests.contract.qtest_doors import running_qemus
from tests.qemu.conftest import CONTENT

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, signal, sys, threading, time
import hwloop
from tests.contract.qtest_doors import running_qemus
disk = hwloop.open("qemu:" + sys.argv[1])
pids = []
for task in os.listdir("/proc/self/task"):
    with open(f"/proc/self/task/{task}/children") as children:
        pids += children.read().split()
print(*pids, flush=True)
"""


class Program:
    """A program of its own that opens a disk and then does something; `pids` are QEMU and what watches it."""

    def __init__(self, image: Path, rest: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + rest, str(image)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.pids = [int(word) for word in line.split()]
        self.said = ""
        if not self.pids:
            raise AssertionError(self.process.communicate()[1])
        assert len(self.pids) == 2

    def ended(self) -> tuple[int, str]:
        self.said, complaints = self.process.communicate(timeout=20)
        wait_until(lambda: not any(map(is_alive, self.pids)), "QEMU to end", 5)
        return self.process.returncode, complaints


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        ("disk.close()", 0),
        ("", 0),
        ("raise SystemExit(7)", 7),
        ("raise RuntimeError", 1),
        ("os._exit(9)", 9),
        ("os.execvp('true', ['true'])", 0),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_qemu_ends_with_the_program_however_that_ends(image: Path, rest: str, status: int) -> None:
    assert Program(image, rest).ended()[0] == status


def test_qemu_ends_with_a_program_that_is_killed_in_the_middle_of_requests(image: Path) -> None:
    program = Program(image, "while True: disk.read(0, 4096)")
    time.sleep(0.1)
    program.process.kill()
    assert program.ended()[0] == -signal.SIGKILL
    with hwloop.open(f"qemu:{image}") as disk:
        assert isinstance(disk, hwloop.VirtioBlk)
        assert disk.read(0, 512) == CONTENT


def test_ctrl_c_is_for_us_and_not_for_qemu(image: Path) -> None:
    """A terminal sends SIGINT to the whole process group in the foreground."""
    program = Program(
        image,
        """
try:
    while True: disk.read(0, 4096)
except KeyboardInterrupt:
    assert len(running_qemus()) == 1
    assert len(disk.read(0, 512)) == 512
    print("still there", flush=True)
""",
    )
    time.sleep(0.1)
    os.killpg(program.process.pid, signal.SIGINT)
    assert program.ended() == (0, "")
    assert program.said == "still there\n"


def test_ctrl_c_in_the_command_ends_it_with_130_and_leaves_nothing(image: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hwloop", "read", f"qemu:{image}", "0", "512", "-o", str(tmp_path / "pipe")]
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        # It waits for a reader of the pipe, with the disk open.
        wait_until(lambda: len(children_of(process.pid)) == 2, "the command to open the disk", 10)
        pids = children_of(process.pid)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) == 130
    assert not any(map(is_alive, pids))


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_end_of_the_thread_that_started_qemu_is_not_its_end(image: Path) -> None:
    disks: list[hwloop.VirtioBlk] = []

    def work() -> None:
        disk = hwloop.open(f"qemu:{image}")
        assert isinstance(disk, hwloop.VirtioBlk)
        disks.append(disk)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    time.sleep(0.05)
    with disks[0] as disk:
        assert disk.read(0, 512) == CONTENT


def test_a_child_process_ends_nothing_and_keeps_nothing_open(image: Path) -> None:
    program = Program(
        image,
        """
child = os.fork()
if not child:
    try:
        disk.read(0, 512)
    except hwloop.HwloopError as error:
        assert "child" in str(error), error
    disk.close()
    time.sleep(30)
    os._exit(0)
time.sleep(0.3)
assert len(disk.read(0, 512)) == 512
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    assert program.process.stdout is not None
    child = int(program.process.stdout.readline())
    try:
        assert program.process.wait(10) == -signal.SIGKILL
        wait_until(lambda: not any(map(is_alive, program.pids)), "QEMU to end", 5)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)
        program.process.communicate()


def test_an_error_while_it_is_opened_leaves_nothing(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("hwloop.door.guestless.find_function", fail)
    with pytest.raises(RuntimeError, match="no"):
        hwloop.open(f"qemu:{image}")
    assert running_qemus() == []


def test_what_was_written_is_in_the_image_when_the_disk_is_closed(image: Path) -> None:
    with hwloop.open(f"qemu:{image}") as disk:
        assert isinstance(disk, hwloop.VirtioBlk)
        disk.write(5, b"5" * 512)
    assert image.read_bytes()[5 * 512 : 6 * 512] == b"5" * 512
    assert image.read_bytes()[6 * 512 : 7 * 512] == CONTENT
