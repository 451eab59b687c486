"""A virtio device that is a process: messages through a socket in place of registers.

QEMU, docs/interop/vhost-user.rst. The protocol says nothing of what type the device is or how long its queues may be,
so the caller does.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

from cython_ring import Doorbell
from hwloop.deadline import RESET_SECONDS
from hwloop.errors import (
    AlreadyUsed,
    ConfigSpaceMissing,
    ConfigSpaceTooSmall,
    DeviceChanged,
    DeviceLost,
    HwloopError,
    InvalidParam,
)
from hwloop.owner import Owner
from hwloop.spec import DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr, feature_names
from hwloop.transport.base import Transport
from hwloop.vhost.errors import BackEndRefused, WrongValue
from hwloop.vhost.front_end import FrontEnd
from hwloop.vhost.memory import user_address
from hwloop.vhost.messages import (
    LONGEST_CONFIG,
    Config,
    Inflight,
    Nothing,
    Number,
    ProtocolFeature,
    Request,
    VringAddresses,
    VringState,
)

LARGEST_QUEUE = 1024
"""Descriptors of a queue at most, where nothing else is known: what QEMU's back ends allow."""

_QUEUES = {DeviceType.Console: 2}
"""How many queues a device has that does not tell; others have one."""
_LARGEST_STATUS = 0xFF
_SPLIT_BASE = 0
# Available and used index 0, each with its wrap counter 1 in bit 15.
_PACKED_BASE = 0x8000_8000
# An eventfd carries no data, and there is no message for one queue's reset: stopping one is not that.
_NOT_CARRIED = Feature.NOTIFICATION_DATA | Feature.NOTIF_CONFIG_DATA | Feature.RING_RESET
_WIDTHS = (1, 2, 4, 8)


