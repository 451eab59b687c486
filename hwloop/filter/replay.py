"""Plays a recording back: a device that answers as the real one did, with no device there.

What the driver does has to be what it did then: the same accesses in the same order, and buffers of the same shape and
content. The first that is not raises `Departed`, which says where. Three things depend on the time that a device takes
and not on the driver, and are not compared: notifications, which the device asks for; interrupts; and looks at the
status while requests are outstanding. Device addresses are the machine's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn, Self, TypeVar, cast

from cython_ring import Chain, DeviceSidePacked, DeviceSideSplit
from hwloop import errors
from hwloop.errors import DriverError, HwloopError
from hwloop.filter.base import Filter
from hwloop.filter.event import Event, Kind
from hwloop.filter.file import BadTrace, Trace
from hwloop.filter.observe import ObservedQueue
from hwloop.filter.text import describe
from hwloop.hal.base import Hal
from hwloop.hal.fake import FakeHal
from hwloop.hal.filter import HalFilter
from hwloop.hal.interrupt import Interrupt
from hwloop.spec import DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr
from hwloop.transport.base import Transport
from mmio import Region

Q = TypeVar("Q")

_ASIDE = frozenset({
    Kind.DEVICE, Kind.REGISTERS, Kind.REGISTER_READ, Kind.REGISTER_WRITE, Kind.REQUEST, Kind.INTERRUPT, Kind.NOTIFY,
    Kind.QUEUE_DESC, Kind.QUEUE_DRIVER, Kind.QUEUE_DEVICE, Kind.RING_LOST,
})  # fmt: skip
"""What is not compared, or what another event says too."""
_FOR_INTERRUPTS = frozenset({Kind.ACK_INTERRUPT})
_WHILE_WAITING = _FOR_INTERRUPTS | {Kind.READ_STATUS}


class Departed(DriverError):
    """The driver does something else than it did when the recording was made."""


class Script:
    """The events that count, in their order, and how far the driver has come.

    Raises BadTrace for a trace without data, which cannot be played back.
    """

    def __init__(self, trace: Trace) -> None:
        if not trace.header.get("data"):
            raise BadTrace("this trace has no data", remedy="record one: TARGET?filter=record:FILE")
        found = list(trace.events())
        about = [event for event in found if event.kind is Kind.DEVICE]
        if not about:
            raise BadTrace("this recording ends before its device was reached")
        if any(event.kind is Kind.RING_LOST for event in found):
            raise BadTrace("this recording has a ring that could not be followed, so its requests are not in it")
        self.device: dict[str, Any] = json.loads(about[0].payload)
        self._events = [event for event in found if event.kind not in _ASIDE]
        self._at = 0
        self.departed: Departed | None = None
        self.held: dict[tuple[int, int], Chain] = {}

    @property
    def finished(self) -> bool:
        """Whether everything that was recorded has been done."""
        return self._at == len(self._events)

    def peek(self) -> Event | None:
        return self._events[self._at] if not self.finished else None

    def take(self) -> Event:
        self._at += 1
        return self._events[self._at - 1]

    def skip_waiting(self, wanted: frozenset[Kind]) -> Event | None:
        """The next event; what a driver does only because it has to wait is passed over while something is outstanding,
        if one of `wanted` comes behind it."""
        ahead = self._at
        aside = (_WHILE_WAITING if self.held else _FOR_INTERRUPTS) - wanted
        while ahead < len(self._events) and self._events[ahead].kind in aside:
            ahead += 1
        if ahead < len(self._events) and self._events[ahead].kind in wanted:
            self._at = ahead
        return self.peek()

    def expect(self, kind: Kind, **fields: Any) -> int:
        """The driver does this; returns the value that the device answers with. Raises Departed, and the error that
        was raised then. Once the driver has departed, everything answers 0: it has to end its device."""
        if self.departed is not None:
            return 0
        event = self.skip_waiting(frozenset({kind, Kind.ERROR}))
        if event is not None and event.kind is Kind.ERROR and event.value == kind:
            self.take()
            raise recorded_error(event)
        if event is None or event.kind is not kind or any(getattr(event, key) != fields[key] for key in fields):
            self.depart(describe(Event(0, kind)._replace(**fields)))
        self.take()
        following = self.peek()
        if following is not None and following.kind is Kind.ERROR and following.value == kind:
            self.take()
            raise recorded_error(following)
        return event.value

    def depart(self, what: str) -> NoReturn:
        """The driver did `what`, and not what is next."""
        following = self.peek()
        recorded = f"event {self._at + 1} of the recording is {describe(following)!r}" if following else "it is over"
        self.departed = Departed(f"the driver departs from the recording: it does {what!r}, and {recorded}")
        raise self.departed


class ReplayTransport(Transport):
    """The registers that `script` has, and the device's side of its queues in memory of `hal`."""

    def __init__(self, script: Script, hal: FakeHal) -> None:
        super().__init__()
        self.script = script
        self.name = script.device["transport"]
        self.has_config_generation = script.device["has_config_generation"]
        self.fixed_queue_size = script.device["fixed_queue_size"]
        self.completed = 0
        self._hal = hal
        self._rings: dict[int, DeviceSideSplit | DeviceSidePacked] = {}

    def device_type(self) -> DeviceType:
        return DeviceType(self.script.device["type"])

    def requires_legacy_layout(self) -> bool:
        return bool(self.script.device["legacy_layout"])

    def read_device_features(self) -> int:
        return self.script.expect(Kind.READ_FEATURES)

    def write_driver_features(self, driver_features: int) -> None:
        self.script.expect(Kind.WRITE_FEATURES, value=driver_features)

    def max_queue_size(self, queue: int) -> int:
        return self.script.expect(Kind.READ_QUEUE_SIZE, queue=queue)

    def notify(self, queue: int, data: int | None = None) -> None:
        self.advance()

    def get_status(self) -> DeviceStatus:
        self.advance()
        return DeviceStatus(self.script.expect(Kind.READ_STATUS))

    def set_status(self, status: DeviceStatus) -> None:
        self.advance()
        self.script.expect(Kind.WRITE_STATUS, value=int(status))
        if not status:
            self._rings.clear()
            self.script.held.clear()

    def set_guest_page_size(self, guest_page_size: int) -> None:
        self.script.expect(Kind.PAGE_SIZE, value=guest_page_size)

    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        self.script.expect(Kind.QUEUE_SIZE, queue=queue, value=size)
        packed = bool(self.negotiated & Feature.RING_PACKED)
        make = self._packed_ring if packed else self._split_ring
        self._rings[queue] = make(size, descriptors, driver_area, device_area)

    def _split_ring(self, size: int, desc: PhysAddr, driver: PhysAddr, device: PhysAddr) -> DeviceSideSplit:
        find, negotiated = self._hal.translate, self.negotiated
        return DeviceSideSplit(
            size, find(desc, 16 * size, False), find(driver, 6 + 2 * size, False), find(device, 6 + 8 * size, True),
            translate=find, owner=self._hal,
            event_idx=bool(negotiated & Feature.EVENT_IDX), indirect=bool(negotiated & Feature.INDIRECT_DESC),
            in_order=bool(negotiated & Feature.IN_ORDER),
        )  # fmt: skip

    def _packed_ring(self, size: int, desc: PhysAddr, driver: PhysAddr, device: PhysAddr) -> DeviceSidePacked:
        find, negotiated = self._hal.translate, self.negotiated
        return DeviceSidePacked(
            size, find(desc, 16 * size, True), find(driver, 4, False), find(device, 4, True),
            translate=find, owner=self._hal,
            event_idx=bool(negotiated & Feature.EVENT_IDX), indirect=bool(negotiated & Feature.INDIRECT_DESC),
            in_order=bool(negotiated & Feature.IN_ORDER),
        )  # fmt: skip

    def queue_unset(self, queue: int) -> None:
        self.advance()
        self.script.expect(Kind.QUEUE_UNSET, queue=queue)
        self._rings.pop(queue, None)

    def queue_used(self, queue: int) -> bool:
        return bool(self.script.expect(Kind.READ_QUEUE_USED, queue=queue))

    def ack_interrupt(self) -> InterruptStatus:
        self.advance()
        return InterruptStatus(self.script.expect(Kind.ACK_INTERRUPT))

    def read_config_generation(self) -> int:
        return self.script.expect(Kind.READ_GENERATION)

    def read_config_space(self, offset: int, width: int) -> int:
        return self.script.expect(Kind.READ_CONFIG, arg=offset, width=width)

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        self.script.expect(Kind.WRITE_CONFIG, arg=offset, width=width, value=value)

    def set_config_vector(self) -> None:
        self.script.expect(Kind.CONFIG_VECTOR, value=0xFFFF if self.config_vector is None else self.config_vector)

    def takes_vector(self, queue: int | None, vector: int) -> bool:
        event = 0xFFFF if queue is None else queue
        return bool(self.script.expect(Kind.TAKES_VECTOR, queue=event, arg=vector))

    def prepare_dma(self) -> None:
        self.script.expect(Kind.DMA_ON)

    def stop_dma(self) -> None:
        self.script.expect(Kind.DMA_OFF)

    def watch_queue(self, queue: Q) -> Q:
        return cast(Q, ObservedQueue(queue, self.advance))

    def close(self) -> None:
        """A recording that was cut short, and a driver that ends early, both end here."""
        self._rings.clear()

    # --- The device's side --------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Do what the device did next, as far as the driver has gone for it. Raises Departed."""
        while self._rings and self.script.departed is None:
            event = self.script.skip_waiting(frozenset({Kind.CHAIN, Kind.USED}))
            if event is None or event.queue not in self._rings:
                return
            if event.kind is Kind.CHAIN:
                if not self._fetch(event):
                    return
            elif event.kind is Kind.USED:
                self._complete(event)
            else:
                return

    def _fetch(self, event: Event) -> bool:
        chain = self._rings[event.queue].fetch()
        if chain is None:
            return False
        if (chain.readable_bytes << 32 | chain.writable_bytes) != event.value:
            text = f"{chain.readable_bytes} bytes to read, {chain.writable_bytes} to write"
            self.script.depart(f"queue {event.queue}: published {text}")
        self.script.take()
        content = self.script.peek()
        if content is not None and content.kind is Kind.READABLE:
            if chain.read() != content.payload:
                self.script.depart(f"queue {event.queue}: published {_difference(chain.read(), content.payload)}")
            self.script.take()
        self.script.held[event.queue, event.arg] = chain
        return True

    def _complete(self, event: Event) -> None:
        self.script.take()
        chain = self.script.held.pop((event.queue, event.arg), None)
        if chain is None:
            raise BadTrace(f"the recording uses head {event.arg} of queue {event.queue}, which was not published")
        content = self.script.peek()
        if content is not None and content.kind is Kind.WRITABLE:
            self.script.take()
            chain.write(content.payload)
        self._rings[event.queue].complete(chain.head, event.value)
        self.completed += 1


