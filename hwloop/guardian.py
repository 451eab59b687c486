"""A process that outlives ours by a moment: when we die without having ended our device, it does.

A signal that cannot be caught leaves a device that goes on writing into memory which is somebody else's by then. Where
an IOMMU confines the device, the kernel ends that by itself when our descriptors close. Where nothing does (UIO,
/dev/mem), the guardian keeps the memory until it has reset the device. In both cases it gives the device back to the
driver it had. It is asleep until we die, so it costs nothing per request; if it is killed too, the journal is left.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from hwloop.deadline import wait_until
from hwloop.errors import DeadlineExpired
from hwloop.owner import Owner
from udev import helper

if TYPE_CHECKING:
    from hwloop.transport.base import Transport

NAME = "hwloop-guardian"
"""What `ps` calls it."""

_MEMORY, _ENDED, _DONE, _ANSWER = b"m", b"e", b"d", b"k"
_ANSWER_SECONDS = 5.0


class Heritage(Protocol):
    """What holds the device against others, and gives it back at its end: a claim, or a lock where no driver had it."""

    def descriptors(self) -> list[int]:
        """What must stay open for that."""

    def adopt(self) -> None:
        """Make it this process's, a child of the one that had it and which has died."""

    def close(self) -> None:
        """Give the device back."""


class Guardian(Owner):
    """Watches over the device of one claim, from `watch` to `close`; before that it is nothing.

    In this order: `watch`, `keep_memory` for all memory that the device is given, `device_ended` when it has been reset
    and before it is given back, `close` when it has been.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.pid = 0
        """Of the process; 0 before there is one."""
        self._owner = os.getpid()

    def watch(self, claim: Heritage, end_device: Callable[[], bool] | None = None, keep: Iterable[int] = ()) -> None:
        """Start the process. `end_device` resets the device and says whether it can write no more, with the
        descriptors `keep`; None: the kernel does. Raises OSError when there can be no process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        driver, device = os.getpid(), list(keep)
        with theirs:
            self._socket = ours
            # A signal that is handled in the child before its first line would run our caller's code there.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self.pid = os.fork()
                if not self.pid:
                    _guard(driver, theirs, claim, end_device, device)
            except BaseException:
                ours.close()
                self._socket = None
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def keep_memory(self, fd: int) -> None:
        """The device can write the memory behind `fd`, which stays the caller's to close."""
        if self._socket is not None:
            with suppress(OSError):  # a guardian that was killed guards nothing, and the device works all the same
                socket.send_fds(self._socket, [_MEMORY], [fd])

    def device_ended(self) -> None:
        """The device was reset, and this process is done with it: nothing of it may stay open when a driver of the
        kernel takes it. Returns when the guardian has let go."""
        if self._socket is None or self._owner != os.getpid():
            return
        self._socket.settimeout(_ANSWER_SECONDS)
        try:
            self._socket.send(_ENDED)
            answered = self._socket.recv(1) == _ANSWER
        except OSError:
            answered = False
        if not answered:
            self._end(signal.SIGKILL)

    def close(self) -> None:
        """The device was given back: nothing is left to guard. Idempotent; does nothing in a child of ours."""
        if self._socket is None or self._owner != os.getpid():
            return
        with suppress(OSError):
            self._socket.send(_DONE)
        self._end()

    def _end(self, signum: int = 0) -> None:
        """Wait for the process, which is a child that nobody has waited for: the pid is still its own."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        with suppress(ChildProcessError, ProcessLookupError):
            os.kill(self.pid, signum)
            try:
                wait_until(lambda: os.waitpid(self.pid, os.WNOHANG)[0] != 0, "the guardian to end", _ANSWER_SECONDS)
            except DeadlineExpired:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)


def ending(transport: Transport, *, stops_dma: bool) -> Callable[[], bool]:
    """What ends the device of `transport`; `stops_dma`: its bus can keep it from memory also when it does not reset."""

    def end_device() -> bool:
        try:
            transport.reset()
        except OSError:
            transport.stop_dma()
            return stops_dma
        transport.stop_dma()
        return True

    return end_device


# --- In the child -----------------------------------------------------------------------------------------------------


def _guard(
    driver: int, channel: socket.socket, claim: Heritage, end_device: Callable[[], bool] | None, device: list[int]
) -> None:
    """Never returns, and runs nothing of our caller's: no exit handler, no destructor, no output."""
    try:
        _stand_alone([channel.fileno(), *claim.descriptors(), *device])
        helper.start_by_fork()
        watch = _Watch(channel, device)
        if not watch.wait_for_death(driver):
            return
        claim.adopt()
        if end_device is not None and not watch.device_ended and not _try(end_device):
            # It may write for ever, so its memory is kept for ever; the lock says that we have it.
            while True:
                signal.pause()
        watch.let_go()
        claim.close()
    finally:
        os._exit(0)


def _stand_alone(keep: list[int]) -> None:
    """Let go of all that is the driver's: its terminal, its pipes, its signals."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in keep:
            with suppress(OSError):
                os.close(fd)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        if fd not in (nowhere, *keep):
            os.dup2(nowhere, fd)
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(NAME)


class _Watch:
    """The wait for the driver's death. `device` are the descriptors of the device and of its memory."""

    def __init__(self, channel: socket.socket, device: list[int]) -> None:
        self._channel = channel
        self._device = device
        self.device_ended = False

    def wait_for_death(self, driver: int) -> bool:
        """False when the driver has said that it is done.

        A child of the driver may have the other end of the channel, so its end is not all that is waited for.
        """
        death = _death_of(driver)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        if death >= 0:
            poll.register(death, select.POLLIN)
        while True:
            # What it had sent comes before its death.
            if self._channel.fileno() not in dict(poll.poll(None if death >= 0 else 0)):
                return True
            message = self._hear()
            if message in (b"", _DONE):
                # Without a word: it died, or became another program, which closes its descriptors as well.
                return not message

    def let_go(self) -> None:
        while self._device:
            with suppress(OSError):
                os.close(self._device.pop())

    def _hear(self) -> bytes:
        """Take one message; none at the end of the channel."""
        message, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1, socket.MSG_CMSG_CLOEXEC)
        self._device += descriptors
        if message == _ENDED:
            self.device_ended = True
            self.let_go()
            with suppress(OSError):
                self._channel.send(_ANSWER)
        return message


def _death_of(driver: int) -> int:
    """A descriptor that is ready when the process has died; -1 when it has already."""
    try:
        death = os.pidfd_open(driver)
    except ProcessLookupError:
        return -1
    if os.getppid() == driver:
        return death
    os.close(death)
    return -1


def _try(end_device: Callable[[], bool]) -> bool:
    try:
        return end_device()
    except Exception:
        return False
