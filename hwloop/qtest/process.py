"""A QEMU that lives as long as we do, and no longer, however we end.

A dead parent is noticed by a second process, a shell that waits on a pipe whose other end only we hold: when that
closes, which the kernel sees to in every case, it kills QEMU. PR_SET_PDEATHSIG is no good for this: it acts when the
*thread* that started QEMU ends, and has to be set between fork and exec, where a program with threads can do nothing
safely. QEMU itself is started behind another such shell, which waits for the word to go on until the first is there.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from hwloop.deadline import Deadline
from hwloop.errors import SetupError
from hwloop.forked import disown_in_children, keep_no_longer
from hwloop.owner import Owner
from hwloop.signals import shield

END_SECONDS = 5.0
"""How long QEMU may take to write back its images, and to end; then it is killed."""

_SHELL = "/bin/sh"
_GATE = 'read -r go && exec "$@"'
_WATCH = 'read -r done || kill -KILL "$1"'
_EXPLAIN_SECONDS = 1.0
_FIRST_FREE_FD = 3
_MOST_TEXT = 2000


class QemuProcess(Owner):
    """Starts `program` (such as `qemu-system-x86_64`) with `arguments`; it inherits `pass_fds`, and nothing else.

    `package` is what to install where it is missing. `close` ends it. A child of ours that we fork does not.
    Raises SetupError when it cannot be started; what QEMU itself refuses shows later, in `explain`.
    """

    def __init__(
        self, program: str, arguments: Sequence[str], *, pass_fds: Sequence[int] = (), package: str = ""
    ) -> None:
        if any(fd < _FIRST_FREE_FD for fd in pass_fds):
            raise SetupError(
                "standard input, output or error of this process is closed, and QEMU would lose what has its number",
                remedy="open it: </dev/null >/dev/null 2>&1",
            )
        self.program = program
        self._ended = ""
        with shield(), ExitStack() as stack:
            self._output = os.memfd_create(f"{program} output")
            stack.callback(os.close, self._output)
            command = [find_program(program, package), *arguments]
            gate = _Gated([_SHELL, "-c", _GATE, program, *command], self._output, pass_fds)
            stack.callback(gate.process.wait)
            stack.callback(gate.close)
            self.process = gate.process
            self._watch = _Gated([_SHELL, "-c", _WATCH, "hwloop watches", str(self.process.pid)])
            gate.say("go")
            gate.close()
            stack.pop_all()
        disown_in_children(self)

    @property
    def pid(self) -> int:
        return self.process.pid

    def running(self) -> bool:
        return not self._ended and self.process.poll() is None

    def read_output(self) -> str:
        """What QEMU has said so far on its standard output and error: the last of it."""
        size = os.fstat(self._output).st_size
        return os.pread(self._output, _MOST_TEXT, max(0, size - _MOST_TEXT)).decode(errors="backslashreplace")

    def explain(self, seconds: float = _EXPLAIN_SECONDS) -> str:
        """How QEMU has ended, and its last words; "" when it is still there after so many seconds."""
        if not self._ended:
            if not self._wait(seconds):
                return ""
            self._ended = _ending(self.process.returncode, self.program, self.read_output())
        return self._ended

    def disown(self) -> None:
        self._ended = "QEMU belongs to the parent of this process"
        self._watch.close()
        os.close(self._output)
        self._output = -1

    def close(self) -> None:
        """End QEMU: politely, so that it writes back its images, and then not. Idempotent; nothing of it is left."""
        with shield(), ExitStack() as steps:
            if self._output < 0:
                return
            keep_no_longer(self)
            steps.callback(self._forget)
            steps.callback(self._watch.process.wait)
            steps.callback(self._watch.close)
            # Its number may be another process's from here on.
            steps.callback(self._watch.say, "done")
            self._end()

    def _end(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(signum)
                # One that was stopped would otherwise never hear of it.
                self.process.send_signal(signal.SIGCONT)
            if self.explain(END_SECONDS):
                return

    def _forget(self) -> None:
        os.close(self._output)
        self._output = -1

    def _wait(self, seconds: float) -> bool:
        """Whether it has ended, at once when it does."""
        if self.process.poll() is not None:
            return True
        pidfd = os.pidfd_open(self.process.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            deadline = Deadline(seconds)
            while self.process.poll() is None and not deadline.expired():
                poll.poll(deadline.remaining() * 1000)
        finally:
            os.close(pidfd)
        return self.process.returncode is not None


class _Gated:
    """A shell whose standard input is a pipe of ours; its session is its own, so that Ctrl-C does not end it."""

    def __init__(self, command: Sequence[str], output: int = subprocess.DEVNULL, pass_fds: Sequence[int] = ()) -> None:
        theirs, self._ours = os.pipe()
        try:
            self.process = subprocess.Popen(
                command, stdin=theirs, stdout=output, stderr=output, pass_fds=pass_fds, start_new_session=True
            )
        except OSError as error:
            self.close()
            raise SetupError.refused(f"cannot start {command[0]}", error, remedy="is it there?") from error
        finally:
            os.close(theirs)

    def say(self, word: str) -> None:
        if self._ours >= 0:
            with suppress(BrokenPipeError):  # it has ended
                os.write(self._ours, f"{word}\n".encode())

    def close(self) -> None:
        if self._ours >= 0:
            os.close(self._ours)
        self._ours = -1


def find_program(program: str, package: str = "") -> str:
    """The path of a program. Raises SetupError, naming the Debian package."""
    path = shutil.which(program)
    if path is None:
        raise SetupError(f"{program} is not installed", remedy=f"install it: apt install {package or program}")
    return path


def _ending(status: int, program: str, output: str) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    words = "; ".join(line.removeprefix(f"{program}: ") for line in output.splitlines() if line.strip())
    return f"QEMU {how}: {words}" if words else f"QEMU {how} without a word"
