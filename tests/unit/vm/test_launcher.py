"""The owner of QEMU, tried with shell scripts in QEMU's place: they write the same pipes."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwloop.deadline import Deadline
from hwloop.vm.errors import GuestFailed, GuestTimeout
from hwloop.vm.launcher import Conversation, FileSink, Qemu
from tests.timing import SLACK

ROOT = Path(__file__).parents[3]


def frame(kind: str, body: bytes = b"") -> str:
    """A frame as printf's argument."""
    raw = kind.encode() + struct.pack("<I", len(body)) + body
    return "".join(f"\\{byte:03o}" for byte in raw)


def gone(pid: int) -> bool:
    """Ended, whether or not somebody has taken its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Talk:
    """A conversation with a script; `$F` is the frames' pipe, `$C` the console's."""

    def __init__(self, script: str, seconds: float = 10) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        with Qemu() as qemu:
            pipes = f"F={qemu.frames_end.fileno()}; C={qemu.console_end.fileno()};"
            qemu.start(["sh", "-c", f"{pipes} {script}"], [])
            assert qemu.process is not None
            self.pid = qemu.process.pid
            outputs = self.stdout.extend, self.stderr.extend
            self.conversation = Conversation(qemu, *outputs, None, Deadline(seconds))
            try:
                self.status: int | None = self.conversation.run()
                self.error: OSError | None = None
            except OSError as error:
                self.status, self.error = None, error


def test_output_goes_its_two_ways_and_the_status_comes_back() -> None:
    parts = frame("r") + frame("o", b"out\0\xff") + frame("e", b"err") + frame("x", struct.pack("<I", 7))
    talk = Talk(f"printf '{parts}' >/proc/self/fd/$F")
    assert (talk.status, bytes(talk.stdout), bytes(talk.stderr)) == (7, b"out\0\xff", b"err")


def test_a_guest_that_does_not_end_after_its_command_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwloop.vm.launcher.END_SECONDS", 0.3)
    talk = Talk(f"printf '{frame('x', bytes(4))}' >/proc/self/fd/$F; exec sleep 60")
    assert talk.status == 0
    assert gone(talk.pid)


def test_a_process_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwloop.vm.launcher.END_SECONDS", 0.3)
    talk = Talk(f"trap '' TERM; printf '{frame('x', bytes(4))}' >/proc/self/fd/$F; while :; do sleep 0.1; done")
    assert gone(talk.pid)


def test_a_timeout_ends_qemu_and_says_what_was_waited_for() -> None:
    talk = Talk(f"printf '{frame('r')}' >/proc/self/fd/$F; exec sleep 60", seconds=0.5)
    assert isinstance(talk.error, GuestTimeout)
    assert talk.error.exit_code == 124
    assert "the command to end" in str(talk.error)
    assert gone(talk.pid)


def test_a_kernel_that_never_comes_up_is_told_from_a_command_that_hangs() -> None:
    talk = Talk("exec sleep 60", seconds=0.3)
    assert "kernel to start" in str(talk.error)


def test_what_qemu_says_before_it_fails_is_in_the_error() -> None:
    talk = Talk("echo 'Failed to get \"write\" lock' >&2; exit 1")
    assert isinstance(talk.error, GuestFailed)
    assert 'status 1 and said:\nFailed to get "write" lock' in str(talk.error)
    assert talk.error.exit_code == 6


def test_qemu_ended_by_a_signal_is_an_error_that_names_it() -> None:
    assert "signal 6" in str(Talk("kill -ABRT $$").error)


def test_a_panic_is_shown_from_its_reason_on() -> None:
    lines = "\\n".join(["booting", "Kernel panic - not syncing: why", *(f"trace {n}" for n in range(50))])
    talk = Talk(f"printf '{frame('r')}' >/proc/self/fd/$F; printf '{lines}' >/proc/self/fd/$C")
    assert isinstance(talk.error, GuestFailed)
    assert "before the command had ended" in str(talk.error)
    assert "Kernel panic - not syncing: why\ntrace 0" in talk.error.console
    assert "trace 40" not in talk.error.console


def test_a_failure_to_set_up_is_told_in_the_agents_words() -> None:
    talk = Talk(f"printf '{frame('f', b'module virtio_blk could not be loaded')}' >/proc/self/fd/$F; exec sleep 60")
    assert "module virtio_blk could not be loaded" in str(talk.error)
    assert gone(talk.pid)


def test_what_is_no_frame_ends_the_guest() -> None:
    talk = Talk("echo nonsense >/proc/self/fd/$F; exec sleep 60")
    assert "no frame" in str(talk.error)
    assert gone(talk.pid)


def test_closing_twice_and_without_a_start_does_nothing() -> None:
    qemu = Qemu()
    qemu.close()
    qemu.close()


def test_a_program_that_is_not_there_leaves_nothing_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError), Qemu() as qemu:
        qemu.start(["/no/such/qemu"], [])
    assert len(os.listdir("/proc/self/fd")) == before


OWNER = """
import sys, time
from hwloop.vm.launcher import Qemu
qemu = Qemu()
qemu.start(["sleep", "60"], [])
print(qemu.process.pid, flush=True)
time.sleep(60)
"""


def test_qemu_dies_with_its_owner_even_if_that_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert not gone(pid)
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    owner.stdout.close()
    end = time.monotonic() + SLACK
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert gone(pid)


def test_output_that_nobody_reads_does_not_outlast_the_deadline() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb", buffering=0) as file:
        sink = FileSink(file, Deadline(0.2))
        with pytest.raises(GuestTimeout, match="reader"):
            sink(bytes(1 << 20))
    os.close(read)


def test_output_whose_reader_has_gone_is_a_broken_pipe() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as file, pytest.raises(BrokenPipeError):
        FileSink(file, Deadline(5))(b"x")