class ReplayHal(HalFilter):
    """Memory of this process, and an interrupt that comes when the recording goes on; `name` is the recorded Hal's."""

    def __init__(self, memory: FakeHal, transport: ReplayTransport) -> None:
        super().__init__(memory)
        self.name = transport.script.device["hal"]
        self._transport = transport

    def interrupt(self, vector: int | None = None) -> Interrupt | None:
        have = self._transport.script.expect(Kind.LINE, arg=0xFFFF if vector is None else vector)
        return ReplayInterrupt(self._transport) if have else None

    def vectors(self, wanted: int) -> int:
        return self._transport.script.expect(Kind.VECTORS, arg=wanted)


class ReplayInterrupt(Interrupt):
    """Comes when the device has completed something since the last time."""

    kind = "replay"
    needs_ack = False

    def __init__(self, transport: ReplayTransport) -> None:
        self._transport = transport
        self._seen = transport.completed

    def wait(self, seconds: float) -> bool:
        self._transport.advance()
        came, self._seen = self._transport.completed > self._seen, self._transport.completed
        return came

    def rearm(self) -> None:
        """What came meanwhile shows in the next `wait`."""

    def close(self) -> None:
        """Nothing is held."""


class ReplayFilter(Filter):
    """`filter=replay:FILE`: in front of any device, which is then never asked for anything but to be closed."""

    def __init__(self, trace: Trace) -> None:
        self._memory = FakeHal()
        self._transport = ReplayTransport(Script(trace), self._memory)

    @classmethod
    def maker(cls, options: str, target: str) -> Callable[[], Self]:
        trace = Trace.read(options)
        Script(trace)
        return lambda: cls(trace)

    def hal(self, inner: Hal) -> Hal:
        return _Closing(ReplayHal(self._memory, self._transport), inner)

    def transport(self, inner: Transport) -> Transport:
        return self._transport


class _Closing(HalFilter):
    """Leaves the registers to the Hal that it stands in for, and closes that too."""

    def __init__(self, inner: Hal, other: Hal) -> None:
        super().__init__(inner)
        self._other = other

    def mmio_phys_to_virt(self, paddr: PhysAddr, size: int, *, hot: bool = False) -> Region:
        return self._other.mmio_phys_to_virt(paddr, size, hot=hot)

    def port_region(self, port: int, size: int) -> Region:
        return self._other.port_region(port, size)

    def close(self) -> None:
        self.inner.close()
        self._other.close()


def recorded_error(event: Event) -> HwloopError:
    """The error that was raised when the recording was made."""
    content = json.loads(event.payload)
    kind = getattr(errors, content["type"], errors.DeviceError)
    return errors._rebuild(kind, tuple(content["args"]), content["attributes"])


def _difference(ours: bytes, theirs: bytes) -> str:
    at = next((index for index, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
    return f"{ours[at : at + 8].hex(' ')} at byte {at}, where it was {theirs[at : at + 8].hex(' ')}"
