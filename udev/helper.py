"""Child processes that are left behind when they outlive their deadline.

A write to a driver's `unbind` runs the driver's remove function inside our system call, and that can sleep for ever and
uninterruptibly (a request that never completes, a VFIO descriptor somebody keeps open). Until then the device's lock is
held, and to read or write its `driver_override` is to wait for it (driver_set_override in drivers/base/driver.c).
A thread would let our deadline hold, but the process could then not exit: a thread in state D keeps its whole process.
So such calls are made by a child, which takes none of our descriptors along, and which init inherits if it never
returns. Killing the child does not stop what the kernel has begun: a write that timed out may still take effect later.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from udev.errors import BindTimeout, UdevError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from pathlib import Path

# The answer is text, not an exit code: an interpreter that fails to start exits with 1, which would read as EPERM.
_WRITER = """
import os, sys
try:
    fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CLOEXEC)
    n = os.write(fd, bytes.fromhex(sys.argv[2]))
    print("wrote", n)
except OSError as error:
    print("errno", error.errno)
"""

# One line a file, at once: what was read before one that blocks still arrives.
_READER = """
import sys
for path in sys.argv[1:]:
    try:
        with open(path, "rb", 0) as file:
            print("read", file.read(4096).hex(), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
"""

# Children that outlived their deadline. Kept, so that they are reaped if they ever end.
_abandoned: list[subprocess.Popen[bytes]] = []


def run_within(argv: Sequence[str], seconds: float, what: str) -> tuple[int, str]:
    """Run `argv`; return its exit code, and its standard output and error as one text.

    Raises `BindTimeout` after `seconds`, naming `what`; `FileNotFoundError` and the like when `argv[0]` cannot start.
    """
    if seconds <= 0:
        raise BindTimeout(f"{what}: not started, the deadline had passed; allow more time")
    child, output = _run(argv, seconds)
    if child.returncode is None:
        raise BindTimeout(
            f"{what}: not finished after {seconds:.1f} s; the kernel still has it in hand (process {child.pid}): "
            f"see `cat /proc/{child.pid}/stack`, and `dmesg | tail` for who blocks it"
        )
    return child.returncode, output


def write_within(path: Path, data: bytes, seconds: float) -> int:
    """Write `data` to `path` in one write() of a child process; return the count of bytes the kernel took.

    Raises `BindTimeout` after `seconds`, and plain `OSError` with the errno the child met.
    """
    code, output = run_within(_python(_WRITER, str(path), data.hex()), seconds, f"write {data!r} to {path}")
    word, _, number = output.partition(" ")
    if code != 0 or word not in ("wrote", "errno") or not number.isdigit():
        raise UdevError(f"{path}: the helper process that writes it failed with exit code {code}: {output[-200:]!r}")
    if word == "errno":
        raise OSError(int(number), "refused by the kernel", str(path))
    return int(number)


def read_within(paths: Sequence[Path], seconds: float) -> list[bytes | OSError]:
    """Read files of at most 4096 bytes in a child process; each answer is the bytes, or the error met.

    A file that blocks is a `BindTimeout` in its place after `seconds`, and the others are still read, by another child.
    """
    answers: list[bytes | OSError] = []
    while len(answers) < len(paths):
        left = paths[len(answers) :]
        child, output = _run(_python(_READER, *map(str, left)), seconds)
        answers += [_parse_answer(line, path) for line, path in zip(output.splitlines(), left, strict=False)]
        if len(answers) == len(paths):
            break
        if child.returncode is None:
            stuck = paths[len(answers)]
            answers.append(BindTimeout(f"{stuck}: not readable for {seconds:.1f} s; a driver keeps it: see `dmesg`"))
        else:
            raise UdevError(f"{left[0]}: the helper process that reads it failed: {output[-200:]!r}")
    return answers


def _parse_answer(line: str, path: Path) -> bytes | OSError:
    word, _, value = line.partition(" ")
    if word == "read":
        return bytes.fromhex(value)
    if word == "errno" and value.isdigit():
        return OSError(int(value), "refused by the kernel", str(path))
    return UdevError(f"{path}: the helper process that reads it said {line[:200]!r}")


def _python(script: str, *arguments: str) -> list[str]:
    return [sys.executable or "python3", "-I", "-S", "-c", script, *arguments]


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


def _abandon(child: subprocess.Popen[bytes]) -> None:
    # SIGKILL ends it where its sleep allows that, and changes nothing where it does not. Never wait for it here.
    child.kill()
    if child.stdout is not None:
        child.stdout.close()
    _abandoned.append(child)


def _reap() -> None:
    _abandoned[:] = [child for child in _abandoned if child.poll() is None]
