"""One process a device."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hwloop.errors import RefusedError, SetupError
from hwloop.lock import DeviceLock, lock_holder
from tests.timing import SLACK

DISK = "0000:00:05.0"


@contextmanager
def holder(run_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the lock."""
    script = (
        "import sys; from pathlib import Path; from hwloop.lock import DeviceLock\n"
        f"lock = DeviceLock({DISK!r}, Path({str(run_dir)!r})); print('held', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_lock_says_who_has_it_and_goes_when_it_is_closed(tmp_path: Path) -> None:
    with DeviceLock(DISK, tmp_path):
        assert lock_holder(DISK, tmp_path) == os.getpid()
    assert lock_holder(DISK, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_at_once_and_told_who_has_it(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        began = time.monotonic()
        said = rf"in use by another hwloop, process {process.pid} \(.*python"
        with pytest.raises(RefusedError, match=said) as caught:
            DeviceLock(DISK, tmp_path)
        assert time.monotonic() - began < SLACK
        assert (caught.value.errno, caught.value.exit_code) == (errno.EBUSY, 3)
        assert lock_holder(DISK, tmp_path) == process.pid


def test_a_second_lock_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with DeviceLock(DISK, tmp_path), pytest.raises(RefusedError, match=str(os.getpid())):
        DeviceLock(DISK, tmp_path)


def test_other_devices_are_other_locks(tmp_path: Path) -> None:
    with DeviceLock(DISK, tmp_path), DeviceLock("0000:00:06.0", tmp_path):
        assert lock_holder("0000:00:07.0", tmp_path) is None


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert list(tmp_path.iterdir()), "its file is still there"
    assert lock_holder(DISK, tmp_path) is None
    with DeviceLock(DISK, tmp_path):
        assert lock_holder(DISK, tmp_path) == os.getpid()


def test_a_file_that_was_replaced_between_open_and_lock_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder before us unlinks its file while we wait at it: the lock we then get guards nothing."""
    path = tmp_path / f"{DISK}.lock"
    real = fcntl.flock
    calls: list[int] = []

    def flock(fd: int, how: int) -> None:
        if not calls:
            path.unlink()
            path.touch()
        calls.append(fd)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with DeviceLock(DISK, tmp_path):
        assert len(calls) == 2
        assert path.read_text() == f"{os.getpid()}\n"
        monkeypatch.undo()
        with pytest.raises(RefusedError):
            DeviceLock(DISK, tmp_path)


def test_closing_does_not_remove_the_file_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / f"{DISK}.lock"
    ours = DeviceLock(DISK, tmp_path)
    path.unlink()
    theirs = DeviceLock(DISK, tmp_path)
    ours.close()
    with pytest.raises(RefusedError):
        DeviceLock(DISK, tmp_path)
    theirs.close()


def test_asking_who_has_the_lock_never_keeps_anybody_from_it(tmp_path: Path) -> None:
    path = tmp_path / f"{DISK}.lock"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)  # What `lock_holder` does, in the middle of it.
    letting_go = threading.Timer(0.015, os.close, (fd,))
    letting_go.start()
    DeviceLock(DISK, tmp_path).close()
    letting_go.join()


def test_the_lock_does_not_reach_a_child_program(tmp_path: Path) -> None:
    with DeviceLock(DISK, tmp_path) as lock:
        assert not os.get_inheritable(lock._fd)


def test_closing_twice_is_closing(tmp_path: Path) -> None:
    lock = DeviceLock(DISK, tmp_path)
    lock.close()
    with DeviceLock(DISK, tmp_path):
        lock.close()
        assert lock_holder(DISK, tmp_path) == os.getpid()


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"cannot create .*: Not a directory$") as caught:
        DeviceLock(DISK, tmp_path / "file" / "run")
    assert caught.value.errno == errno.ENOTDIR


def test_a_name_with_a_slash_stays_in_the_folder(tmp_path: Path) -> None:
    with DeviceLock("../../etc/x", tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".._.._etc_x.lock"]


def open_descriptors() -> set[str]:
    folder = Path("/proc/self/fd")
    return {os.readlink(link) for link in folder.iterdir() if link.exists()}


@pytest.mark.parametrize("call", ["os.pwrite", "os.ftruncate", "fcntl.flock"])
def test_a_lock_that_cannot_be_written_down_is_not_held(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(f"hwloop.lock.{call}", full)
        with pytest.raises(SetupError, match="No space left") as caught:
            DeviceLock(DISK, tmp_path)
        assert caught.value.errno == errno.ENOSPC
    assert not [name for name in open_descriptors() if str(tmp_path) in name]
    DeviceLock(DISK, tmp_path).close()


def test_a_child_of_the_holder_does_not_let_others_have_the_device(tmp_path: Path) -> None:
    with DeviceLock(DISK, tmp_path) as lock:
        child = os.fork()
        if not child:
            lock.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert lock_holder(DISK, tmp_path) == os.getpid()
        with pytest.raises(RefusedError):
            DeviceLock(DISK, tmp_path)
