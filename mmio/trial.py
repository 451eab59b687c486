"""Whether anything answers at a physical address, found out by a process that may die of it.

Where nothing is, an x86 machine reads all ones, and an ARM machine answers with a bus error: SIGBUS, and the end of the
process that read.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
from collections.abc import Callable
from contextlib import suppress

from mmio.devmem import DevMemWindow
from mmio.errors import MmioError

SECONDS = 5.0
"""How long a read may take; a bus whose device does not answer may stall."""

_FATAL = (signal.SIGBUS, signal.SIGSEGV)


def check_answers(address: int, path: str | os.PathLike[str] = "/dev/mem") -> None:
    """Read the 32 bits at `address` once, in a child process. Raises MmioError (ENXIO) when that ends it, as
    `DevMemWindow` does when they cannot be mapped."""
    with DevMemWindow(address, 4, path) as window:
        if not survives(lambda: window.read32(0)):
            raise MmioError(errno.ENXIO, f"nothing answers at physical address {address:#x}: reading it is a bus error")


def survives(read: Callable[[], object]) -> bool:
    """Whether a process that calls `read` lives on. Raises MmioError (ETIMEDOUT) when it never returns."""
    child = os.fork()
    if child == 0:
        _try(read)
    return os.WIFEXITED(_wait(child))


def _try(read: Callable[[], object]) -> None:
    """Never returns: the child must not run anything of its parent's."""
    with suppress(BaseException):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in _FATAL:
            signal.signal(number, signal.SIG_DFL)
        read()
    os._exit(0)


def _wait(child: int) -> int:
    """The child's wait status."""
    with os.fdopen(os.pidfd_open(child)) as ended:
        if not select.select([ended], [], [], SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise MmioError(errno.ETIMEDOUT, f"a register did not answer within {SECONDS:g} s")
    return os.waitpid(child, 0)[1]
