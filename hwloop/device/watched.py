"""A driver that watches its device: no wait without an end, and nothing is believed once something was impossible."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hwloop.deadline import REQUEST_SECONDS, Deadline
from hwloop.device.base import Device
from hwloop.device.patience import Patience
from hwloop.errors import DeviceClosed, DeviceError, DeviceLost, HwloopError
from hwloop.hal.base import Hal
from hwloop.queue import VirtQueue
from hwloop.queue_options import QueueOptions
from hwloop.spec import DeviceStatus
from hwloop.transport.base import Transport
from hwloop.waiting import POLL

_SLICE_SECONDS = 0.01


class WatchedDevice(Device):
    """Adds to a device what its calls need while they wait. May be used from several threads: calls take a lock, which
    a wait gives up every few milliseconds.

    `request_seconds` is how long a call waits where it is told nothing else. A device that was given up is reset, its
    memory is not used again, and every later call raises DeviceLost.
    """

    def __init__(
        self,
        transport: Transport,
        hal: Hal,
        *,
        request_seconds: float = REQUEST_SECONDS,
        wait: str = POLL,
        options: QueueOptions | None = None,
    ) -> None:
        self._request_seconds = request_seconds
        self._lock = threading.RLock()
        self._broken = ""
        self._cause: HwloopError | None = None
        super().__init__(transport, hal, wait=wait, options=options)

    def disown(self) -> None:
        # Another thread of the parent may have the lock for ever.
        self._lock = threading.RLock()
        self._broken = "the device belongs to the process that opened it, and this is its child"
        super().disown()

    def close(self) -> None:
        with self._lock:
            self._broken = self._broken or f"the {self.device_name()} device is closed"
            super().close()

    def give_up(self, why: str) -> None:
        with self._lock:
            self._give_up(DeviceLost(why))

    def _patience(self, seconds: float | None) -> Patience:
        return Patience(Deadline(self._request_seconds if seconds is None else seconds))

    @contextmanager
    def _working(self) -> Iterator[None]:
        """With the lock held, and only while the device works.

        A DeviceError inside gives the device up, and so do registers that cannot be reached: that is DeviceLost.
        """
        with self._lock:
            self._check_working()
            try:
                yield
            except DeviceError as error:
                self._give_up(error)
                raise
            except HwloopError:
                raise
            except OSError as failure:
                lost = DeviceLost(f"the device does not answer: {failure.strerror}", remedy="open it again")
                lost.__cause__ = failure
                self._give_up(lost)
                raise lost from failure

    def _wait_for(self, queue: VirtQueue, patience: Patience, *, remind: bool = True) -> None:
        """Wait a few milliseconds for a used buffer. A device that is slow is notified once more, with `remind`.

        Raises DeviceLost for one that asks to be reset or is gone.
        """
        if queue.wait(min(_SLICE_SECONDS, patience.deadline.remaining())):
            return
        self._check_alive()
        if remind and patience.wants_another_notification():
            queue.notify()

    def _check_alive(self) -> None:
        """Look at a device that keeps us waiting, and whether it still reaches its memory. Raises DeviceLost."""
        if fault := self._memory_fault() or status_fault(self.transport.get_status()):
            raise DeviceLost(fault, remedy="open it again")
        self.events.look()

    def check_events(self) -> None:
        with self._working():
            super().check_events()

    def _out_of_time(self, queue: VirtQueue, patience: Patience, waited_for: str) -> HwloopError:
        """The error of a wait that is over, with what both sides of the ring show; for a device that is given up."""
        error = patience.deadline.error(waited_for, remedy="the device was reset; open it again")
        error.add_note(queue.dump())
        try:
            error.add_note(f"device status: {self.transport.get_status()!r}")
        except OSError as failure:
            error.add_note(f"device status: unreadable ({failure})")
        return error

    def _give_up(self, error: HwloopError) -> None:
        """Reset the device, and only then let go of the buffers of what was in flight; nothing works afterwards."""
        if self._broken:
            return
        self._broken, self._cause = f"the {self.device_name()} device is out of order since: {error.problem}", error
        try:
            self._reset_for_good()
        except HwloopError as failure:
            raise failure from error
        finally:
            self._abandon_requests()

    def _check_working(self) -> None:
        if not self._broken:
            return
        if self._cause is None:
            raise DeviceClosed(self._broken, remedy="open it again")
        raise DeviceLost(self._broken, remedy="open it again") from self._cause


def status_fault(status: DeviceStatus) -> str:
    """What a device's status says is wrong with a device that was ready, or "" (VIRTIO 1.4, 2.1.2)."""
    if status & DeviceStatus.DEVICE_NEEDS_RESET:
        return f"the device met an error and asks to be reset: its status is {status!r}"
    if not status & DeviceStatus.DRIVER_OK:
        return f"somebody else reset the device, or turned off its bus mastering: its status is {status!r}"
    return ""
