"""A process that ends with us, with small programs in QEMU's place."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hwloop.errors import SetupError
from hwloop.qtest import process
from hwloop.qtest.process import QemuProcess
from tests.timing import SLACK

Start = Callable[..., QemuProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def start(script: str, **options: object) -> QemuProcess:
            return stack.enter_context(QemuProcess("sh", ["-c", script], **options))  # type: ignore[arg-type]

        yield start


def test_what_it_says_and_how_it_ends_is_told(start: Start) -> None:
    running = start("echo out; echo 'sh: words' >&2; exit 3")
    assert running.explain(5) == "QEMU ended with status 3: out; words"
    assert running.read_output() == "out\nsh: words\n"
    assert not running.running()
    running.close()
    assert running.explain() == "QEMU ended with status 3: out; words"


def test_a_silent_end_is_called_so(start: Start) -> None:
    assert start("exit 0").explain(5) == "QEMU ended with status 0 without a word"
    assert start("kill -SEGV $$").explain(5) == "QEMU was killed by signal 11 without a word"


def test_only_the_last_of_much_output_is_kept(start: Start) -> None:
    running = start("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done")
    text = running.explain(10)
    assert text.endswith("line 1998; line 1999")
    assert len(text) < 3000


def test_one_that_runs_has_no_explanation_and_that_costs_only_the_time_given(start: Start) -> None:
    running = start("sleep 100")
    before = time.monotonic()
    assert running.explain(0.1) == ""
    assert 0.1 <= time.monotonic() - before < SLACK
    assert running.running()


def test_closing_asks_politely_and_returns_as_soon_as_it_has_ended(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "END_SECONDS", 60.0)
    running = start(f"trap 'echo bye > {tmp_path}/said; exit 0' TERM; echo ready; while :; do sleep 0.01; done")
    wait_for_output(running)
    before = time.monotonic()
    running.close()
    assert time.monotonic() - before < SLACK
    assert (tmp_path / "said").read_text() == "bye\n"


def wait_for_output(running: QemuProcess) -> None:
    deadline = time.monotonic() + SLACK
    while "ready" not in running.read_output():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_that_does_not_want_to_end_is_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "END_SECONDS", 0.1)
    running = start("trap '' TERM; echo ready; while :; do sleep 0.01; done")
    wait_for_output(running)
    running.close()
    running.close()
    assert running.process.returncode == -signal.SIGKILL


def test_one_that_is_stopped_is_ended_all_the_same(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "END_SECONDS", 60.0)
    running = start("exec sleep 100")
    os.kill(running.pid, signal.SIGSTOP)
    before = time.monotonic()
    running.close()
    assert time.monotonic() - before < SLACK


def test_when_our_end_of_the_pipe_closes_it_is_killed(start: Start) -> None:
    """The kernel closes it however we end; tests/qemu/test_ending.py ends in all the ways there are."""
    running = start("exec sleep 100")
    running._watch.close()
    assert running.explain(5) == "QEMU was killed by signal 9 without a word"


def test_what_watches_it_ends_with_it_and_kills_nobody(start: Start) -> None:
    running = start("exit 0")
    running.explain(5)
    running.close()
    assert running._watch.process.returncode == 0


def test_it_inherits_what_it_was_passed_and_nothing_else(start: Start) -> None:
    passed, kept = os.memfd_create("passed"), os.memfd_create("kept")
    os.set_inheritable(kept, True)
    try:
        running = start("ls -l /proc/$$/fd | grep -o 'memfd:[a-z]*'; readlink /proc/$$/fd/0", pass_fds=[passed])
        running.explain(5)
        words = running.read_output().split()
    finally:
        os.close(passed)
        os.close(kept)
    # The other one is its own output.
    assert sorted(set(words) - {"memfd:sh"})[0] == "memfd:passed"
    assert "memfd:kept" not in words
    assert words[-1].startswith("pipe:")


def test_a_signal_to_our_group_does_not_reach_it(start: Start) -> None:
    running = start("exec sleep 100")
    assert os.getpgid(running.pid) != os.getpgid(0)
    assert os.getsid(running.pid) == running.pid
    assert os.getsid(running._watch.process.pid) != os.getsid(0)


def our_children() -> set[str]:
    """Their numbers; other tests of this process may have some."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {number for task in tasks for number in task.read_text().split()}


def test_nothing_runs_before_it_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = process._Gated.__init__

    def failing(self: process._Gated, command: list[str], *more: object) -> None:
        if command[2] == process._WATCH:
            raise SetupError("no watch")
        usual(self, command, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(process._Gated, "__init__", failing)
    gc.collect()  # of other tests
    before, children = set(os.listdir("/proc/self/fd")), our_children()
    with pytest.raises(SetupError, match="no watch"):
        QemuProcess("sh", ["-c", f"echo ran > {tmp_path}/ran"])
    assert not (tmp_path / "ran").exists()
    assert set(os.listdir("/proc/self/fd")) <= before
    assert our_children() <= children


def test_no_descriptor_is_left_over(start: Start) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    start("exit 0").close()
    running = start("sleep 100")
    running.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_descriptor_that_would_be_standard_input_is_refused() -> None:
    with pytest.raises(SetupError, match="standard input, output or error of this process is closed"):
        QemuProcess("sh", ["-c", "exit"], pass_fds=[0])


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no-such-program is not installed; install it: apt install some-package"):
        QemuProcess("no-such-program", [], package="some-package")


def test_a_child_of_ours_can_close_it_and_it_goes_on(start: Start) -> None:
    running = start("exec sleep 100")
    child = os.fork()
    if not child:
        code = 1
        try:
            running.close()
            code = 0 if "parent" in running.explain() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert running.running()
