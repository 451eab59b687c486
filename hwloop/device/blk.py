"""The block device (VIRTIO 1.4, 5.2)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Self

from cython_ring import COMPLETION_BYTES, DmaBuffer, RingBroken, RingUsageError
from hwloop.config import ReadOnly, read_config
from hwloop.deadline import REQUEST_SECONDS
from hwloop.device.blk_cache import BlkCache
from hwloop.device.blk_formats import ZonedModel
from hwloop.device.blk_limits import BlkLimits, LimitsReader
from hwloop.device.blk_memory import BlkMemory
from hwloop.device.blk_protocol import (
    DEVICE_ID_BYTES,
    BlkConfig,
    RequestType,
    RespStatus,
    checked_block_size,
    status_meaning,
)
from hwloop.device.blk_queue import BlkQueue
from hwloop.device.blk_ranges import BlkRanges
from hwloop.device.blk_request import DIRECTIONS, Request
from hwloop.device.blk_zoned import BlkZones
from hwloop.device.block import LARGEST_TRANSFER, BlockDevice
from hwloop.device.watched import status_fault
from hwloop.errors import (
    AlreadyUsed,
    DeadlineExpired,
    DeviceChanged,
    DeviceClosed,
    DeviceError,
    DeviceLost,
    HwloopError,
    InvalidParam,
    IoError,
    QueueBroken,
    QueueFull,
    Unsupported,
)
from hwloop.hal.base import BufferDirection, Hal
from hwloop.queue import Part, VirtQueue, ring_failure
from hwloop.queue_areas import choose_size
from hwloop.queue_options import QueueOptions
from hwloop.spec import SECTOR_SIZE, BlkFeature, Feature, PhysAddr, feature_names
from hwloop.transport.base import Transport, always_accepted
from hwloop.waiting import POLL

_MOST_RETURNS = 3
"""How often a device may go and come back without having completed anything: one of the requests may be what it dies
of."""
_SHORT = 0x100
"""What the engine makes of a good status when less was written than there was room for."""
_LEAST_DESCRIPTORS = 3
"""Header, data, status: what a read or a write needs of the queue."""


class VirtioBlk(BlkMemory, BlkRanges, BlkZones, BlkCache, BlockDevice):
    """The VirtIO block device driver.

    `options` says how many queues it sets up, of what size, and which features of rings it accepts.
    `request_seconds` is how long one request may take before the device is reset and everything in flight fails.
    """

    SUPPORTED_FEATURES = (
        BlkFeature.SIZE_MAX
        | BlkFeature.SEG_MAX
        | BlkFeature.GEOMETRY
        | BlkFeature.RO
        | BlkFeature.BLK_SIZE
        | BlkFeature.FLUSH
        | BlkFeature.TOPOLOGY
        | BlkFeature.CONFIG_WCE
        | BlkFeature.DISCARD
        | BlkFeature.WRITE_ZEROES
        | BlkFeature.LIFETIME
        | BlkFeature.SECURE_ERASE
        | BlkFeature.ZONED
        | BlkFeature.MQ
        | Feature.VERSION_1
        | Feature.ACCESS_PLATFORM
        | Feature.ORDER_PLATFORM
    )

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
        self._allocated: list[DmaBuffer] = []
        self._ended: list[DmaBuffer] = []
        self.queues: list[BlkQueue] = []
        super().__init__(transport, hal, wait=wait, options=options)

    @classmethod
    def try_new(cls, transport: Transport, hal: Hal) -> Self:
        """Creates a new driver instance and initialises the device, or raises if any step fails (seed 000)."""
        return cls(transport, hal)

    def _set_up(self) -> None:
        self._unnotified: OSError | None = None
        self._queue_stopped = False
        self._may_come_back = self.transport.may_come_back
        self._returns = 0
        self._capacity, self._block_size = self.transport.read_consistent(self._read_geometry)
        count = self._queue_count()
        size = min(choose_size(self.transport, index, self.options.size) for index in range(count))
        if size < _LEAST_DESCRIPTORS:
            raise Unsupported(f"queue 0 has {size} descriptors; a read needs {_LEAST_DESCRIPTORS}")
        # A limit of 0 says nothing: for segments Linux then takes 1 (drivers/block/virtio_blk.c).
        self._size_max = self._limit(BlkFeature.SIZE_MAX, BlkConfig.size_max) or LARGEST_TRANSFER
        seg_max = self._limit(BlkFeature.SEG_MAX, BlkConfig.seg_max)
        self._segments_at_most = size - 2 if seg_max is None else min(seg_max or 1, size - 2)
        if self._size_max * self._segments_at_most < self._block_size:
            raise Unsupported(
                f"a request of this device carries {self._segments_at_most} segments of {self._size_max} bytes, "
                f"less than one block of {self._block_size}"
            )
        parts = 2 + -(-self.max_transfer() // self._size_max)
        for index in range(count):
            self._add_queue(index, None if self.transport.fixed_queue_size else size, table_parts=parts)
        self._queue = self.virtqueues[0]
        self.queues = [self._make_queue(virtqueue) for virtqueue in self.virtqueues]
        self._engine = self.queues[0].engine
        self._completions = array("Q", bytes(COMPLETION_BYTES * size))
        reader = LimitsReader(self.negotiated, self._block_size, self._read_field)
        self._limits = self.transport.read_consistent(lambda: reader.limits(self.max_transfer()))
        self.read_cache_mode()

    def _make_queue(self, virtqueue: VirtQueue) -> BlkQueue:
        queue = BlkQueue(
            virtqueue.ring,
            virtqueue.slots(),
            virtqueue.doorbell(),
            index=virtqueue.index,
            capacity=self._capacity,
            block_size=self._block_size,
            read_only=self.readonly(),
            size_max=self._limit(BlkFeature.SIZE_MAX, BlkConfig.size_max) or 0,
            seg_max=self._segments_at_most,
            indirect=virtqueue.has(Feature.INDIRECT_DESC),
            legacy=not self.negotiated & Feature.VERSION_1,
            request_seconds=self._request_seconds,
        )
        queue.on_trouble = self._queue_in_trouble
        queue.check_memory = self.hal.check_address
        virtqueue.engage(queue)
        return queue

    def _accept(self, supported: int) -> Callable[[int], int]:
        """Discarding is not accepted of a host-managed zoned device (VIRTIO 1.4, 5.2.5.1), nor zones of a legacy one,
        which cannot be asked whether it is (5.2.5.2)."""

        def choose(offered: int) -> int:
            chosen = offered & (supported | always_accepted(offered))
            if not offered & Feature.VERSION_1:
                return chosen & ~BlkFeature.ZONED
            if chosen & BlkFeature.ZONED and self._read_field(BlkConfig.zoned_model) == ZonedModel.HOST_MANAGED:
                chosen &= ~BlkFeature.DISCARD
            return chosen

        return choose

    def _read_field(self, field: ReadOnly) -> int:
        return read_config(self.transport, field)

    def _queue_count(self) -> int:
        """Raises InvalidParam for more queues than the device has."""
        most = self._limit(BlkFeature.MQ, BlkConfig.num_queues) or 1
        if not 0 < self.options.queues <= most:
            raise InvalidParam(
                f"the disk cannot have {self.options.queues} queues in use: the device has {most}",
                remedy="ask for fewer, or give the device more",
            )
        return self.options.queues

    def _read_geometry(self) -> tuple[int, int]:
        capacity = read_config(self.transport, BlkConfig.capacity)
        if not self.negotiated & BlkFeature.BLK_SIZE:
            return capacity, SECTOR_SIZE
        return capacity, checked_block_size(read_config(self.transport, BlkConfig.blk_size))

    def check_events(self) -> None:
        with self._lock:
            self.check_working()
            super().check_events()

    def read_config_again(self) -> None:
        """The one thing that changes of a disk: its capacity, the new bound of all requests."""
        self._capacity, _ = self.transport.read_consistent(self._read_geometry)
        for queue in self.queues:
            queue.set_capacity(self._capacity)

    def _look_for_events(self) -> None:
        self.events.look()

    def _limit(self, feature: BlkFeature, source: ReadOnly) -> int | None:
        """What the device says, or None when the feature that makes the field exist was not negotiated."""
        return read_config(self.transport, source) if self.negotiated & feature else None

    # --- What it is ---------------------------------------------------------------------------------------------------

    def device_name(self) -> str:
        return "virtio-blk"

    def readonly(self) -> bool:
        """Whether the device refuses writes (VIRTIO_BLK_F_RO)."""
        return bool(self.negotiated & BlkFeature.RO)

    @property
    def limits(self) -> BlkLimits:
        return self._limits

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(feature_names(self.negotiated, self.device_type()))

    def max_transfer(self) -> int:
        """The most bytes that one request carries; longer reads and writes are split."""
        most = min(LARGEST_TRANSFER, self._size_max * self._segments_at_most)
        return most // self._block_size * self._block_size

    # --- A request at a time ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Returns when all writes that completed before are durable.

        A device without VIRTIO_BLK_F_FLUSH has no volatile cache (VIRTIO 1.4, 5.2.5.1), so there is nothing to send.
        """
        if self.negotiated & BlkFeature.FLUSH:
            self._run(RequestType.FLUSH, 0, None)

    def device_id(self) -> str:
        """The device's serial: up to 20 characters. Raises Unsupported when it has none (VIRTIO 1.4, 5.2.6.1)."""
        data = self._run(RequestType.GET_ID, 0, bytearray(DEVICE_ID_BYTES))
        return data.split(b"\0", 1)[0].decode("ascii", "backslashreplace")

    # --- Many at once -------------------------------------------------------------------------------------------------

    def submit_flush(self) -> int:
        """Start a flush; returns its token. Raises Unsupported without VIRTIO_BLK_F_FLUSH."""
        if not self.negotiated & BlkFeature.FLUSH:
            raise Unsupported("the device has no VIRTIO_BLK_F_FLUSH, so it cannot be asked to flush")
        return self._submit(RequestType.FLUSH, 0, None)

    @property
    def requests_free(self) -> int:
        """How many more requests of one segment fit."""
        return self._queue.free // self._queue.needs(_LEAST_DESCRIPTORS)

    # --- Private: submitting ------------------------------------------------------------------------------------------

    def _has_room(self, length: int) -> bool:
        parts = 2 + len(range(0, length, self._size_max))
        return self._queue.free >= self._queue.needs(parts)

    def _enqueue(self, request: Request, token: int) -> None:
        if not self._in_flight.keys() - {token} and self._queue.outstanding:
            raise AlreadyUsed("queue 0 has requests of its own in flight", remedy="reap them first")
        if request.data is not None:
            self._share(request)
        if request.answer is not None:
            request.answer_paddr = self._share_for(request.answer, BufferDirection.DeviceToDriver)
            request.length = len(request.answer)
        if request.kind == RequestType.IN and request.data is not None:
            request.length = len(request.data)
        self._add(request, token)

    def _share(self, request: Request) -> PhysAddr:
        place = self._place_of(request.data)
        if place is None:
            return super()._share(request)
        request.paddr, request.in_place = PhysAddr(place), True
        return request.paddr

    def _add(self, request: Request, token: int) -> None:
        """Send a request that has its memory. What the doorbell says comes up in `_make_available`: the request is in
        the ring by then."""
        parts = []
        if request.paddr is not None and request.data is not None:
            parts = self._segments(request.paddr, len(request.data))
        answers = 0
        if request.answer is not None and request.answer_paddr is not None:
            parts, answers = [*parts, (request.answer_paddr, len(request.answer))], 1
        writable = DIRECTIONS.get(request.kind) is BufferDirection.DeviceToDriver
        try:
            if not self._engine.put(request.kind, request.sector, parts, writable, token, answers):
                raise QueueFull
        except RingBroken as error:
            raise ring_failure(self._queue.index, error) from error
        except (RingUsageError, QueueFull):
            # Nothing is in the ring; both are OSErrors too.
            raise
        except OSError as failure:
            self._unnotified = failure

    def _has_enqueued(self, token: int) -> bool | None:
        return token in self._engine.tags()

    def _segments(self, paddr: PhysAddr, length: int) -> list[Part]:
        """The data as descriptors of at most size_max bytes."""
        return [
            (PhysAddr(paddr + offset), min(self._size_max, length - offset))
            for offset in range(0, length, self._size_max)
        ]

    def _make_available(self) -> None:
        failure, self._unnotified = self._unnotified, None
        if failure is not None:
            raise failure

    def _notify_again(self) -> None:
        self._queue.notify()

    # --- Private: completing ------------------------------------------------------------------------------------------

    def _take_completions(self) -> None:
        if not self._in_flight:
            return  # what completes is for those who use the queue itself
        found = self._completions
        while count := self._queue.reap(found):
            self._returns = 0
            for at in range(0, 2 * count, 2):
                token, written, status = found[at], found[at + 1] & 0xFFFF_FFFF, found[at + 1] >> 32
                self._settle(token, self._verdict(self._in_flight[token], written, status))

    # --- Out of order, and back again ---------------------------------------------------------------------------------

    def recover(self) -> None:
        """As of every disk. Where queue 0 was reset by itself (RING_RESET), it alone begins anew; otherwise the device
        does, and `queues` are others: those of before are closed.
        """
        with self._lock:
            if self._closed:
                raise DeviceClosed("the disk is closed", remedy="open it again")
            if not self._broken:
                self._give_up(DeviceLost("the driver began anew"))
            broken, cause, self._broken, self._cause = self._broken, self._cause, "", None
            try:
                if not self._restart_queue():
                    self._restart_device()
            except BaseException:
                self._broken, self._cause = broken, cause
                raise

    def _silence(self) -> None:
        """Queue 0 alone where that is enough and can be done, else the whole device."""
        self._queue_stopped = self._stop_queue()
        if not self._queue_stopped:
            try:
                self._reset_for_good()
            finally:
                # Whoever uses a queue by itself, and maybe waits for it in another thread, is told at once.
                for queue in self.virtqueues:
                    queue.give_up()

    def _queue_in_trouble(self, failure: HwloopError) -> None:
        """One of `queues` works no more, and that breaks the disk as a whole: a device that broke one ring is not
        believed in another, and what it has of a request that is overdue it only gives back in a reset."""
        error = DeviceLost(failure.problem, remedy="recover it, or open it again")
        error.__cause__ = failure
        self._give_up(error)

    def _stop_queue(self) -> bool:
        if not isinstance(self._cause, (DeadlineExpired, QueueBroken)) or not self._queue.has(Feature.RING_RESET):
            return False
        try:
            self._queue.stop()
        except OSError:
            return False
        return True

    def _restart_queue(self) -> bool:
        """Whether it was the queue alone, which is in use again."""
        stopped, self._queue_stopped = self._queue_stopped, False
        if not stopped:
            return False
        try:
            self._queue.restart()
        except DeviceError:
            self._reset_for_good()
            return False
        return True

    def _restart_device(self) -> None:
        if not self._silent:
            raise DeviceLost("the reset of the device was not confirmed: it may still write memory", remedy="close it")
        had = self._block_size
        self._begin_anew()
        if self._block_size != had:
            self._reset_for_good()
            raise DeviceChanged(
                f"the disk came back with blocks of {self._block_size} bytes, and had {had}", remedy="open it again"
            )

    # --- Private: a device that comes back ----------------------------------------------------------------------------

    def _come_back(self) -> bool:
        if not self.transport.gone_for_now():
            return False
        self._take_completions()
        while self._returns < _MOST_RETURNS:
            self._returns += 1
            try:
                self._begin_again()
                return True
            except DeviceLost:
                if not self.transport.gone_for_now():
                    raise
        raise DeviceLost(
            f"the device went {_MOST_RETURNS + 1} times in a row without completing a request",
            remedy="one of those in flight may be what it dies of",
        )

    def _begin_again(self) -> None:
        knows = self.transport.reconnect()
        self.hal.reconnected()
        self._check_same_disk()
        for queue in self.virtqueues:
            self._hand_over_again(queue, knows)
        self.transport.finish_init()
        if not knows:
            self._send_again()
        for queue in self.virtqueues:
            queue.notify()

    def _hand_over_again(self, queue: VirtQueue, knows: bool) -> None:
        """Give a queue to a device that came back; `knows`: the device has noted what it did not use. Of what a queue
        other than the first one had in flight only its user knows enough to send it again."""
        if knows:
            queue.resume()
        elif queue is not self._queue and queue.outstanding:
            raise DeviceLost(
                f"the device came back and forgot {queue.outstanding} requests of queue {queue.index}, which were sent "
                "through disk.queues",
                remedy="open it again, and send them again",
            )
        else:
            queue.restart()

    def _check_same_disk(self) -> None:
        had, has = (self._capacity, self._block_size), self.transport.read_consistent(self._read_geometry)
        if has != had:
            raise DeviceChanged(
                f"the disk came back with {has[0]} sectors and blocks of {has[1]} bytes, and had {had[0]} and {had[1]}",
                remedy="open it again",
            )

    def _send_again(self) -> None:
        """Everything in flight, oldest first, from the memory that it has. A device that did some of it and did not
        come to say so does that twice, which is the same; only what a newer write has overtaken would not be."""
        for token, request in list(self._in_flight.items()):
            if why := request.not_again:
                where = f"{request.kind.name} at sector {request.sector}"
                self._settle(
                    token, IoError(f"{where}: the device went before it said whether this was done; not again: {why}")
                )
            else:
                self._add(request, token)
        self._make_available()

    def _wait_for_completion(self, seconds: float) -> bool:
        return self._queue.wait(seconds)

    def _verdict(self, request: Request, written: int, status: int) -> HwloopError | None:
        """What the device says of a request; the status byte first, since the length means nothing on an error."""
        status = RespStatus.OK if status == _SHORT else status  # how much was written is looked at here
        code, text, section = *status_meaning(status), "5.2.6"
        if status == RespStatus.OK:
            # A driver of a legacy device should not believe the length (VIRTIO 1.4, 5.2.6.3).
            if written >= request.length + 1 or not self.negotiated & Feature.VERSION_1:
                return None
            text = f"the device reports success but wrote {written} of {request.length + 1} bytes"
            section = "2.7.8.2"
        error = IoError(f"{request.kind.name} at sector {request.sector}: {text}", errno=code, section=section)
        error.sector, error.queue, error.status = request.sector, self._queue.index, status
        error.add_note(f"sector {request.sector}, queue {self._queue.index}")
        return error

    def _fault(self) -> str:
        return status_fault(self.transport.get_status())

    def _diagnosis(self) -> Iterator[str]:
        yield self._queue.dump()
        try:
            yield f"device status: {self.transport.get_status()!r}"
        except OSError as failure:
            yield f"device status: unreadable ({failure})"


VirtIoBlkDev = VirtioBlk
"""The name that seed 000 gives the driver."""
