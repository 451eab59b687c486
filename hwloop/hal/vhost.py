"""Memory that a vhost-user back end maps, and its calls: no root, no IOMMU, no machine."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from hwloop.errors import DeviceLost, DmaError, InvalidParam, Unsupported
from hwloop.forked import disown_in_children, keep_no_longer
from hwloop.hal.arena import Arena
from hwloop.hal.base import BounceHal, BufferDirection
from hwloop.hal.eventfd_interrupt import take_events
from hwloop.hal.interrupt import Interrupt
from hwloop.vhost.front_end import FrontEnd
from hwloop.vhost.memory import SharedRegion
from hwloop.vhost.messages import MOST_REGIONS, MemoryTable, Nothing, Number, ProtocolFeature, Request, SingleRegion

if TYPE_CHECKING:
    from mmio import Region

_MOST_VECTORS = 1 << 11


class VhostHal(BounceHal):
    """The HAL of the device behind a connection, which stays open when this is closed.

    Arenas are pieces of regions of `region_bytes`. Where the back end takes regions one at a time
    (CONFIGURE_MEM_SLOTS), they come when they are needed; else only as long as no queue is set up, since the table of
    all regions cannot be changed under a device at work.

    The back end may read and write all of it, whatever the direction of an allocation.
    """

    name = "vhost"
    region_bytes = 256 << 20

    def __init__(self, front_end: FrontEnd) -> None:
        super().__init__()
        self._front_end = front_end
        self._regions: list[SharedRegion] = []
        self._slots: int | None = None
        disown_in_children(self)

    def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
        raise Unsupported(f"a vhost-user device has no registers in memory, so none at {paddr:#x}")

    def vectors(self, wanted: int) -> int:
        return min(wanted, _MOST_VECTORS)

    def interrupt(self, vector: int | None = None) -> Interrupt | None:
        """The call eventfd of the queues whose vector is `vector`, or of those without one.

        A queue takes its eventfd when it is set up. Raises InvalidParam for no vector.
        """
        if vector is not None and not 0 <= vector < _MOST_VECTORS:
            raise InvalidParam(f"there is no vector {vector}", remedy=f"give a number from 0 to {_MOST_VECTORS - 1}")
        return CallInterrupt(self._front_end, self._front_end.call_line(vector))

    def check(self) -> None:
        self._front_end.check()

    def reconnected(self) -> None:
        """Raises DmaError when it takes fewer regions now."""
        self._slots = None
        if not self._regions:
            return
        self._check_room(len(self._regions))
        if self._one_at_a_time:
            for region in self._regions:
                self._front_end.tell(Request.ADD_MEM_REG, SingleRegion(region.region), [region.fd])
        else:
            self._send_table(self._regions)
        self._front_end.settle()

    def disown(self) -> None:
        """In a child the memory is not there at all, so nothing may be zeroed or given back."""
        self._quarantined = True

    def quarantine(self) -> None:
        """No memory is used again. It may be unmapped: its pages belong to nothing but a file that the back end has
        too, and are never anything else."""
        self._quarantined = True

    def release_memory(self) -> None:
        """Unmap it. The back end unmaps it at the end of the connection, and is not told before (REM_MEM_REG):
        qemu-storage-daemon 7.2 goes on with requests that were in flight when their queue was stopped, and would die of
        rings that are not there."""
        keep_no_longer(self)
        with ExitStack() as steps:
            while self._regions:
                steps.callback(self._regions.pop().close)
            steps.callback(self._forget_arenas)

    def _forget_arenas(self) -> None:
        self._closed = True
        for arenas in self._arenas.values():
            arenas.clear()

    def _new_arena(self, size: int, direction: BufferDirection) -> Arena:
        for region in self._regions:
            if (arena := region.allocate(size)) is not None:
                return arena
        arena = self._add_region(max(size, self.region_bytes)).allocate(size)
        assert arena is not None, "a new region holds what it was made for"
        return arena

    def _free_arena(self, arena: Arena) -> None:
        """Its region is given back as a whole."""

    def _add_region(self, size: int) -> SharedRegion:
        with ExitStack() as stack:
            self._check_room(len(self._regions) + 1)
            region = stack.enter_context(SharedRegion(len(self._regions), size))
            if self._one_at_a_time:
                self._front_end.tell(Request.ADD_MEM_REG, SingleRegion(region.region), [region.fd])
            else:
                self._send_table([*self._regions, region])
            self._front_end.settle()
            stack.pop_all()
        self._regions.append(region)
        return region

    def _send_table(self, regions: list[SharedRegion]) -> None:
        table = MemoryTable(tuple(region.region for region in regions))
        self._front_end.tell(Request.SET_MEM_TABLE, table, [region.fd for region in regions])

    def _check_room(self, count: int) -> None:
        if self._one_at_a_time:
            if self._slots is None:
                self._slots = self._front_end.ask(Request.GET_MAX_MEM_SLOTS, Nothing(), Number).value
            if count > self._slots:
                raise DmaError(
                    f"the back end maps {self._slots} regions of memory at most",
                    remedy="use fewer or smaller requests at once",
                )
        elif self._front_end.rings_live or count > MOST_REGIONS:
            raise DmaError(
                f"the {len(self._regions)} regions of memory that the back end has are in use, and it takes no more "
                "while it is at work",
                remedy="use fewer or smaller requests at once",
            )

    @property
    def _one_at_a_time(self) -> bool:
        return bool(self._front_end.protocol & ProtocolFeature.CONFIGURE_MEM_SLOTS)


class CallInterrupt(Interrupt):
    """The eventfd with which a back end calls; it stays open when this is closed."""

    kind = "eventfd"
    needs_ack = False

    def __init__(self, front_end: FrontEnd, line: int) -> None:
        self._front_end = front_end
        self._line = line
        self._open = True

    def wait(self, seconds: float) -> bool:
        """Raises what shows while it waits that the back end does wrong; DeviceLost, unless it may come back: then this
        is no call, and whoever looks after the device finds out."""
        try:
            if not self._open or not self._front_end.wait(self._line, seconds):
                return False
        except DeviceLost:
            if not self._front_end.gone_for_now:
                raise
            return False
        with suppress(BlockingIOError):  # another thread was faster
            os.eventfd_read(self._line)
        return True

    def fileno(self) -> int:
        return self._line

    def take(self) -> bool:
        """What the back end says on its channels is left for the next look at the device."""
        return self._open and take_events(self._line)

    def rearm(self) -> None:
        """Nothing to do: a call that came meanwhile shows in the next `wait`."""

    def close(self) -> None:
        self._open = False
