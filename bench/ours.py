"""A disk of hwloop's, opened to be measured: one queue, and memory that the device reaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cython_ring import DmaBuffer, Doorbell
from hwloop import session
from hwloop.device.blk_queue import BlkQueue
from hwloop.hal.base import BufferDirection, Dma, Hal, pages_for
from hwloop.queue import VirtQueue
from hwloop.queue_areas import make_slots
from hwloop.spec import DeviceStatus, Feature
from hwloop.transport.base import Transport
from hwloop.transport.pci_modern import PciTransport
from hwloop.transport.vhost_user import VhostUserTransport

_WANTED = Feature.VERSION_1 | Feature.ACCESS_PLATFORM | Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.IN_ORDER


@dataclass(frozen=True)
class Disk:
    """`queue` is its first."""

    queue: BlkQueue
    hal: Hal

    def alloc(self, size: int) -> DmaBuffer:
        memory = Dma(self.hal, pages_for(size), BufferDirection.DeviceToDriver)
        return DmaBuffer(memory.vaddr, memory.paddr, size, owner=memory)


@contextmanager
def opened(target: str) -> Iterator[Disk]:
    """The disk behind a target. Nothing but reads is sent to it."""
    with session.find(target).open_transport() as found:
        transport, hal = found.transport, found.hal
        negotiated = transport.begin_init(_WANTED)
        ring = VirtQueue(hal, transport, 0)
        transport.finish_init()
        memory, slots = make_slots(hal, ring.size)
        queue = BlkQueue(
            ring.ring,
            slots,
            _bell_of(transport),
            capacity=transport.read_config_space(0, 8),
            indirect=bool(negotiated & Feature.INDIRECT_DESC),
            owner=memory,
        )
        try:
            yield Disk(queue, hal)
        finally:
            transport.set_status(DeviceStatus(0))


def _bell_of(transport: Transport) -> Doorbell:
    """What a loop can ring without Python, for the two transports that are measured."""
    if isinstance(transport, VhostUserTransport):
        return Doorbell.eventfd(transport._rings[0].kick, owner=transport)
    if isinstance(transport, PciTransport):
        return Doorbell.register(transport._doorbells[0].address, 0, owner=transport)  # type: ignore[attr-defined]
    return Doorbell.call(lambda _: transport.notify(0))
