"""Child processes that are left behind when they outlive their deadline.

A write to a driver's `unbind` runs the driver's remove function inside our system call, and that can sleep for ever and
uninterruptibly (a request that never completes, a VFIO descriptor somebody keeps open). Until then the device's lock is
held, and to read or write its `driver_override` is to wait for it (driver_set_override in drivers/base/driver.c).
A thread would let our deadline hold, but the process could then not exit: a thread in state D keeps its whole process.
So such calls are made by a child, which takes none of our descriptors along, and which init inherits if it never
returns. Killing the child does not stop what the kernel has begun: a write that timed out may still take effect later.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from udev.errors import BindTimeout, UdevError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence
    from pathlib import Path

# The answers are text, not an exit code: an interpreter that fails to start exits with 1, which would read as EPERM.
# "bye" says that the child ends, and has not looked at what was asked meanwhile.
_CHILD = """
import os, select, sys
def answer(kind, path, data=""):
    try:
        if kind == "read":
            with open(bytes.fromhex(path), "rb", 0) as file:
                return "read " + file.read(4096).hex()
        fd = os.open(bytes.fromhex(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            return "wrote %d" % os.write(fd, bytes.fromhex(data))
        finally:
            os.close(fd)
    except OSError as error:
        return "errno %d" % error.errno
while select.select([0], [], [], float(sys.argv[1]))[0]:
    asked = os.read(0, 1 << 16)
    if not asked:
        break
    while not asked.endswith(b"\\n"):
        asked += os.read(0, 1 << 16)
    os.write(1, answer(*asked.decode().split()).encode() + b"\\n")
else:
    os.write(1, b"bye\\n")
"""
_ERROR_TEXT = b"Traceback"
_IDLE_SECONDS = 0.5
"""How long a child waits for more to do: taking a device and giving it back are a dozen reads and writes each."""

# Children that outlived their deadline. Kept, so that they are reaped if they ever end.
_abandoned: list[subprocess.Popen[bytes] | _Fork] = []
# Children that have answered, and can be asked again.
_idle: list[_Child] = []


def run_within(argv: Sequence[str], seconds: float, what: str) -> tuple[int, str]:
    """Run `argv`; return its exit code, and its standard output and error as one text.

    Raises `BindTimeout` after `seconds`, naming `what`; `FileNotFoundError` and the like when `argv[0]` cannot start.
    """
    if seconds <= 0:
        raise BindTimeout(_not_finished(what, seconds, None))
    child, output = _run(argv, seconds)
    if child.returncode is None:
        raise BindTimeout(_not_finished(what, seconds, child.pid))
    return child.returncode, output


def write_within(path: Path, data: bytes, seconds: float) -> int:
    """Write `data` to `path` in one write() of a child process; return the count of bytes the kernel took.

    Raises `BindTimeout` after `seconds`, and plain `OSError` with the errno the child met.
    """
    asked = f"write {_hex(path)} {data.hex()}"
    answer, child = _ask(asked, seconds)
    if answer is None:
        raise BindTimeout(_not_finished(f"write {data!r} to {path}", seconds, child.process.pid if child else None))
    word, _, number = answer.partition(" ")
    if word not in ("wrote", "errno") or not number.isdigit():
        raise UdevError(f"{path}: the helper process that writes it failed with {answer}")
    if word == "errno":
        raise OSError(int(number), "refused by the kernel", str(path))
    return int(number)


def read_within(paths: Sequence[Path], seconds: float) -> list[bytes | OSError]:
    """Read files of at most 4096 bytes in a child process; each answer is the bytes, or the error met.

    A file that blocks is a `BindTimeout` in its place after `seconds`, and the others are still read, by another child.
    """
    return [_read(path, seconds) for path in paths]


def _read(path: Path, seconds: float) -> bytes | OSError:
    answer, _ = _ask(f"read {_hex(path)}", seconds)
    if answer is None:
        return BindTimeout(f"{path}: not readable for {seconds:.1f} s; a driver keeps it: see `dmesg`")
    word, _, value = answer.partition(" ")
    if word == "read":
        return bytes.fromhex(value)
    if word == "errno" and value.isdigit():
        return OSError(int(value), "refused by the kernel", str(path))
    raise UdevError(f"{path}: the helper process that reads it failed with {answer}")


def _hex(path: Path) -> str:
    return os.fsencode(path).hex()


def _not_finished(what: str, seconds: float, pid: int | None) -> str:
    if pid is None:
        return f"{what}: not started, the deadline had passed; allow more time"
    return (
        f"{what}: not finished after {seconds:.1f} s; the kernel still has it in hand (process {pid}): "
        f"see `cat /proc/{pid}/stack`, and `dmesg | tail` for who blocks it"
    )


# --- A child that is asked again --------------------------------------------------------------------------------------


class _Fork:
    """What is used of Popen, of a child that is a fork of ours and runs `_CHILD`: no interpreter has to start."""

    def __init__(self) -> None:
        asked, asks = os.pipe()
        answers, answered = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _run_child(asked, answered)
        os.close(asked)
        os.close(answered)
        self.stdin, self.stdout = os.fdopen(asks, "wb", 0), os.fdopen(answers, "rb", 0)
        self.returncode: int | None = None

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, 9)

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        return self._wait(0) or 0

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def _run_child(asked: int, answered: int) -> None:
    """Never returns. Nothing of ours is open in it but its two pipes."""
    try:
        os.setsid()
        for fd, to in ((asked, 0), (answered, 1), (answered, 2)):
            os.dup2(fd, to)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.argv[1:] = [str(_IDLE_SECONDS)]
        exec(_CHILD, {"__name__": "helper"})  # noqa: S102 (our own words)
    finally:
        os._exit(0)


def start_by_fork() -> None:
    """From now on, children are forks of this process while it has one thread: it has no memory that a child must not
    have. An interpreter takes some 15 ms to start, and ten times that in an emulated guest."""
    global _start
    _start = _fork_of_one_thread


def _fork_of_one_thread() -> subprocess.Popen[bytes] | _Fork:
    # What another thread holds at the fork stays held in the child.
    return _Fork() if len(os.listdir("/proc/self/task")) == 1 else _start_interpreter()


class _Child:
    """A process that reads and writes files, one line of text at a time, and ends when it has nothing to do."""

    def __init__(self) -> None:
        self.program = sys.executable or "python3"
        self.process = _start()

    def ask(self, line: str, end: float) -> str | None:
        """The answer; None when there is none by `end`. What is no answer is why the process has ended."""
        import select

        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            os.write(self.process.stdin.fileno(), line.encode() + b"\n")
        said, output = b"", self.process.stdout.fileno()
        while not said.endswith(b"\n") or said.startswith(_ERROR_TEXT):
            if not select.select([output], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            more = os.read(output, 1 << 16)
            if not more:
                return f"exit code {self.end()}: {said.decode(errors='replace')[-200:]!r}"
            said += more
        return said.decode().strip()

    def end(self) -> int:
        """Have it end, as it does when nobody can ask it any more; returns its exit code."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return self.process.wait()


def _start_interpreter() -> subprocess.Popen[bytes]:
    import subprocess

    return subprocess.Popen(
        [sys.executable or "python3", "-I", "-S", "-c", _CHILD, str(_IDLE_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


_start: Callable[[], subprocess.Popen[bytes] | _Fork] = _start_interpreter


def _ask(line: str, seconds: float) -> tuple[str | None, _Child | None]:
    """The answer of a child, and the child; no answer: it was left behind, and no child: the deadline had passed."""
    end = time.monotonic() + seconds
    _reap()
    while seconds > 0:
        child = _take_idle() or _Child()
        answer = child.ask(line, end)
        if answer is None:
            _abandon(child.process)
            return None, child
        if answer == "bye":
            child.end()
            continue
        if child.process.returncode is None:
            _idle.append(child)
        return answer, child
    return None, None


def _take_idle() -> _Child | None:
    with suppress(IndexError):  # another thread may take the last one
        while child := _idle.pop():
            if child.program == (sys.executable or "python3"):
                return child
            child.end()
    return None


def _end_idle() -> None:
    while _idle:
        _idle.pop().end()


# Those of the parent are the parent's. At the end of the program nobody waits for their half second.
os.register_at_fork(after_in_child=_idle.clear)
atexit.register(_end_idle)


# --- A child for one program ------------------------------------------------------------------------------------------


def _run(argv: Sequence[str], seconds: float) -> tuple[subprocess.Popen[bytes], str]:
    """Run to the end or the deadline; `returncode` is None where the child was left behind."""
    import subprocess

    _reap()
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        output, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as late:
        output = late.output or b""
        _abandon(child)
    return child, output.decode(errors="replace").strip()


def _abandon(child: subprocess.Popen[bytes] | _Fork) -> None:
    # SIGKILL ends it where its sleep allows that, and changes nothing where it does not. Never wait for it here.
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    _abandoned.append(child)


def _reap() -> None:
    _abandoned[:] = [child for child in _abandoned if child.poll() is None]
