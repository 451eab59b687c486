"""Child processes that are left behind when they outlive their deadline.

A write to a driver's `unbind` runs the driver's remove function inside our system call, and that can sleep for ever and
uninterruptibly (a request that never completes, a VFIO descriptor somebody keeps open). A thread would let the deadline
hold, but the process could then not exit: a thread in state D keeps its whole process. So such calls are made by a
child, which takes none of our descriptors along, and which init inherits if it never returns.
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

# Children that outlived their deadline. Kept, so that they are reaped if they ever end.
_abandoned: list[subprocess.Popen[bytes]] = []


def run_within(argv: Sequence[str], seconds: float, what: str) -> tuple[int, str]:
    """Run `argv`; return its exit code, and its standard output and error as one text.

    Raises `BindTimeout` after `seconds`, naming `what`; `FileNotFoundError` and the like when `argv[0]` cannot start.
    """
    import subprocess

    if seconds <= 0:
        raise BindTimeout(f"{what}: not started, the deadline had passed; allow more time")
    _reap()
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        output, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _abandon(child)
        raise BindTimeout(
            f"{what}: not finished after {seconds:.1f} s; the kernel still has it in hand (process {child.pid}): "
            f"see `cat /proc/{child.pid}/stack`, and `dmesg | tail` for who blocks it"
        ) from None
    return child.returncode, output.decode(errors="replace").strip()


def write_within(path: Path, data: bytes, seconds: float) -> int:
    """Write `data` to `path` in one write() of a child process; return the count of bytes the kernel took.

    Raises `BindTimeout` after `seconds`, and plain `OSError` with the errno the child met.
    """
    argv = [sys.executable or "python3", "-I", "-S", "-c", _WRITER, str(path), data.hex()]
    code, output = run_within(argv, seconds, f"write {data!r} to {path}")
    word, _, number = output.partition(" ")
    if code != 0 or word not in ("wrote", "errno") or not number.isdigit():
        raise UdevError(f"{path}: the helper process that writes it failed with exit code {code}: {output[-200:]!r}")
    if word == "errno":
        raise OSError(int(number), "refused by the kernel", str(path))
    return int(number)


def _abandon(child: subprocess.Popen[bytes]) -> None:
    # SIGKILL ends it where its sleep allows that, and changes nothing where it does not. Never wait for it here.
    child.kill()
    if child.stdout is not None:
        child.stdout.close()
    _abandoned.append(child)


def _reap() -> None:
    _abandoned[:] = [child for child in _abandoned if child.poll() is None]
