"""The guardian: what it does when its process dies, and that it does nothing when that ends as it should.

Each test has a driver in a child process, which dies as the test wants. The claim and the device write into a file what
is done to them; memory is a pipe, whose reading end tells when the last process that has the other end is gone.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwloop.deadline import Deadline, wait_until
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DeadlineExpired
from hwloop.guardian import Guardian, ending
from hwloop.hal.fake import FakeHal
from hwloop.transport.fake import FakeTransport

SECONDS = 20.0


class Paper:
    """A claim and a device that write down what is done to them, by whom."""

    def __init__(self, path: Path, *, ends: bool = True) -> None:
        self.path = path
        self.ends = ends
        self.owner = os.getpid()
        path.touch()

    def note(self, what: str) -> None:
        with open(self.path, "a", encoding="ascii") as file:
            file.write(f"{what} {'driver' if os.getpid() == self.owner else 'guardian'}\n")

    def notes(self) -> list[str]:
        return self.path.read_text(encoding="ascii").splitlines()

    def descriptors(self) -> list[int]:
        return []

    def adopt(self) -> None:
        self.note("adopt")

    def close(self) -> None:
        self.note("close")

    def end_device(self) -> bool:
        self.note("end")
        return self.ends

    def failing_end(self) -> bool:
        self.note("end")
        raise DeadlineExpired("the device", 1)


class Pipe:
    """Memory that tells when it is free."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def forget(self) -> None:
        os.close(self.writer)

    def is_free(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.reader, select.POLLIN)
        return bool(poll.poll(seconds * 1000)) and os.read(self.reader, 1) == b""


@pytest.fixture
def paper(tmp_path: Path) -> Paper:
    return Paper(tmp_path / "notes")


@pytest.fixture
def memory() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reader)


def in_child(body: Callable[[], None]) -> int:
    """Run `body` in a child that dies by SIGKILL at its end; returns the pid."""
    child = os.fork()
    if not child:
        try:
            body()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(3)
    return child


