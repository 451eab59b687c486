"""A notification register that is mapped: a loop without the GIL rings it."""

from __future__ import annotations

from cython_ring import Doorbell
from hwloop.spec import Feature
from mmio import Region, mapped_address


def mapped_doorbell(region: Region, queue: int, negotiated: int, *, width: int) -> Doorbell | None:
    """The doorbell of a queue whose register `region` begins with, of `width` bytes, or 4 with NOTIFICATION_DATA; None
    where it is not mapped. The region has to stay open for as long as the queue is used."""
    with_position = bool(negotiated & Feature.NOTIFICATION_DATA)
    width = 4 if with_position else width
    address = mapped_address(region, 0, width)
    if address is None:
        return None
    return Doorbell.register(address, queue, width=width, with_position=with_position, owner=region)
