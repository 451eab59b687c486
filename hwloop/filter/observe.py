"""The four things that are put in front of a device so that a `Watch` sees it: Transport, Hal, registers, queue."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, TypeVar, cast

from hwloop.filter.event import Kind
from hwloop.filter.watch import Watch
from hwloop.hal.base import Hal
from hwloop.hal.filter import HalFilter
from hwloop.hal.interrupt import Interrupt
from hwloop.spec import DeviceStatus, Feature, InterruptStatus, PhysAddr
from hwloop.transport.base import Transport
from hwloop.transport.filter import TransportFilter
from mmio import Region, RegionBase, read_exact, write_exact

COMPLETION_WORDS = 2
"""Of 64 bits, in the array that `VirtQueue.reap` fills."""

T = TypeVar("T")
Q = TypeVar("Q")


class ObservedTransport(TransportFilter):
    """Tells `watch` of everything that passes, and lets it look at the rings whenever it does.

    What is written is noted before it is done, so that a trace ends with what a machine died of.
    """

    def __init__(self, inner: Transport, watch: Watch) -> None:
        super().__init__(inner)
        self._watch = watch

    def read_device_features(self) -> int:
        return self._read(Kind.READ_FEATURES, self.inner.read_device_features)

    def write_driver_features(self, driver_features: int) -> None:
        self._write(
            Kind.WRITE_FEATURES, lambda: self.inner.write_driver_features(driver_features), value=driver_features
        )

    def max_queue_size(self, queue: int) -> int:
        return self._read(Kind.READ_QUEUE_SIZE, lambda: self.inner.max_queue_size(queue), queue=queue)

    def doorbell(self, queue: int) -> None:
        """None: what is rung past us would not be seen."""

    def notify(self, queue: int, data: int | None = None) -> None:
        self._watch.look()
        arguments = () if data is None else (data,)
        self._write(Kind.NOTIFY, lambda: self.inner.notify(queue, *arguments), queue=queue, value=data or 0)
        self._watch.look()

    def get_status(self) -> DeviceStatus:
        return self._read(Kind.READ_STATUS, self.inner.get_status)

    def set_status(self, status: DeviceStatus) -> None:
        self._watch.look()
        self._write(Kind.WRITE_STATUS, lambda: self.inner.set_status(status), value=int(status))
        if not status:
            # Once it is reset, nobody keeps the memory of the rings.
            self._watch.forget()

    def set_guest_page_size(self, guest_page_size: int) -> None:
        self._write(
            Kind.PAGE_SIZE, lambda: self.inner.set_guest_page_size(guest_page_size), value=guest_page_size
        )  # fmt: skip

    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        watch = self._watch
        watch.event(Kind.QUEUE_DESC, queue=queue, value=descriptors)
        watch.event(Kind.QUEUE_DRIVER, queue=queue, value=driver_area)
        watch.event(Kind.QUEUE_DEVICE, queue=queue, value=device_area)
        in_order = bool(self.inner.negotiated & Feature.IN_ORDER)
        if self.inner.negotiated & Feature.RING_PACKED:
            watch.follow_packed(queue, size, descriptors, in_order=in_order)
        else:
            watch.follow(queue, size, descriptors, driver_area, device_area, in_order=in_order)
        self._write(
            Kind.QUEUE_SIZE,
            lambda: self.inner.queue_set(queue, size, descriptors, driver_area, device_area),
            queue=queue,
            value=size,
        )

    def queue_unset(self, queue: int) -> None:
        self._watch.look()
        self._write(Kind.QUEUE_UNSET, lambda: self.inner.queue_unset(queue), queue=queue)
        self._watch.forget(queue)

    def queue_used(self, queue: int) -> bool:
        return self._read(Kind.READ_QUEUE_USED, lambda: self.inner.queue_used(queue), queue=queue)

    def ack_interrupt(self) -> InterruptStatus:
        return self._read(Kind.ACK_INTERRUPT, self.inner.ack_interrupt)

    def read_config_generation(self) -> int:
        return self._read(Kind.READ_GENERATION, self.inner.read_config_generation)

    def read_config_space(self, offset: int, width: int) -> int:
        return self._read(
            Kind.READ_CONFIG, lambda: self.inner.read_config_space(offset, width), arg=offset, width=width
        )  # fmt: skip

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        self._write(
            Kind.WRITE_CONFIG,
            lambda: self.inner.write_config_space(offset, width, value),
            arg=offset,
            width=width,
            value=value,
        )

    def set_config_vector(self) -> None:
        vector = self.inner.config_vector
        self._write(Kind.CONFIG_VECTOR, self.inner.set_config_vector, value=0xFFFF if vector is None else vector)

    def takes_vector(self, queue: int | None, vector: int) -> bool:
        event = 0xFFFF if queue is None else queue
        return self._read(
            Kind.TAKES_VECTOR, lambda: self.inner.takes_vector(queue, vector), queue=event, arg=vector
        )  # fmt: skip

    def prepare_dma(self) -> None:
        self._write(Kind.DMA_ON, self.inner.prepare_dma)

    def stop_dma(self) -> None:
        self._write(Kind.DMA_OFF, self.inner.stop_dma)

    def watch_queue(self, queue: Q) -> Q:
        found = self.inner.watch_queue(queue)
        self._watch.found(found.index, found.ring)  # type: ignore[attr-defined]
        return cast(Q, WatchedQueue(found, self._watch))

    def close(self) -> None:
        self._write(Kind.CLOSE, self.inner.close)

    def _read(self, kind: Kind, read: Callable[[], T], *, queue: int = 0, arg: int = 0, width: int = 0) -> T:
        try:
            result = read()
        except OSError as error:
            self._watch.failure(kind, error)
            raise
        self._watch.event(kind, queue=queue, arg=arg, width=width, value=int(cast(int, result)))
        return result

    def _write(self, kind: Kind, write: Callable[[], None], **fields: int) -> None:
        self._watch.event(kind, **fields)  # type: ignore[arg-type]
        try:
            write()
        except OSError as error:
            self._watch.failure(kind, error)
            raise


class ObservedHal(HalFilter):
    """Hands out registers and interrupts that tell `watch` what is done with them."""

    def __init__(self, inner: Hal, watch: Watch) -> None:
        super().__init__(inner)
        self._watch = watch
        self._regions = 0
        watch.find = getattr(inner, "vaddr_of", None)

    def mmio_phys_to_virt(self, paddr: PhysAddr, size: int, *, hot: bool = False) -> Region:
        return self._observed(self.inner.mmio_phys_to_virt(paddr, size, hot=hot), paddr)

    def port_region(self, port: int, size: int) -> Region:
        return self._observed(self.inner.port_region(port, size), port)

    def interrupt(self, vector: int | None = None) -> Interrupt | None:
        line = self.inner.interrupt(vector)
        have = 0 if line is None else 1 | line.needs_ack << 1
        self._watch.event(Kind.LINE, arg=0xFFFF if vector is None else vector, value=have)
        return ObservedInterrupt(line, self._watch, vector) if line is not None else None

    def vectors(self, wanted: int) -> int:
        have = self.inner.vectors(wanted)
        self._watch.event(Kind.VECTORS, arg=wanted, value=have)
        return have

    def release_memory(self) -> None:
        self._watch.forget()
        self.inner.release_memory()

    def close(self) -> None:
        self._watch.forget()
        self.inner.close()

    def _observed(self, region: Region, address: int) -> Region:
        number, self._regions = self._regions, self._regions + 1
        self._watch.event(Kind.REGISTERS, queue=number, arg=region.size, value=address)
        return ObservedRegion(region, number, self._watch)


class ObservedRegion(RegionBase):
    """The registers numbered `number`, of which each bus access is an event. Closing this closes them."""

    def __init__(self, inner: Region, number: int, watch: Watch) -> None:
        super().__init__(inner.size, base=None)
        self._inner = inner
        self._number = number
        self._watch = watch

    def _read(self, offset: int, width: int) -> int:
        value = read_exact(self._inner, offset, width)
        self._watch.event(Kind.REGISTER_READ, queue=self._number, arg=offset, width=width, value=value)
        return value

    def _write(self, offset: int, width: int, value: int) -> None:
        self._watch.event(Kind.REGISTER_WRITE, queue=self._number, arg=offset, width=width, value=value)
        write_exact(self._inner, offset, width, value)

    def close(self) -> None:
        super().close()
        self._inner.close()


class ObservedInterrupt(Interrupt):
    """An interrupt whose arrivals are events."""

    def __init__(self, inner: Interrupt, watch: Watch, vector: int | None) -> None:
        self.kind = inner.kind
        self.needs_ack = inner.needs_ack
        self._inner = inner
        self._watch = watch
        self._vector = 0xFFFF if vector is None else vector

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def wait(self, seconds: float) -> bool:
        return self._seen(self._inner.wait(seconds))

    def take(self) -> bool:
        return self._seen(self._inner.take())

    def fileno(self) -> int | None:
        return self._inner.fileno()

    def mask(self) -> None:
        self._inner.mask()

    def unmask(self) -> None:
        self._inner.unmask()

    def rearm(self) -> None:
        self._inner.rearm()

    def close(self) -> None:
        self._inner.close()

    def _seen(self, came: bool) -> bool:
        if came:
            self._watch.event(Kind.INTERRUPT, value=self._vector)
        return came


class ObservedQueue:
    """A queue around whose every call `look` is called: what it puts into its ring and takes out of it is seen then.

    It does not matter what kind of queue: it has the methods of the one inside.
    """

    def __init__(self, inner: Any, look: Callable[[], None]) -> None:
        vars(self).update(_inner=inner, _look=look)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name.startswith("_"):
            return found
        look = self._look

        def call(*args: Any, **kwargs: Any) -> Any:
            look()
            try:
                return found(*args, **kwargs)
            finally:
                look()

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)


class WatchedQueue(ObservedQueue):
    """An observed queue of which nothing is reaped that was not seen before."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        super().__init__(inner, watch.look)
        vars(self).update(_watch=watch)

    def reap(self, completions: array[int]) -> int:
        """As of the queue, with no more completions than `look` has seen."""
        watch: Watch = vars(self)["_watch"]
        watch.look()
        most = watch.may_take(self._inner.index)
        room = memoryview(completions) if most is None else memoryview(completions)[: COMPLETION_WORDS * most]
        count: int = self._inner.reap(room)
        watch.taken(self._inner.index, count)
        return count