def died(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def settled(paper: Paper, last: str) -> list[str]:
    wait_until(lambda: paper.notes()[-1:] == [last], f"the note {last!r}", SECONDS)
    return paper.notes()


def test_a_driver_that_is_killed_has_its_device_ended_and_given_back(paper: Paper) -> None:
    def drive() -> None:
        paper.owner = os.getpid()
        Guardian().watch(paper, paper.end_device)

    assert died(in_child(drive)) == -signal.SIGKILL
    assert settled(paper, "close guardian") == ["adopt guardian", "end guardian", "close guardian"]


def test_memory_is_kept_until_the_device_was_ended(paper: Paper, memory: Pipe) -> None:
    gate_in, gate_out = os.pipe()

    def slow_end() -> bool:
        os.read(gate_in, 1)
        return paper.end_device()

    def drive() -> None:
        guardian = Guardian()
        guardian.watch(paper, slow_end, [gate_in])
        guardian.keep_memory(memory.writer)

    child = in_child(drive)
    memory.forget()
    assert died(child) == -signal.SIGKILL
    assert not memory.is_free(0.1)
    os.write(gate_out, b"x")
    assert memory.is_free(SECONDS)
    settled(paper, "close guardian")
    os.close(gate_in)
    os.close(gate_out)


@pytest.mark.parametrize("how", ["says no", "raises"])
def test_a_device_that_cannot_be_ended_keeps_its_memory_and_its_lock(paper: Paper, memory: Pipe, how: str) -> None:
    paper.ends = False
    end = paper.end_device if how == "says no" else paper.failing_end
    pids_in, pids_out = os.pipe()

    def drive() -> None:
        guardian = Guardian()
        guardian.watch(paper, end)
        guardian.keep_memory(memory.writer)
        os.write(pids_out, guardian.pid.to_bytes(4, "little"))

    child = in_child(drive)
    memory.forget()
    assert died(child) == -signal.SIGKILL
    wait_until(lambda: len(paper.notes()) == 2, "the guardian to try", SECONDS)
    assert not memory.is_free(0.1)
    os.kill(int.from_bytes(os.read(pids_in, 4), "little"), signal.SIGKILL)
    assert memory.is_free(SECONDS)
    assert [note.split()[0] for note in paper.notes()] == ["adopt", "end"]
    os.close(pids_in)
    os.close(pids_out)


def test_where_the_kernel_ends_the_device_it_is_only_given_back(paper: Paper) -> None:
    def drive() -> None:
        paper.owner = os.getpid()
        Guardian().watch(paper)

    assert died(in_child(drive)) == -signal.SIGKILL
    assert settled(paper, "close guardian") == ["adopt guardian", "close guardian"]


def test_a_device_that_was_ended_is_not_ended_again(paper: Paper, memory: Pipe) -> None:
    def drive() -> None:
        guardian = Guardian()
        guardian.watch(paper, paper.end_device)
        guardian.keep_memory(memory.writer)
        os.close(memory.writer)
        guardian.device_ended()
        # The guardian has let go by now, and we are the last that could have it.
        assert memory.is_free(0)

    child = in_child(drive)
    memory.forget()
    assert died(child) == -signal.SIGKILL
    wait_until(lambda: len(paper.notes()) == 2, "the end of the guardian", SECONDS)
    assert [note.split()[0] for note in paper.notes()] == ["adopt", "close"]


def test_a_driver_that_closes_is_not_helped(paper: Paper) -> None:
    guardian = Guardian()
    guardian.watch(paper, paper.end_device)
    pid = guardian.pid
    guardian.device_ended()
    guardian.close()
    guardian.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert paper.notes() == []


def test_a_guardian_that_never_watched_is_closed_for_nothing() -> None:
    with Guardian() as guardian:
        guardian.device_ended()


def test_a_guardian_that_was_killed_disturbs_nobody(paper: Paper, memory: Pipe) -> None:
    guardian = Guardian()
    guardian.watch(paper, paper.end_device)
    os.kill(guardian.pid, signal.SIGKILL)
    wait_until(lambda: state(guardian.pid) in ("Z", ""), "the end of the guardian", SECONDS)
    guardian.keep_memory(memory.writer)
    guardian.device_ended()
    guardian.close()
    memory.forget()
    assert memory.is_free(SECONDS)
    assert paper.notes() == []


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_that_end_the_driver_do_not_end_the_guardian(paper: Paper, signum: signal.Signals) -> None:
    with Guardian() as guardian:
        guardian.watch(paper, paper.end_device)
        name = Path(f"/proc/{guardian.pid}/comm")
        wait_until(lambda: name.read_text() == "hwloop-guardian\n", "it to begin", SECONDS)
        os.kill(guardian.pid, signum)
        assert os.getpgid(guardian.pid) != os.getpgid(0)
        guardian.device_ended()
        assert state(guardian.pid) not in ("Z", "")


def test_it_holds_nothing_else_of_the_driver_open(paper: Paper) -> None:
    """Whoever reads our output would otherwise wait for the guardian's end too."""
    reader, writer = os.pipe()
    with Guardian() as guardian:
        guardian.watch(paper)
        os.close(writer)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        assert poll.poll(SECONDS * 1000)
        assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_child_of_the_driver_does_not_keep_its_death_a_secret(paper: Paper) -> None:
    hold_in, hold_out = os.pipe()

    def drive() -> None:
        guardian = Guardian()
        guardian.watch(paper, paper.end_device)
        if not os.fork():
            os.close(hold_out)
            os.read(hold_in, 1)
            guardian.close()
            os._exit(0)

    assert died(in_child(drive)) == -signal.SIGKILL
    settled(paper, "close guardian")
    os.close(hold_out)
    os.close(hold_in)


def test_a_driver_that_becomes_another_program_has_ended_too(paper: Paper) -> None:
    child = os.fork()
    if not child:
        Guardian().watch(paper, paper.end_device)
        os.execvp("sleep", ["sleep", "30"])
    settled(paper, "close guardian")
    os.kill(child, signal.SIGKILL)
    assert died(child) == -signal.SIGKILL


def test_exit_handlers_of_the_driver_are_not_run_by_the_guardian(paper: Paper, tmp_path: Path) -> None:
    import atexit

    def drive() -> None:
        atexit.register(lambda: (tmp_path / "ran").touch())
        Guardian().watch(paper, paper.end_device)

    assert died(in_child(drive)) == -signal.SIGKILL
    settled(paper, "close guardian")
    assert not (tmp_path / "ran").exists()


def test_without_sockets_there_is_an_error_and_no_process(paper: Paper, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", none_left)
    with Guardian() as guardian, pytest.raises(OSError, match="Too many open files"):
        guardian.watch(paper)


# --- What ends a device -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops_dma", [True, False])
def test_a_device_that_resets_has_ended(stops_dma: bool) -> None:
    transport = FakeTransport(FakeBlk(FakeHal(), 1 << 20))
    assert ending(transport, stops_dma=stops_dma)()
    assert transport.get_status() == 0


@pytest.mark.parametrize("stops_dma", [True, False])
def test_one_that_does_not_has_ended_only_where_its_bus_can_stop_it(
    stops_dma: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = FakeTransport(FakeBlk(FakeHal(), 1 << 20))
    stopped: list[bool] = []

    def stuck() -> None:
        raise Deadline(0).error("the device to reset")

    monkeypatch.setattr(transport, "reset", stuck)
    monkeypatch.setattr(transport, "stop_dma", lambda: stopped.append(True))
    assert ending(transport, stops_dma=stops_dma)() is stops_dma
    assert stopped == [True]
