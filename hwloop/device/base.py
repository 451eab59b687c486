"""What every device driver offers, and the order in which one ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from hwloop.errors import DeviceError, DeviceLost, HwloopError, Unsupported
from hwloop.hal.base import BufferDirection, Dma, Hal, pages_for
from hwloop.hal.interrupt import Interrupt
from hwloop.owner import Owner
from hwloop.queue import VirtQueue
from hwloop.signals import shield
from hwloop.spec import DeviceType
from hwloop.transport.base import Transport

if TYPE_CHECKING:
    from typing_extensions import Buffer


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


class Driver(BaseDriverOps, Owner):
    """A driver that owns its Hal: it ends its device first, and only then lets go of the memory that the device had."""

    def __init__(self, hal: Hal) -> None:
        self.hal = hal
        self._buffers: list[Dma] = []
        self._closed = False
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

    def call_when_closed(self, callback: Callable[[], object]) -> None:
        """Call this as the last step of `close()`: what the device came from is given back there."""
        self._afterwards.callback(callback)

    def close(self) -> None:
        """End the device: reset it and wait for that, stop its DMA, free the memory, unmap the registers.

        Requests in flight are lost. If the reset does not complete, the memory is never freed, since the device may
        still write it. Idempotent.
        """
        with shield():
            if self._closed:
                return
            self._closed = True
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
    Constructing it initialises the device (VIRTIO 1.4, 3.1.1), or raises and leaves nothing behind.
    """

    SUPPORTED_FEATURES = 0

    def __init__(self, transport: Transport, hal: Hal) -> None:
        super().__init__(hal)
        self.transport = transport
        self.queues: list[VirtQueue] = []
        self._line: Interrupt | None = None
        try:
            self.negotiated = transport.begin_init(self.SUPPORTED_FEATURES)
            self._set_up()
            transport.finish_init()
        except BaseException as error:
            lost = self._mark_failed()
            self.close()
            if lost is not None and isinstance(error, DeviceError):
                # What was wrong with it is only what a device that is gone looks like.
                raise lost from error
            raise

    def _mark_failed(self) -> DeviceLost | None:
        """FAILED, where the device still answers (VIRTIO 1.4, 3.1.1); the error where it does not."""
        with suppress(OSError):
            try:
                self.transport.fail()
            except DeviceLost as lost:
                return lost
        return None

    @abstractmethod
    def _set_up(self) -> None:
        """Read the configuration and create the queues; the device is not live yet."""

    def device_type(self) -> DeviceType:
        return self.transport.device_type()

    def _add_queue(self, index: int, size: int | None = None) -> VirtQueue:
        queue = VirtQueue(self.hal, self.transport, index, size)
        self.queues.append(queue)
        return queue

    def enable_interrupts(self) -> None:
        """Wait on the device's interrupt from now on instead of polling. Idempotent.

        Raises Unsupported where the Hal has no interrupt of this device, SetupError where it cannot be had.
        """
        if self._line is not None:
            return
        self._line = self.hal.interrupt()
        if self._line is None:
            raise Unsupported(
                f"the {self.hal.name} HAL brings no interrupt of this device", remedy="poll: leave wait=irq out"
            )
        for queue in self.queues:
            queue.use_interrupt(self._line)

    def disable_interrupts(self) -> None:
        """Poll from now on, and let go of the interrupt. Idempotent."""
        line, self._line = self._line, None
        if line is None:
            return
        with line:
            for queue in self.queues:
                queue.use_interrupt(None)

    def _tear_down(self) -> None:
        with ExitStack() as steps:  # The last one first, and each of them whatever the others raise.
            steps.callback(self.hal.close)
            steps.callback(self.transport.close)
            steps.callback(self.hal.release_memory)
            for buffer in self._buffers:
                steps.callback(buffer.close)
            for queue in self.queues:
                steps.callback(queue.close)
            steps.callback(self._abandon_requests)
            steps.callback(self.transport.stop_dma)
            steps.callback(self.disable_interrupts)

    def _reset_for_good(self) -> None:
        """Reset the device for the last time. Unless that is known to have worked, no memory is used again."""
        if self.transport.reset_pending:
            # It had its time, and the error was raised; waiting again would only double the deadline.
            self.hal.quarantine()
            return
        try:
            self.transport.reset()
        except DeviceLost:
            # One that is gone cannot write any more; whether one that is not could, the Hal knows.
            self.hal.device_lost()
        except BaseException:
            self.hal.quarantine()
            raise
