"""What every device driver offers, and the order in which one ends."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING

from hwloop.device.events import DeviceEvents
from hwloop.device.lines import Lines, choose_lines
from hwloop.errors import DeviceError, DeviceLost, FeaturesRefused, HwloopError, InvalidParam, Unsupported
from hwloop.forked import disown_in_children, keep_no_longer
from hwloop.hal.base import BufferDirection, Dma, Hal, pages_for
from hwloop.owner import Owner
from hwloop.queue import VirtQueue
from hwloop.queue_options import QueueOptions
from hwloop.signals import shield
from hwloop.spec import DeviceType, Feature
from hwloop.transport.base import Transport
from hwloop.waiting import IRQ, MODES, POLL

if TYPE_CHECKING:
    from typing_extensions import Buffer

log = logging.getLogger("hwloop.device")


_LAST_EVENTS = "the last events:"


class BaseDriverOps(ABC):
    """What any driver can be asked, whatever its device (seed 000)."""

    @abstractmethod
    def device_name(self) -> str:
        """The name of the device."""

    @abstractmethod
    def device_type(self) -> DeviceType:
        """The type of the device."""


class BlockDriverOps(BaseDriverOps):
    """What any block device can be asked (seed 000)."""

    @abstractmethod
    def num_blocks(self) -> int:
        """The number of blocks in this storage device."""

    @abstractmethod
    def block_size(self) -> int:
        """The size of each block in bytes."""

    @abstractmethod
    def read_block(self, block_id: int, buf: Buffer) -> None:
        """Reads whole blocks into a writable buffer, beginning with the given block."""

    @abstractmethod
    def write_block(self, block_id: int, buf: Buffer) -> None:
        """Writes whole blocks, beginning with the given block."""

    @abstractmethod
    def flush(self) -> None:
        """Returns when everything written so far is on the storage."""


def note_last_events(error: BaseException, transport: Transport) -> None:
    """Let an error say what happened to the device last, where that is traced; once for each error."""
    events = transport.last_events()
    if events and not any(note.startswith(_LAST_EVENTS) for note in getattr(error, "__notes__", ())):
        error.add_note("\n".join([_LAST_EVENTS, *events]))


class Driver(BaseDriverOps, Owner):
    """A driver that owns its Hal: it ends its device first, and only then lets go of the memory that the device had."""

    def __init__(self, hal: Hal) -> None:
        self.hal = hal
        self._buffers: list[Dma] = []
        self._closed = False
        disown_in_children(self)
        self._afterwards = ExitStack()

    def _add_buffer(self, size: int, direction: BufferDirection) -> Dma:
        """Memory that lasts as long as the device, `size` bytes at least."""
        buffer = Dma(self.hal, pages_for(size), direction)
        self._buffers.append(buffer)
        return buffer

    def _memory_fault(self) -> str:
        """What keeps the device from its memory, or "" when nothing is seen."""
        try:
            self.hal.check()
        except HwloopError as error:
            return error.problem
        return ""

    def _abandon_requests(self) -> None:
        """Let go of the buffers of requests in flight; the device was reset, or its memory is in quarantine."""

    def give_up(self, why: str) -> None:
        """Let nothing more happen: what is in flight fails, and so does every later call, with DeviceLost. May be
        called by another thread than those that use the device, and before `close`."""
        self.close()

    def call_when_closed(self, callback: Callable[[], object]) -> None:
        """Call this as the last step of `close()`: what the device came from is given back there."""
        self._afterwards.callback(callback)

    def disown(self) -> None:
        """Called in a child of the process: the device is the parent's, and its memory is not here. Neither is touched
        from now on, also not by `close()`."""
        self._closed = True

    def close(self) -> None:
        """End the device: reset it and wait for that, stop its DMA, free the memory, unmap the registers.

        Requests in flight are lost. If the reset does not complete, the memory is never freed, since the device may
        still write it. Idempotent.
        """
        with shield():
            if self._closed:
                return
            self._closed = True
            keep_no_longer(self)
            with self._afterwards:
                try:
                    self._reset_for_good()
                finally:
                    self._tear_down()

    @abstractmethod
    def _reset_for_good(self) -> None:
        """Reset the device for the last time. Unless that is known to have worked, no memory is used again."""

    @abstractmethod
    def _tear_down(self) -> None:
        """Stop the DMA, abandon requests, free the memory, unmap the registers, close the Hal: each whatever the
        others raise."""


class Device(Driver):
    """A driver of a virtio device: it owns a transport too, and closes both in the order that keeps memory safe.

    A subclass sets `SUPPORTED_FEATURES` and implements `_set_up`, which creates its queues with `_add_queue`.
    Constructing it initialises the device (VIRTIO 1.4, 3.1.1), or raises and leaves nothing behind. `wait` is a mode of
    `hwloop.waiting`: `irq` raises Unsupported where the Hal has no interrupt at all, `adaptive` polls then; `lines` are
    the interrupts in use, and say why there are no better ones.
    """

    SUPPORTED_FEATURES = 0

    def __init__(
        self, transport: Transport, hal: Hal, *, wait: str = POLL, options: QueueOptions | None = None
    ) -> None:
        super().__init__(hal)
        self.transport = transport
        self.options = options or QueueOptions()
        self.virtqueues: list[VirtQueue] = []
        self.lines = Lines()
        self.events = DeviceEvents(self)
        self._wait = wait
        self._silent = False
        try:
            self.negotiated = self._negotiate()
            if wait != POLL:
                self._choose_lines(wait)
            self.events.begin()
            self._set_up()
            self._use_lines(wait)
            transport.finish_init()
        except BaseException as error:
            if isinstance(error, DeviceError):
                note_last_events(error, transport)
            lost = self._mark_failed()
            self.close()
            if lost is not None and isinstance(error, DeviceError):
                # What was wrong with it is only what a device that is gone looks like.
                raise lost from error
            raise

    def _accept(self, supported: int) -> int | Callable[[int], int]:
        """What is accepted of a device: all of `supported`, or what a function chooses of the features offered."""
        return supported

    def _negotiate(self) -> int:
        """The features of the driver, and those of rings that `options` allow. A device that refuses to do without
        packed rings gets them, unless the user said no (VIRTIO 1.4, 6.2). Raises FeaturesRefused, Unsupported."""
        accepted = self.SUPPORTED_FEATURES | self.options.accepted
        try:
            negotiated = self.transport.begin_init(self._accept(accepted))
        except FeaturesRefused:
            if "packed" in self.options.chosen or not self.transport.read_device_features() & Feature.RING_PACKED:
                raise
            negotiated = self.transport.begin_init(self._accept(accepted | Feature.RING_PACKED))
        self.options.require(negotiated)
        return negotiated

    def _begin_anew(self) -> None:
        """Initialise a device once more that was reset, on the same transport and with memory of the same Hal. Its
        queues are new ones, and wait as those before them.

        Raises as the constructor; the device has been reset again then.
        """
        while self.virtqueues:
            self.virtqueues.pop().close()
        try:
            self.negotiated = self._negotiate()
            self.events.begin()
            self._set_up()
            self._use_lines(self._wait)
            self.transport.finish_init()
        except BaseException:
            self._mark_failed()
            self._reset_for_good()
            raise

    def _mark_failed(self) -> DeviceLost | None:
        """FAILED, where the device still answers (VIRTIO 1.4, 3.1.1); the error where it does not."""
        with suppress(OSError):
            try:
                self.transport.fail()
            except DeviceLost as lost:
                return lost
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, DeviceError):
            note_last_events(error, self.transport)
        super().__exit__(kind, error, trace)

    def disown(self) -> None:
        super().disown()
        for queue in self.virtqueues:
            queue.disown()

    @abstractmethod
    def _set_up(self) -> None:
        """Read the configuration and create the queues; the device is not live yet."""

    def device_type(self) -> DeviceType:
        return self.transport.device_type()

    def _add_queue(self, index: int, size: int | None = None, *, table_parts: int = 0) -> VirtQueue:
        """`size` None: what the user chose, or as much as there may be."""
        size = self.options.size if size is None else size
        queue = VirtQueue(self.hal, self.transport, index, size, table_parts=table_parts)
        queue = self.transport.watch_queue(queue)
        self.virtqueues.append(queue)
        return queue

    def enable_interrupts(self, wait: str = IRQ) -> None:
        """Wait on the device's interrupt from now on instead of polling. Idempotent.

        One interrupt for all queues: a device that was made with `wait=` has the better ones. Raises Unsupported where
        the Hal has no interrupt of this device (not with `adaptive`), SetupError where it cannot be had.
        """
        if not self.lines.queues:
            line = self.lines.open(self.hal, None)
            if line is None and wait == IRQ:
                raise self._no_interrupt()
            self.lines.queues = [line] * len(self.virtqueues) if line is not None else []
        self._use_lines(wait)

    def disable_interrupts(self) -> None:
        """Poll from now on, and let go of the interrupts. Idempotent."""
        if not self.lines.queues:
            return
        try:
            for queue in self.virtqueues:
                queue.use_interrupt(None)
        finally:
            self.lines.close()

    def on_config_change(self, callback: Callable[[], object]) -> None:
        """Call this whenever the device has changed its configuration, once what is known of it is up to date.

        It is called by whoever notices: a thread that waits for the device, or `check_events`. It must not wait for
        another thread; what it raises is logged.
        """
        self.events.config_callbacks.append(callback)

    def on_removal_request(self, callback: Callable[[], object]) -> None:
        """As `on_config_change`, when somebody wants the device back (an orderly unplug): close it then."""
        self.events.removal_callbacks.append(callback)

    def check_events(self) -> None:
        """Look for changes of the configuration and for requests to let go of the device, and call those who want to
        know. Calls that wait do it too; so this is for a program that does not.

        Raises DeviceError when the new configuration makes no sense.
        """
        self.events.look()

    def read_config_again(self) -> None:
        """The configuration has changed: bring what is known of it up to date. Raises DeviceError."""

    def _choose_lines(self, wait: str) -> None:
        if wait not in MODES:
            raise InvalidParam(f"there is no way to wait called {wait!r}", remedy=f"choose one of: {', '.join(MODES)}")
        self.lines = choose_lines(self.hal, self.transport)
        if self.lines.why:
            log.debug("%s waits by %s: %s", self.device_name(), self.lines.kind, self.lines.why)
        if not self.lines.queues and self.lines.offered:
            log.warning("%s is polled: %s", self.device_name(), self.lines.why)
        elif wait == IRQ and not self.lines.queues:
            raise self.lines.refusal or self._no_interrupt()

    def _use_lines(self, wait: str) -> None:
        self._wait = wait
        lines = self.lines.queues
        for index, queue in enumerate(self.virtqueues if lines else []):
            # Queues behind those that were given a vector share them.
            queue.use_interrupt(lines[index % len(lines)], wait, shared=self.lines.shared)
            queue.waiter.on_config = self.events.note_change

    def _no_interrupt(self) -> Unsupported:
        return Unsupported(
            f"the {self.hal.name} HAL brings no interrupt of this device", remedy="poll: leave wait=irq out"
        )

    def _tear_down(self) -> None:
        with ExitStack() as steps:  # The last one first, and each of them whatever the others raise.
            steps.callback(self.hal.close)
            steps.callback(self.transport.close)
            steps.callback(self.hal.release_memory)
            for buffer in self._buffers:
                steps.callback(buffer.close)
            for queue in self.virtqueues:
                steps.callback(queue.close)
            steps.callback(self._abandon_requests)
            steps.callback(self.transport.stop_dma)
            steps.callback(self.disable_interrupts)

    def _reset_for_good(self) -> None:
        """Reset the device for the last time, or before `_begin_anew`. Unless that surely worked, no memory is ever
        used again, and `_silent` is False."""
        self._silent = False
        if self.transport.reset_pending:
            # It had its time, and the error was raised; waiting again would only double the deadline.
            self.hal.quarantine()
            return
        for queue in self.virtqueues:
            queue.silence()
        try:
            self.transport.reset()
            self._silent = True
        except BaseException as failure:
            if not _is_loss(failure):
                self.hal.quarantine()
                raise
            # One that is gone cannot write any more; whether one that is not could, the Hal knows.
            self.hal.device_lost()


def _is_loss(failure: BaseException) -> bool:
    """The device is gone, or its registers cannot be reached, which comes without a word of ours."""
    return isinstance(failure, DeviceLost) or (isinstance(failure, OSError) and not isinstance(failure, HwloopError))
