"""One process a device: an flock on a file that names its holder."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import ExitStack
from pathlib import Path

from hwloop.errors import RefusedError, SetupError
from hwloop.owner import Owner

RUN_DIR = Path("/run/hwloop")


def make_run_dir(run_dir: Path) -> Path:
    """The folder of locks and journals, which only root can make. Raises SetupError."""
    try:
        run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError.refused(f"cannot create {run_dir}", error) from error
    return run_dir


def file_name(address: str) -> str:
    """What the files of a device are called, without their suffix."""
    return address.replace("/", "_")


def lock_holder(address: str, run_dir: Path = RUN_DIR) -> int | None:
    """The pid of the process that has the device, or None when nobody has. Needs no privilege."""
    try:
        fd = os.open(run_dir / f"{file_name(address)}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read_pid(fd)
    finally:
        os.close(fd)


def _read_pid(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


# A lock that goes within this time was only looked at (`lock_holder`), or is about to be dropped.
_LOOKS = 5
_LOOK_SECONDS = 0.01


class DeviceLock(Owner):
    """Held from construction to `close()`. The kernel drops it when the process dies, however it dies.

    Raises RefusedError (EBUSY) at once when another process has it, naming that process.
    """

    def __init__(self, address: str, run_dir: Path = RUN_DIR) -> None:
        self._path = make_run_dir(run_dir) / f"{file_name(address)}.lock"
        self._pid = os.getpid()
        self._fd = -1
        while self._fd < 0:
            self._fd = self._try(address)

    def _try(self, address: str) -> int:
        """The locked descriptor, or -1 when the file was replaced under us and the caller must look again."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SetupError.refused(f"cannot open {self._path}", error) from error
        with ExitStack() as stack:
            stack.callback(os.close, fd)
            try:
                if not self._take(fd, address):
                    return -1
            except RefusedError:
                raise
            except OSError as error:
                raise SetupError.refused(f"cannot lock {self._path}", error) from error
            stack.pop_all()
        return fd

    def _take(self, fd: int, address: str) -> bool:
        """Lock the file and write down who we are; False when it is not the file of that name any more."""
        if not _lock_soon(fd):
            pid = _read_pid(fd)
            raise RefusedError(
                f"{address} is in use by another hwloop, process {pid} ({command_of(pid)})",
                remedy="wait for it to end",
            )
        if not _is_same_file(fd, self._path):
            return False
        _write_pid(fd)
        return True

    def descriptors(self) -> list[int]:
        """What keeps the lock, for a child that may have to `adopt` it."""
        return [self._fd]

    def adopt(self) -> None:
        """Make it this process's, a child of the one that took it and which has died."""
        self._pid = os.getpid()
        _write_pid(self._fd)

    def close(self) -> None:
        """Let others have the device; the file goes while we still hold it. Idempotent. In a child of the process that
        took the lock, only what the child has of it is closed."""
        if self._fd < 0:
            return
        if self._pid == os.getpid() and _is_same_file(self._fd, self._path):
            self._path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


def _write_pid(fd: int) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _lock_soon(fd: int) -> bool:
    """Take the lock, or tell after a moment that somebody keeps it."""
    for look in range(_LOOKS):
        if look:
            time.sleep(_LOOK_SECONDS)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def _is_same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def command_of(pid: int) -> str:
    """The command line of a process, for a message."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "gone by now"
    return b" ".join(words).decode(errors="replace").strip() or "unknown"
