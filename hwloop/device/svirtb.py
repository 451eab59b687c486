"""The driver of a "Simple VirtIO Block" device (seed 002): a disk with a ring of its own, and no transport."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import sleep

from hwloop.deadline import REQUEST_SECONDS, RESET_SECONDS, Deadline
from hwloop.device.blk_protocol import RequestType
from hwloop.device.blk_request import Request
from hwloop.device.block import LARGEST_TRANSFER, BlockDevice
from hwloop.device.svirtb_protocol import ENTRY_BYTES, Interpretation, VirtQueueEntry, VirtQueueEntryCmd
from hwloop.device.svirtb_registers import SvirtbRegisters
from hwloop.errors import DeviceClosed, DeviceLost, HwloopError, InvalidParam, QueueBroken, Unsupported
from hwloop.hal.base import BufferDirection, Hal
from hwloop.spec import SECTOR_SIZE, DeviceType
from mmio import Region

QUEUE_SIZE = 64

_COMMANDS = {RequestType.IN: VirtQueueEntryCmd.Read, RequestType.OUT: VirtQueueEntryCmd.Write}
_LONGEST_NAP = 0.001


class SvirtbBlk(BlockDevice):
    """The svirtb block device driver; owns `hal` and `region`, in which the registers are.

    `capacity` is in sectors of 512 bytes: the protocol has no way to ask. `queue_size` entries, of which one stays
    empty where indices are modulo. `reset_first` ends the connection of a driver that died: only for a place where
    the device is known to be, since it writes before it has seen the magic.

    An entry has no status, so a request that the device cannot do is a device that asks for a reset: everything in
    flight fails, and `recover` begins anew. `step_seconds` is how long it may take to show a status.

    Raises InvalidParam, TransportError, DeviceError, DeviceLost, DeadlineExpired.
    """

    def __init__(
        self,
        hal: Hal,
        region: Region,
        capacity: int,
        *,
        queue_size: int = QUEUE_SIZE,
        interpretation: Interpretation | None = None,
        request_seconds: float = REQUEST_SECONDS,
        step_seconds: float = RESET_SECONDS,
        reset_first: bool = False,
    ) -> None:
        super().__init__(hal)
        self.interpretation = interpretation or Interpretation()
        self.registers = SvirtbRegisters(region, self.interpretation, step_seconds)
        self._queue_size, self._capacity = queue_size, capacity
        self._block_size = self.interpretation.sector_size
        self._request_seconds = request_seconds
        self._quarantined = False
        self._forget_ring()
        try:
            self._check_shape()
            self._ring = self._add_buffer(queue_size * ENTRY_BYTES, BufferDirection.DriverToDevice)
            if reset_first:
                self.registers.reset()
            self._connect()
        except BaseException:
            self.close()
            raise

    def _check_shape(self) -> None:
        self.interpretation.check_queue_size(self._queue_size)
        if self._capacity <= 0 or self.size() % self._block_size:
            raise InvalidParam(f"a disk of {self._capacity} sectors is not whole blocks of {self._block_size} bytes")

    def _forget_ring(self) -> None:
        """Entries are counted for ever, from 0; what the registers hold of that is for `Interpretation` to say."""
        self._added = self._published = self._completed = 0
        self._new = 0
        self._batching = False
        self._order: deque[int] = deque()

    def _connect(self) -> None:
        self._forget_ring()
        self.registers.connect(self._ring.paddr, self._queue_size)

    # --- What it is ---------------------------------------------------------------------------------------------------

    def device_name(self) -> str:
        return "svirtb"

    def device_type(self) -> DeviceType:
        return DeviceType.Block

    @property
    def queue_size(self) -> int:
        """Entries of the ring."""
        return self._queue_size

    def readonly(self) -> bool:
        """False: the protocol has no read-only disks; a device that takes no writes asks for a reset."""
        return False

    def max_transfer(self) -> int:
        """The most bytes that one request carries; longer reads and writes are split."""
        return min(LARGEST_TRANSFER, self.size()) // self._block_size * self._block_size

    @property
    def requests_free(self) -> int:
        """How many more requests fit."""
        return self.interpretation.usable(self._queue_size) - len(self._order)

    # --- What it lacks ------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Nothing to send: a write that has completed is durable, since the protocol has no way to ask for it."""
        self.check_working()

    def submit_flush(self) -> int:
        raise Unsupported("svirtb has no request to flush; a write that has completed is durable")

    def device_id(self) -> str:
        self.check_working()
        raise Unsupported("svirtb devices have no serial")

    # --- More than any block device -----------------------------------------------------------------------------------

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Requests that are submitted inside become available together, with one write of the doorbell at the end.

        Other threads wait meanwhile. Waiting inside for one of the requests sends what there is.
        """
        with self._lock:
            self._batching = True
            try:
                yield
            finally:
                self._batching = False
                self._publish(None)

    def recover(self) -> None:
        """Initialise a device that was lost, or asked to be reset, once more. What was in flight has failed.

        Raises DeviceClosed after `close`, DeviceLost when the device still may write our memory, and as the
        constructor.
        """
        with self._lock:
            if self._closed:
                raise DeviceClosed("the disk is closed", remedy="open it again")
            if self._quarantined:
                raise DeviceLost("the reset of the device did not complete", remedy="open it again")
            if not self._broken:
                self._give_up(DeviceLost("the driver began anew"))
            self._connect()
            self._broken, self._cause = "", None

    # --- Private: submitting ------------------------------------------------------------------------------------------

    def _has_room(self, length: int) -> bool:
        return self.requests_free > 0

    def _enqueue(self, request: Request, token: int) -> None:
        """Write the entry. The device does not look at it before the doorbell, so its bytes may be stored in any
        order; the doorbell is a register write, and that orders them before it."""
        assert request.data is not None, "flushes are not sent"
        paddr = self._share(request)
        sector = request.sector * SECTOR_SIZE // self._block_size
        entry = VirtQueueEntry(paddr, len(request.data), sector, _COMMANDS[request.kind])
        at = self._added % self._queue_size * ENTRY_BYTES
        self._ring.view[at : at + ENTRY_BYTES] = entry.format()
        self._added += 1
        self._order.append(token)

    def _make_available(self) -> None:
        if self._published != self._added and not self._batching and not self._broken:
            self.registers.notify(self._added)
            self._published = self._added

    def _notify_again(self) -> None:
        self.registers.notify(self._published)

    # --- Private: completing ------------------------------------------------------------------------------------------

    def _take_completions(self) -> None:
        """Entries complete in the order of the ring. A device that is not READY is not believed: what its tail says
        may be what a reset left there."""
        new = self._new or self._read_progress()
        self._new = 0
        if not new:
            return
        if fault := self.registers.status_fault():
            raise DeviceLost(fault, remedy="recover it, or open it again")
        self._completed += new
        for _ in range(new):
            self._settle(self._order.popleft(), None)

    def _read_progress(self) -> int:
        try:
            return self.registers.consumed(self._completed, self._published - self._completed)
        except QueueBroken as error:
            # After a reset of its own the tail is anything, and the status tells the truer story.
            if fault := self.registers.status_fault():
                raise DeviceLost(fault, remedy="recover it, or open it again") from error
            raise
        except HwloopError:
            raise
        except OSError as failure:
            raise _no_answer(failure) from failure

    def _wait_for_completion(self, seconds: float) -> bool:
        batching, self._batching = self._batching, False
        self._publish(None)
        self._batching = batching
        deadline, nap = Deadline(seconds), 0.0
        while not (self._broken or self._has_completed()):
            if deadline.expired():
                return False
            sleep(min(nap, deadline.remaining()))
            nap = min(_LONGEST_NAP, nap * 2 + 0.00001)
        return True

    def _has_completed(self) -> bool:
        try:
            self._new = self._read_progress()
            return self._new > 0
        except OSError as error:
            # `_reap` meets it again, and gives the device up.
            return isinstance(error, HwloopError)

    def _fault(self) -> str:
        return self.registers.fault()

    def _diagnosis(self) -> Iterator[str]:
        yield f"ring: {self._added} added, {self._published} published, {self._completed} completed"
        for register in self.registers.header.registers():
            try:
                value = f"{getattr(self.registers.header, register.name).read():#x}"
            except OSError as failure:
                value = f"unreadable ({failure})"
            yield f"{register.name}: {value}"

    # --- Private: its end ---------------------------------------------------------------------------------------------

    def _reset_for_good(self) -> None:
        if self._quarantined or not self.registers.begun:
            return
        try:
            self.registers.reset()
        except DeviceLost:
            # What is gone cannot write any more; whether what is not could, the Hal knows.
            self.hal.device_lost()
        except BaseException as failure:
            self._quarantined = True
            self.hal.quarantine()
            if isinstance(failure, OSError) and not isinstance(failure, HwloopError):
                raise _no_answer(failure) from failure
            raise

    def _tear_down(self) -> None:
        with ExitStack() as steps:  # The last one first, and each of them whatever the others raise.
            steps.callback(self.hal.close)
            steps.callback(self.registers.region.close)
            steps.callback(self.hal.release_memory)
            for buffer in self._buffers:
                steps.callback(buffer.close)
            steps.callback(self._abandon_requests)


def _no_answer(failure: OSError) -> DeviceLost:
    return DeviceLost(f"the device does not answer: {failure.strerror}", remedy="open it again")