class VhostUserTransport(Transport):
    """The device of type `device_type` behind the connection `front_end`, which this owns.

    `largest_queue` is the most descriptors that a queue of it may have. A device status is kept here where the back end
    knows none, and the generation of the configuration counts what it says of changes.
    """

    name = "vhost-user"

    def __init__(
        self,
        front_end: FrontEnd,
        device_type: DeviceType = DeviceType.Block,
        *,
        largest_queue: int = LARGEST_QUEUE,
    ) -> None:
        super().__init__()
        self._front_end = front_end
        self._type = device_type
        self._largest = largest_queue
        self._queue_count = front_end.queue_count or _QUEUES.get(device_type, 1)
        self._rings: dict[int, _Ring] = {}
        self._status = DeviceStatus(0)
        self._refused = False
        self._rings_before: dict[int, _Ring] = {}
        self._inflight: _InflightMemory | None = None
        self._inflight_told = False
        self._changes_seen = front_end.config_changes
        self.may_come_back = front_end.reconnect_seconds > 0
        self.has_config_generation = front_end.config_changes is not None

    def device_type(self) -> DeviceType:
        """What the caller said that it is: the protocol does not tell."""
        return self._type

    def read_device_features(self) -> int:
        """Without those that this transport cannot carry."""
        return self._front_end.read_features() & ~_NOT_CARRIED

    def write_driver_features(self, driver_features: int) -> None:
        try:
            self._front_end.write_features(driver_features)
        except BackEndRefused:
            if self._has(ProtocolFeature.STATUS):
                raise
            # What a device says by not keeping FEATURES_OK.
            self._refused = True

    # --- Status -------------------------------------------------------------------------------------------------------

    def get_status(self) -> DeviceStatus:
        """Raises DeviceLost when the back end is gone, BrokenProtocol when it talks nonsense."""
        self._front_end.check()
        status = self._ask_status() if self._has(ProtocolFeature.STATUS) else self._status
        if any(ring.failed() for ring in self._rings.values()):
            status |= DeviceStatus.DEVICE_NEEDS_RESET
        return status

    def set_status(self, status: DeviceStatus) -> None:
        """Writing 0 stops every queue, and returns when the back end has let go of them."""
        if status == 0:
            self._stop_everything()
        elif self._has(ProtocolFeature.STATUS):
            self._front_end.tell(Request.SET_STATUS, Number(int(status)))
        else:
            self._status = status & ~DeviceStatus.FEATURES_OK if self._refused else status

    def set_guest_page_size(self, guest_page_size: int) -> None:
        """There is no such message."""

    def requires_legacy_layout(self) -> bool:
        return False

    # --- Queues -------------------------------------------------------------------------------------------------------

    def max_queue_size(self, queue: int) -> int:
        return self._largest if 0 <= queue < self._queue_count else 0

    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        """Raises InvalidParam for a queue or a size that the device has not, AlreadyUsed, BackEndRefused."""
        if queue in self._rings:
            raise AlreadyUsed(f"queue {queue} is set up already", remedy="reset the device first")
        if not 0 < size <= self.max_queue_size(queue):
            raise InvalidParam(
                f"queue {queue} cannot have {size} descriptors; {self.max_queue_size(queue)} is the most"
            )
        self._share_inflight()
        with ExitStack() as stack:
            ring = stack.enter_context(self._ring_for(queue))
            addresses = [user_address(area) for area in (descriptors, device_area, driver_area)]
            self._describe(queue, size, VringAddresses(queue, 0, *addresses))
            self._start(queue, ring)
            stack.pop_all()

    def queue_unset(self, queue: int) -> None:
        """Stops the queue; the back end lets go of what it has of it."""
        ring = self._rings.pop(queue, None)
        if ring is None:
            return
        with ring:
            self._front_end.rings_live = bool(self._rings)
            state = VringState(queue, 0)
            answer = self._front_end.ask(Request.GET_VRING_BASE, state, VringState, seconds=RESET_SECONDS)
        if not self._rings:
            self._forget_inflight()
        if answer.index != queue:
            raise WrongValue(f"the back end was asked to stop queue {queue} and speaks of queue {answer.index}")

    def queue_used(self, queue: int) -> bool:
        return queue in self._rings

    def notify(self, queue: int, data: int | None = None) -> None:
        """One write of an eventfd. Raises InvalidParam for a queue not set up."""
        ring = self._rings.get(queue)
        if ring is None:
            raise InvalidParam(f"queue {queue} is not set up, so it cannot be notified")
        ring.notify()

    # --- Coming back --------------------------------------------------------------------------------------------------

    def gone_for_now(self) -> bool:
        return self._front_end.gone_for_now

    def reconnect(self) -> bool:
        """Queues that are set up again notify through the same eventfds. What it knows by itself is what it noted in
        the memory of INFLIGHT_SHMFD, which we kept; of packed queues we do not know where they stand, and begin anew.
        """
        wanted = self.negotiated
        self._rings_before |= self._rings
        self._rings.clear()
        self._inflight_told = False
        self._front_end.reconnect()

        def as_before(offered: int) -> int:
            if wanted & ~offered:
                names = ", ".join(feature_names(wanted & ~offered, self._type))
                raise DeviceChanged(f"{self._front_end.peer} came back without {names}, which was negotiated")
            return wanted

        self.begin_init(as_before)
        knows = self._inflight is not None and not wanted & Feature.RING_PACKED
        if not knows:
            self._forget_inflight()
        return knows

    def doorbell(self, queue: int) -> Doorbell | None:
        ring = self._rings.get(queue)
        return Doorbell.eventfd(ring.kick, owner=ring) if ring is not None else None

    # --- Interrupts and configuration ---------------------------------------------------------------------------------

    def ack_interrupt(self) -> InterruptStatus:
        """Only changes of the configuration: used buffers are told by eventfds."""
        self._front_end.check()
        changes = self._front_end.config_changes
        seen, self._changes_seen = self._changes_seen, changes
        return InterruptStatus(0 if changes == seen else InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT)

    def read_config_generation(self) -> int:
        """How often the back end has told of a change; always 0 where it has no way to."""
        self._front_end.check()
        return self._front_end.config_changes or 0

    def read_config_space(self, offset: int, width: int) -> int:
        """One message also for 8 bytes. Raises ConfigSpaceTooSmall where the back end does not give so much."""
        self._check_config(offset, width)
        # From the beginning, always: QEMU's back ends do not look at the offset.
        try:
            data = self._front_end.read_config(offset + width)
        except BackEndRefused as error:
            raise ConfigSpaceTooSmall(str(error)) from error
        return int.from_bytes(data[offset:], "little")

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        """One message. Raises BackEndRefused for a field that cannot be written."""
        self._check_config(offset, width)
        if not 0 <= value < 1 << 8 * width:
            raise InvalidParam(f"{value:#x} does not fit {width} bytes")
        self._front_end.tell(Request.SET_CONFIG, Config(offset, value.to_bytes(width, "little")))
        self._front_end.settle()

    def close(self) -> None:
        self._forget_rings()
        self._forget_inflight()
        self._front_end.close()

    # --- Private ------------------------------------------------------------------------------------------------------

    def _has(self, feature: ProtocolFeature) -> bool:
        return bool(self._front_end.protocol & feature)

    def _ask_status(self) -> DeviceStatus:
        value = self._front_end.ask(Request.GET_STATUS, Nothing(), Number).value
        if value > _LARGEST_STATUS:
            raise WrongValue(f"the back end reports the status {value:#x}, which has more than 8 bits", section="2.1")
        return DeviceStatus(value)

    def _stop_everything(self) -> None:
        if self._front_end.fault is not None:
            # It gave up everything when the connection ended, or is out of reach; nothing can be asked of it.
            raise DeviceLost(f"the device cannot be reset: {self._front_end.fault}") from self._front_end.fault
        for queue in list(self._rings):
            self.queue_unset(queue)
        if self._has(ProtocolFeature.RESET_DEVICE):
            self._front_end.tell(Request.RESET_DEVICE, Nothing())
        if self._has(ProtocolFeature.STATUS):
            self._front_end.tell(Request.SET_STATUS, Number(0))
        self._status = DeviceStatus(0)
        self._refused = False

    def _forget_rings(self) -> None:
        for rings in (self._rings, self._rings_before):
            while rings:
                rings.popitem()[1].close()
        self._front_end.rings_live = False

    def _ring_for(self, queue: int) -> _Ring:
        """That of a queue which a back end before this one had, or a new one."""
        ring = self._rings_before.pop(queue, None)
        if ring is None:
            return _Ring()
        ring.drain()
        return ring

    def _describe(self, queue: int, size: int, addresses: VringAddresses) -> None:
        tell = self._front_end.tell
        try:
            tell(Request.SET_VRING_NUM, VringState(queue, size))
        except BackEndRefused as error:
            raise BackEndRefused(
                f"the back end refused queue {queue} with {size} descriptors",
                remedy="say how many it takes: queue-size=128",
            ) from error
        first = _PACKED_BASE if self.negotiated & Feature.RING_PACKED else _SPLIT_BASE
        tell(Request.SET_VRING_BASE, VringState(queue, self.queue_bases.pop(queue, first)))
        tell(Request.SET_VRING_ADDR, addresses)

    def _start(self, queue: int, ring: _Ring) -> None:
        """From the kick eventfd on the queue is the back end's."""
        tell, index = self._front_end.tell, Number(queue)
        tell(Request.SET_VRING_ERR, index, [ring.error])
        tell(Request.SET_VRING_CALL, index, [self._front_end.call_line(self.queue_vectors.get(queue))])
        self._rings[queue] = ring
        self._front_end.rings_live = True
        try:
            tell(Request.SET_VRING_KICK, index, [ring.kick])
            if self._front_end.speaks_protocol_features:
                tell(Request.SET_VRING_ENABLE, VringState(queue, 1))
            self._front_end.settle()
        except BaseException:
            with suppress(HwloopError):
                self.queue_unset(queue)
            raise

    def _share_inflight(self) -> None:
        """Give the back end the memory in which it notes what it is working on, which outlives it."""
        if self._inflight_told or not self._has(ProtocolFeature.INFLIGHT_SHMFD):
            return
        memory = self._inflight
        if memory is None:
            asked = Inflight(0, 0, self._queue_count, self._largest)
            memory = _InflightMemory(*self._front_end.ask_with_descriptor(Request.GET_INFLIGHT_FD, asked, Inflight))
        self._inflight = memory
        try:
            self._front_end.tell(Request.SET_INFLIGHT_FD, memory.described, [memory.fd])
        except BaseException:
            self._forget_inflight()
            raise
        self._inflight_told = True

    def _forget_inflight(self) -> None:
        """What was in flight when the last queue stopped must not be taken up again by the next one."""
        memory, self._inflight, self._inflight_told = self._inflight, None, False
        if memory is not None:
            memory.close()

    def _check_config(self, offset: int, width: int) -> None:
        if not self._has(ProtocolFeature.CONFIG):
            raise ConfigSpaceMissing("the back end does not offer CONFIG, so it has no configuration space")
        if width not in _WIDTHS or offset < 0 or offset % min(width, 4):
            raise InvalidParam(f"no configuration field has offset {offset} and width {width}")
        if offset + width > LONGEST_CONFIG:
            raise ConfigSpaceTooSmall(
                f"a field of {width} bytes at {offset:#x} is behind the {LONGEST_CONFIG} bytes that there can be"
            )


class _Ring(Owner):
    """The eventfds of one queue: `kick` notifies the back end, with `error` it tells that it gave the queue up."""

    def __init__(self) -> None:
        self.kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.error = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def notify(self) -> None:
        try:
            os.eventfd_write(self.kick, 1)
        except BlockingIOError:
            # The back end has not looked for 2**64 notifications, and will find this one among them.
            return

    def drain(self) -> None:
        """Forget what was told to, and by, somebody who is gone."""
        for fd in (self.kick, self.error):
            with suppress(BlockingIOError):
                os.eventfd_read(fd)

    def failed(self) -> bool:
        """Whether the back end has told of an error since the last time, or ever."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.error)
            # Put back: the device needs a reset until it gets one.
            os.eventfd_write(self.error, 1)
            return True
        return False

    def close(self) -> None:
        for fd in (self.kick, self.error):
            if fd >= 0:
                os.close(fd)
        self.kick = self.error = -1


class _InflightMemory(Owner):
    """A file in which the back end keeps its notes, and where they are in it. It is not looked into."""

    def __init__(self, described: Inflight, fd: int) -> None:
        self.described = described
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1
