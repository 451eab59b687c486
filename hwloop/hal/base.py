"""What a driver asks of the machine: memory that the device can reach, and its registers.

The methods are those of the seeds' `Hal`. An address in our own address space ("virtual") is an int; `Dma` wraps an
allocation for those who want bytes.
"""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import TYPE_CHECKING

from hwloop.errors import DeviceClosed, DmaError, HwloopError, InvalidParam, Unsupported
from hwloop.hal.arena import Arena
from hwloop.hal.registered import CallersMemory
from hwloop.owner import Owner
from hwloop.spec import PAGE_SIZE, PhysAddr

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from hwloop.hal.interrupt import Interrupt
    from mmio import Region


class BufferDirection(Enum):
    """Who reads and who writes a buffer."""

    DriverToDevice = "driver-to-device"
    """The driver reads and writes it; the device only reads."""
    DeviceToDriver = "device-to-driver"
    """The device reads and writes it; the driver only reads."""
    Both = "both"


def pages_for(size: int) -> int:
    """How many pages hold `size` bytes."""
    return -(-size // PAGE_SIZE)


class Hal(Owner):
    """The interface that a back end implements. Owns its memory: `close()` gives all of it back."""

    name = ""

    @abstractmethod
    def dma_alloc(self, pages: int, direction: BufferDirection) -> tuple[PhysAddr, int]:
        """Zeroed memory of `pages` * 4096 bytes, contiguous for the device: its device address and our address.

        Raises DmaError.
        """

    @abstractmethod
    def dma_dealloc(self, paddr: PhysAddr, vaddr: int, pages: int) -> int:
        """Give an allocation back, zeroed. Returns 0. Raises DmaError for what was not allocated like this."""

    @abstractmethod
    def mmio_phys_to_virt(self, paddr: PhysAddr, size: int, *, hot: bool = False) -> Region:
        """The registers of `size` bytes at a physical address.

        `hot` asks for the cheapest write there is (a mapping), for a doorbell; other registers are reached in a way
        that survives the device's removal where there is one.
        """

    def port_region(self, port: int, size: int) -> Region:
        """The registers of `size` bytes at an I/O port. Raises Unsupported where no ports are reached."""
        raise Unsupported(f"the {self.name} HAL reaches no I/O ports, so not {port:#x}")

    @abstractmethod
    def share(self, buffer: Buffer, direction: BufferDirection) -> PhysAddr:
        """Let the device reach a buffer, and return where it finds it. Raises DmaError."""

    @abstractmethod
    def unshare(self, paddr: PhysAddr, buffer: Buffer, direction: BufferDirection) -> None:
        """End a `share`; afterwards the buffer holds what the device wrote."""

    def register(self, buffer: Buffer) -> PhysAddr:
        """Let the device reach whole pages of the caller's own, in place, and return where it finds them. It may write
        them too, unless they are read-only. They stay where they are until `unregister`.

        Raises InvalidParam for what is not whole pages, DmaError, Unsupported where the device reaches nothing but
        memory of the Hal's own.
        """
        raise Unsupported(
            f"the {self.name} HAL cannot let a device reach memory that it has not allocated itself",
            remedy="use alloc()",
        )

    def unregister(self, paddr: PhysAddr) -> None:
        """End a `register`. Raises DmaError for what was not registered."""
        raise DmaError(f"nothing is registered at {paddr:#x}")

    def interrupt(self, vector: int | None = None) -> Interrupt | None:
        """The device's line (`vector` None) or one of its MSI-X vectors; None where there is none: then poll.

        Raises SetupError when there should be one and it cannot be had. The caller closes it.
        """
        return None

    def vectors(self, wanted: int) -> int:
        """How many MSI-X vectors, or what else tells one event from another, `interrupt` can give; at most `wanted`.

        To be asked before the first of them is opened: some back ends take all that they will ever have at once.
        """
        return 0

    def check_address(self, paddr: int, length: int) -> None:
        """Raises DmaError unless these bytes are in one allocation or share of ours: what else is at a device address
        must never get into a ring, and nothing but an IOMMU would keep the device from it."""

    @property
    def removal_requested(self) -> bool:
        """Whether somebody waits for us to let go of the device, such as for an orderly unplug."""
        return False

    @property
    def request_fd(self) -> int | None:
        """A descriptor that is readable while `removal_requested`, and that nobody reads from; None where nobody can
        say so."""
        return None

    def check(self) -> None:
        """Look whether the device that keeps us waiting can still reach its memory; for one that is set up.

        Raises DeviceLost, or DmaError, with the reason. Where nothing can be seen, nothing is wrong.
        """

    def device_lost(self) -> None:
        """The device stopped answering before its last reset was confirmed. Where nothing can keep one that only seems
        to be gone from memory, this is `quarantine`; elsewhere bus mastering or an IOMMU does."""

    def reconnected(self) -> None:
        """The device came back and knows nothing: let it have all memory again. Only a process can come back."""

    @property
    def quarantined(self) -> bool:
        """Whether the device may still write its memory, for all that is known."""
        return False

    @abstractmethod
    def quarantine(self) -> None:
        """The device may still be writing: from now on no memory is freed or used again, also not by `close()`."""

    @abstractmethod
    def release_memory(self) -> None:
        """Take all memory from the device and free it; nothing of it may be used afterwards. Idempotent."""

    @abstractmethod
    def close(self) -> None:
        """`release_memory`, then give up the device. Idempotent."""


# Arenas that a device may still write. Never emptied: once unmapped, their addresses would be used for something else.
_QUARANTINE: list[object] = []


class BounceHal(Hal):
    """A Hal whose memory is arenas, one set for each direction; buffers are copied in and out of them.

    Copying keeps Python objects from ever being DMA targets, and lets an IOMMU enforce the direction. A back end only
    says how an arena comes and goes (`_new_arena`, `_free_arena`), and where it can, how pages of a caller's do
    (`_adopt`, `_free_arena`).
    """

    arena_bytes = 2 << 20

    def __init__(self) -> None:
        self._arenas: dict[BufferDirection, list[Arena]] = {direction: [] for direction in BufferDirection}
        self._registered: dict[int, Arena] = {}
        self._quarantined = False
        self._closed = False

    @abstractmethod
    def _new_arena(self, size: int, direction: BufferDirection) -> Arena:
        """Memory of at least `size` bytes, mapped for the device in that direction. Raises DmaError."""

    @abstractmethod
    def _free_arena(self, arena: Arena) -> None:
        """Take it from the device, then free it."""

    def _adopt(self, memory: CallersMemory) -> Arena | None:
        """Map it for the device, which may write it unless it is read-only; `_free_arena` ends that. None where that
        cannot be. Raises DmaError, or the kernel's OSError."""
        return None

    def dma_alloc(self, pages: int, direction: BufferDirection) -> tuple[PhysAddr, int]:
        if pages <= 0:
            raise InvalidParam(f"cannot allocate {pages} pages")
        arena, offset = self._allocate(pages * PAGE_SIZE, direction)
        # Free memory is zeroed already, but the device can reach it: rings must start from what we wrote.
        ctypes.memset(arena.vaddr + offset, 0, pages * PAGE_SIZE)
        return PhysAddr(arena.iova + offset), arena.vaddr + offset

    def dma_dealloc(self, paddr: PhysAddr, vaddr: int, pages: int) -> int:
        arena = self._arena_of(paddr)
        offset = paddr - arena.iova
        if arena.vaddr + offset != vaddr or arena.allocated(offset) != pages * PAGE_SIZE:
            raise DmaError(f"{pages} pages at {paddr:#x} were not allocated like this")
        self._release(arena, offset)
        return 0

    def share(self, buffer: Buffer, direction: BufferDirection) -> PhysAddr:
        view = memoryview(buffer).cast("B")
        if not view.nbytes:
            raise InvalidParam("cannot share an empty buffer with a device")
        size = pages_for(view.nbytes) * PAGE_SIZE
        arena, offset = self._allocate(size, direction)
        if direction is not BufferDirection.DeviceToDriver:
            arena.copy_in(offset, view)
        return PhysAddr(arena.iova + offset)

    def unshare(self, paddr: PhysAddr, buffer: Buffer, direction: BufferDirection) -> None:
        view = memoryview(buffer).cast("B")
        arena = self._arena_of(paddr)
        offset = paddr - arena.iova
        if arena.allocated(offset) != pages_for(view.nbytes) * PAGE_SIZE:
            raise DmaError(f"a buffer of {view.nbytes} bytes is not shared at {paddr:#x}")
        if direction is not BufferDirection.DriverToDevice:
            arena.copy_out(offset, view)
        self._release(arena, offset)

    def register(self, buffer: Buffer) -> PhysAddr:
        self._check_open()
        with ExitStack() as stack:
            memory = stack.enter_context(CallersMemory(buffer))
            with _explained(memory.size):
                arena = self._adopt(memory)
            if arena is None:
                return super().register(buffer)
            self._registered[arena.iova] = arena
            stack.pop_all()
        return PhysAddr(arena.iova)

    def unregister(self, paddr: PhysAddr) -> None:
        if paddr not in self._registered:
            super().unregister(paddr)
        if not self._quarantined:
            self._free_arena(self._registered.pop(paddr))

    def vaddr_of(self, paddr: PhysAddr) -> int:
        """Our address of a device address. Raises DmaError for one that is not ours."""
        arena = self._registered_at(paddr) or self._arena_of(paddr)
        return arena.vaddr + (paddr - arena.iova)

    def check_address(self, paddr: int, length: int) -> None:
        if (known := self._registered_at(paddr)) is not None and paddr + length <= known.iova + known.size:
            return
        arena = self._arena_of(paddr)
        if not arena.holds(paddr - arena.iova, length):
            raise DmaError(f"{length} bytes at device address {paddr:#x} are not in memory that the device was given")

    @property
    def quarantined(self) -> bool:
        return self._quarantined

    def quarantine(self) -> None:
        self._quarantined = True
        _QUARANTINE.append((self._arenas, self._registered))

    def release_memory(self) -> None:
        self._closed = True
        if self._quarantined:
            return
        for paddr in list(self._registered):
            self.unregister(PhysAddr(paddr))
        for arenas in self._arenas.values():
            while arenas:
                self._free_arena(arenas.pop())

    def close(self) -> None:
        self.release_memory()

    def _allocate(self, size: int, direction: BufferDirection) -> tuple[Arena, int]:
        self._check_open()
        for arena in self._arenas[direction]:
            offset = arena.allocate(size)
            if offset is not None:
                return arena, offset
        wanted = max(size, self.arena_bytes)
        with _explained(wanted):
            arena = self._new_arena(wanted, direction)
        self._arenas[direction].append(arena)
        offset = arena.allocate(size)
        assert offset is not None, "a new arena holds what it was made for"
        return arena, offset

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceClosed(f"the {self.name} HAL is closed")

    def _arena_of(self, paddr: int) -> Arena:
        for arenas in self._arenas.values():
            for arena in arenas:
                if arena.iova <= paddr < arena.iova + arena.size:
                    return arena
        raise DmaError(f"device address {paddr:#x} is not in memory of this HAL")

    def _registered_at(self, paddr: int) -> Arena | None:
        found = (arena for arena in self._registered.values() if arena.iova <= paddr < arena.iova + arena.size)
        return next(found, None)

    def _release(self, arena: Arena, offset: int) -> None:
        if not self._quarantined:
            arena.release(offset)


@contextmanager
def _explained(size: int) -> Iterator[None]:
    """What the system says of its own about memory is a DmaError too."""
    try:
        yield
    except HwloopError:
        raise
    except (OSError, OverflowError) as error:
        code, text = (error.errno, error.strerror) if isinstance(error, OSError) else (None, str(error))
        raise DmaError(f"cannot allocate {size >> 10} KiB of memory for the device: {text}", errno=code) from error


class Dma(Owner):
    """An allocation that the device can reach, as bytes.

    `paddr` is its device address, `vaddr` ours, `size` in bytes, `view` a writable memoryview. Never write a register
    or a ring index through `view`: `cython_ring` does that with single stores.
    """

    def __init__(self, hal: Hal, pages: int, direction: BufferDirection) -> None:
        self.paddr, self.vaddr = hal.dma_alloc(pages, direction)
        self.pages = pages
        self.size = pages * PAGE_SIZE
        hal.check_address(self.paddr, self.size)
        self.view = memoryview((ctypes.c_ubyte * self.size).from_address(self.vaddr)).cast("B")
        self._free: Callable[[], int] | None = lambda: hal.dma_dealloc(self.paddr, self.vaddr, pages)

    def close(self) -> None:
        """Give the memory back. Idempotent; `view` must not be used afterwards."""
        free, self._free = self._free, None
        if free:
            self.view.release()
            free()
