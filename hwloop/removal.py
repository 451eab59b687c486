"""What a command does when the kernel wants its device back: an orderly unplug waits until we have let go of it.

A thread sleeps until VFIO tells us. It gives the device up, so that whatever waits for a request gets DeviceLost and
the command ends, in the way in which it ends when a device is gone. A command that waits for something else, a pipe or
a client, is ended as by SIGTERM; `lost` is then what it ended of.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from contextlib import ExitStack

from hwloop.device.base import Driver
from hwloop.errors import DeviceLost

_END_SECONDS = 2.0
"""How long a command may take to notice by itself."""

lost: DeviceLost | None = None
"""Why the command was ended, when nothing else told it."""


def give_back_when_asked(device: Driver) -> None:
    """Have the device given up as soon as somebody wants it back. Does nothing where nobody can say so."""
    asked = device.hal.request_fd
    if asked is None:
        return
    watch = _Watch(device, asked)
    device.call_when_closed(watch.stop)
    watch.start()


class _Watch(threading.Thread):
    def __init__(self, device: Driver, asked: int) -> None:
        super().__init__(name="hwloop-removal", daemon=True)
        self._device = device
        self._resources = ExitStack()
        self._asked = self._keep(os.dup(asked))  # the Hal closes its own
        self._closed = self._keep(os.eventfd(0, os.EFD_CLOEXEC))

    def _keep(self, fd: int) -> int:
        self._resources.callback(os.close, fd)
        return fd

    def stop(self) -> None:
        """The device was closed, maybe by ourselves."""
        os.eventfd_write(self._closed, 1)
        if threading.current_thread() is not self:
            self.join()
            self._resources.close()

    def run(self) -> None:
        if self._wait(self._asked, None):
            self._give_back()

    def _wait(self, fd: int, seconds: float | None) -> bool:
        """Whether `fd` is ready, and the device is not closed."""
        poll = select.poll()
        for each in (fd, self._closed):
            poll.register(each, select.POLLIN)
        ready = dict(poll.poll(None if seconds is None else seconds * 1000))
        return self._closed not in ready

    def _give_back(self) -> None:
        global lost
        why = "the kernel asks for the device back, to unplug or unbind it"
        self._device.give_up(why)
        if self._wait(self._closed, _END_SECONDS):
            lost = DeviceLost(why)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
