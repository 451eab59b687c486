"""The test device: a disk of ours that is a process of its own, served over a vhost-user socket.

    with testdev.start("fake:64M?zoned=host-managed&zone-size=1M") as device:
        disk = hwloop.open(device.target)

It can be what QEMU's disks cannot (zoned, secure erase, lifetime, blocks of 64 KiB, size_max), and it is strict: a
driver that breaks a rule is hung up on, and told why where the process prints it. `hwloop testdev` is the same.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hwloop.deadline import Deadline
from hwloop.device.stored_blk import StoredBlk
from hwloop.door.base import check_options
from hwloop.door.fake_shape import FAULTS, SHAPE, FakeShape
from hwloop.errors import DeadlineExpired, InvalidParam, SetupError
from hwloop.hal.fake import FakeHal
from hwloop.owner import Owner
from hwloop.signals import Interrupted
from hwloop.size import parse_size
from hwloop.socket_place import socket_place
from hwloop.spec import Feature
from hwloop.target import Target, split_options
from hwloop.vhost.fake_backend import FakeBackEnd

OFFERED = (
    Feature.VERSION_1
    | Feature.RING_PACKED
    | Feature.INDIRECT_DESC
    | Feature.EVENT_IDX
    | Feature.IN_ORDER
    | Feature.ORDER_PLATFORM
)
"""What every test device offers besides what its options say."""
_LARGEST = 1 << 40
_START_SECONDS = 30.0
_END_SECONDS = 10.0
_LOOK_SECONDS = 0.5


# --- What is served ---------------------------------------------------------------------------------------------------


def make_disk(text: str) -> StoredBlk:
    """The device side of `fake:SIZE?OPTIONS`, zeros at first, or of `FILE?OPTIONS`. Raises InvalidParam, SetupError."""
    name, options = split_options(text)
    # A driver is not told how many descriptors a queue may have, and asks for no more than this.
    options = {"queue-size": "1024"} | options
    _check_options(options)
    path = None if name.startswith("fake:") else Path(name)
    shape = FakeShape(parse_size(name.removeprefix("fake:")) if path is None else _file_size(path), options)
    if not 0 < shape.size <= _LARGEST or shape.size % shape.block_size:
        raise InvalidParam(
            f"a test device cannot have {shape.size} bytes",
            remedy=f"give a multiple of its block size {shape.block_size}, up to 1T",
        )
    writable = options.get("read-only") != "on"
    return shape.make(FakeHal(), OFFERED, StoredBlk, path=path, writable=writable)


def _check_options(options: dict[str, str]) -> None:
    """Raises InvalidParam for an option that there is not."""
    check_options(Target("fake", "", options), SHAPE | FAULTS)


def _file_size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError as error:
        raise SetupError.refused(f"cannot serve {path}", error, remedy="give a file, or fake:SIZE") from error
    if not stat.S_ISREG(found.st_mode):
        raise InvalidParam(f"{path} is no regular file", remedy="give a file, or fake:SIZE")
    return found.st_size


# --- Serving it -------------------------------------------------------------------------------------------------------


class _Server(FakeBackEnd):
    """Tells by `ended`, an eventfd, of every connection that is over."""

    def __init__(self, device: StoredBlk) -> None:
        super().__init__(device)
        self.served = 0
        self.ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def _serve(self, sock: socket.socket) -> None:
        super()._serve(sock)
        self.served += 1
        os.eventfd_write(self.ended, 1)

    def close(self) -> None:
        super().close()
        if self.ended >= 0:
            os.close(self.ended)
            self.ended = -1


def serve(
    path: Path,
    disk: str,
    *,
    ready: Callable[[], object],
    complain: Callable[[str], object],
    seconds: float | None = None,
    connections: int | None = None,
    parent: int | None = None,
) -> int:
    """Serve a disk at a socket that is made, and removed at the end; returns how many rules were broken.

    `ready` is called once it listens, `complain` with each rule that a driver broke. It ends after `seconds`, after so
    many `connections`, when the process `parent` has ended, or by a signal; with `parent`, the folder of the socket is
    removed too when nothing else is in it. Raises InvalidParam, SetupError, AlreadyUsed.
    """
    with ExitStack() as stack:
        watched = stack.enter_context(_process(parent)) if parent is not None else None
        server = _Server(stack.enter_context(make_disk(disk)))
        stack.enter_context(_socket_of(path))
        stack.enter_context(server)
        server.listen(path)
        said = 0
        deadline = None if seconds is None else Deadline(seconds)
        # A signal is how it is told to end, which may be as soon as it listens.
        with suppress(Interrupted):
            ready()
            while not _is_over(server, deadline, connections, watched):
                said = _say_new(server, said, complain)
        said = _say_new(server, said, complain)
    if watched is not None:
        # Whoever started us may have been killed, and cannot remove the folder that it made for the socket.
        with suppress(OSError):
            path.parent.rmdir()
    return said


def _is_over(server: _Server, deadline: Deadline | None, connections: int | None, watched: int | None) -> bool:
    """Wait a little for something to happen; whether it is time to end."""
    poll = select.poll()
    for descriptor in (server.ended, *([] if watched is None else [watched])):
        poll.register(descriptor, select.POLLIN)
    left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, deadline.remaining())
    ready = dict(poll.poll(left * 1000))
    with suppress(BlockingIOError):
        os.eventfd_read(server.ended)
    return (
        (watched is not None and watched in ready)
        or (connections is not None and server.served >= connections)
        or (deadline is not None and deadline.expired())
    )


def _say_new(server: _Server, said: int, complain: Callable[[str], object]) -> int:
    for text in server.violations[said:]:
        complain(text)
        said += 1
    return said


@contextmanager
def _process(pid: int) -> Iterator[int]:
    """A descriptor that is readable when the process has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise SetupError.refused(f"cannot watch process {pid}", error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _socket_of(path: Path) -> Iterator[None]:
    with socket_place(path):
        try:
            yield
        except OSError as error:
            if error.filename is None and not hasattr(error, "exit_code"):
                raise SetupError.refused(f"cannot listen at {path}", error, remedy="is the path too long?") from error
            raise


# --- As a process -----------------------------------------------------------------------------------------------------


class RunningDevice(Owner):
    """A test device in a process of its own, which ends when this is closed, or when we end.

    `target` is what `hwloop.open` takes, `path` the socket. `close` raises AssertionError when a driver has broken a
    rule, unless `tolerant`.
    """

    def __init__(self, disk: str, *, tolerant: bool = False) -> None:
        self.tolerant = tolerant
        self._folder = tempfile.TemporaryDirectory(prefix="hwloop-testdev-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name) / "device.sock"
        self.target = f"vhost-user:{self.path}"
        # No file with a name: the folder is empty, and goes, whoever of the two processes is the last.
        self._said = open(os.memfd_create("testdev output"), "w+b")  # noqa: SIM115
        command = [sys.executable, "-m", "hwloop", "testdev", str(self.path), disk, "--parent", str(os.getpid())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.tolerant = True
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """What it has printed to its standard error."""
        self._said.seek(0)
        return self._said.read().decode(errors="backslashreplace")

    def close(self) -> None:
        """End it. Idempotent."""
        if self._said.closed:
            return
        with self._folder, self._said:
            self._end()
            complaints = self.said()
        if complaints and not self.tolerant:
            raise AssertionError(complaints)

    def _wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        if not poll.poll(_START_SECONDS * 1000):
            raise DeadlineExpired("the test device to listen", _START_SECONDS)
        if not self.process.stdout.readline():
            self.process.wait(_END_SECONDS)
            raise SetupError(f"the test device did not start: {self.said().strip()}")

    def _end(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.terminate()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(disk: str, *, tolerant: bool = False) -> RunningDevice:
    """Start a process that serves `disk` (as `make_disk`), and wait until it listens.

    Raises SetupError when it does not start, DeadlineExpired.
    """
    return RunningDevice(disk, tolerant=tolerant)
