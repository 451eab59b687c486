"""A transport in front of another one: what every filter starts from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from cython_ring import Doorbell
from hwloop.spec import DeviceStatus, DeviceType, InterruptStatus, PhysAddr
from hwloop.transport.base import Transport
from hwloop.transport.register_value import RegisterValue

Q = TypeVar("Q")


def _of_inner(name: str) -> Any:
    """An attribute that is the inner transport's own, to read and to set: state is kept in one place."""
    return property(lambda self: getattr(self.inner, name), lambda self, value: setattr(self.inner, name, value))


class TransportFilter(Transport):
    """Passes everything on to `inner`, register by register. A filter overrides what it wants to see or to change.

    The order of initialisation, `reset`, `fail` and `read_consistent` are not passed on: they run here, so that each
    access of theirs goes through the filter. Closing a filter closes what is inside. The methods are written out, and
    not looked up when they are called, so that a type checker and a misspelt name are of some use.
    """

    name = _of_inner("name")
    negotiated = _of_inner("negotiated")
    has_config_generation = _of_inner("has_config_generation")
    fixed_queue_size = _of_inner("fixed_queue_size")
    config_vector = _of_inner("config_vector")
    queue_vectors = _of_inner("queue_vectors")
    queue_bases = _of_inner("queue_bases")
    may_come_back = _of_inner("may_come_back")
    reset_pending = _of_inner("reset_pending")

    def __init__(self, inner: Transport) -> None:
        # Not the constructor above: it would give `inner` new queue vectors.
        self.inner = inner

    def device_type(self) -> DeviceType:
        return self.inner.device_type()

    def read_device_features(self) -> int:
        return self.inner.read_device_features()

    def write_driver_features(self, driver_features: int) -> None:
        self.inner.write_driver_features(driver_features)

    def max_queue_size(self, queue: int) -> int:
        return self.inner.max_queue_size(queue)

    def notify(self, queue: int, data: int | None = None) -> None:
        self.inner.notify(queue, data)

    def doorbell(self, queue: int) -> Doorbell | None:
        return self.inner.doorbell(queue)

    def get_status(self) -> DeviceStatus:
        return self.inner.get_status()

    def set_status(self, status: DeviceStatus) -> None:
        self.inner.set_status(status)

    def set_guest_page_size(self, guest_page_size: int) -> None:
        self.inner.set_guest_page_size(guest_page_size)

    def requires_legacy_layout(self) -> bool:
        return self.inner.requires_legacy_layout()

    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        self.inner.queue_set(queue, size, descriptors, driver_area, device_area)

    def queue_unset(self, queue: int) -> None:
        self.inner.queue_unset(queue)

    def queue_used(self, queue: int) -> bool:
        return self.inner.queue_used(queue)

    def ack_interrupt(self) -> InterruptStatus:
        return self.inner.ack_interrupt()

    def read_config_generation(self) -> int:
        return self.inner.read_config_generation()

    def read_config_space(self, offset: int, width: int) -> int:
        return self.inner.read_config_space(offset, width)

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        self.inner.write_config_space(offset, width, value)

    def read_registers(self) -> Iterator[RegisterValue]:
        return self.inner.read_registers()

    def gone_for_now(self) -> bool:
        return self.inner.gone_for_now()

    def reconnect(self) -> bool:
        return self.inner.reconnect()

    def set_config_vector(self) -> None:
        self.inner.set_config_vector()

    def takes_vector(self, queue: int | None, vector: int) -> bool:
        return self.inner.takes_vector(queue, vector)

    def watch_queue(self, queue: Q) -> Q:
        return self.inner.watch_queue(queue)

    def last_events(self, count: int = 16) -> list[str]:
        return self.inner.last_events(count)

    def prepare_dma(self) -> None:
        self.inner.prepare_dma()

    def stop_dma(self) -> None:
        self.inner.stop_dma()

    def close(self) -> None:
        self.inner.close()
