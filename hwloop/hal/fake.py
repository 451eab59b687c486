"""A Hal in process, stricter than any machine: made-up device addresses with holes, copies, and an exact account.

The device side must translate every address, and only what was allocated or shared in the right direction translates:
a mistake that QEMU forgives (a wild address completes with status OK there) is a `DmaFault` here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwloop.errors import DmaError
from hwloop.hal.arena import Arena
from hwloop.hal.base import BounceHal, BufferDirection
from hwloop.hal.fake_interrupt import FakeInterrupts
from hwloop.hal.interrupt import Interrupt
from hwloop.hal.iova import IovaAllocator
from hwloop.hal.memory import AnonymousMemory
from hwloop.hal.registered import CallersMemory
from mmio import Window

if TYPE_CHECKING:
    from mmio import Region

# Far from any address of ours, and each arena in a range of its own, so that the space between two always faults. Below
# 2**44, which is all that a legacy device can be told.
_RANGES = [(base << 36, (base << 36) + (64 << 20) - 1) for base in range(0x11, 0x51)]
_ADOPTED = (0x60 << 36, (0x70 << 36) - 1)
_READABLE = (BufferDirection.DriverToDevice, BufferDirection.Both)
_WRITABLE = (BufferDirection.DeviceToDriver, BufferDirection.Both)


class DmaFault(AssertionError):
    """The device was told an address that it must not access: a bug of the driver."""


class FakeHal(BounceHal):
    """`regions` maps a physical address to the registers there, `ports` an I/O port; `interrupts` are those of the one
    device, where it has any.

    `leaks()` lists what was never given back.
    """

    name = "fake"
    arena_bytes = 1 << 20

    def __init__(self, regions: dict[int, Region] | None = None, interrupts: FakeInterrupts | None = None) -> None:
        super().__init__()
        self.interrupts = interrupts
        self.regions = regions or {}
        self.ports: dict[int, Region] = {}
        self._ranges = iter(_RANGES)
        self._adopted = IovaAllocator([_ADOPTED])
        self.leaked: list[tuple[int, int]] = []

    def translate(self, address: int, length: int, writable: bool) -> int:
        """Our address of `length` bytes that the device reads or writes at a device address. Raises DmaFault."""
        if (place := self._translate_registered(address, length, writable)) is not None:
            return place
        allowed = _WRITABLE if writable else _READABLE
        for direction, arenas in self._arenas.items():
            for arena in arenas:
                if any(start <= address and address + length <= start + size for start, size in arena.outstanding()):
                    if direction in allowed:
                        return arena.vaddr + (address - arena.iova)
                    raise DmaFault(f"the device may not {_verb(writable)} {length} bytes at {address:#x}")
        raise DmaFault(f"no memory of {length} bytes is shared with the device at {address:#x}")

    def _translate_registered(self, address: int, length: int, writable: bool) -> int | None:
        arena = self._registered_at(address)
        if arena is None or address + length > arena.iova + arena.size:
            return None
        if writable and isinstance(arena.owner, CallersMemory) and arena.owner.read_only:
            raise DmaFault(f"the device may not write {length} bytes at {address:#x}: they are read-only")
        return arena.vaddr + (address - arena.iova)

    def leaks(self) -> list[tuple[int, int]]:
        """(device address, bytes) of every allocation that is outstanding, or was when the memory was released."""
        held = [piece for arenas in self._arenas.values() for arena in arenas for piece in arena.outstanding()]
        return self.leaked + held + [(arena.iova, arena.size) for arena in self._registered.values()]

    def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
        return _window(self.regions, paddr, size)

    def port_region(self, port: int, size: int) -> Region:
        return _window(self.ports, port, size)

    def interrupt(self, vector: int | None = None) -> Interrupt | None:
        return self.interrupts.open(vector) if self.interrupts is not None else None

    def vectors(self, wanted: int) -> int:
        return min(wanted, self.interrupts.count) if self.interrupts is not None else 0

    def _new_arena(self, size: int, direction: BufferDirection) -> Arena:
        memory = AnonymousMemory(size)
        free = next(self._ranges, None)
        iova = IovaAllocator([free] if free else []).allocate(memory.size, 4096)
        return Arena(memory.address, iova, memory.size, memory)

    def _adopt(self, memory: CallersMemory) -> Arena:
        # A page more, so that the space behind it faults, too.
        return Arena(memory.address, self._adopted.allocate(memory.size + 4096, 4096), memory.size, memory)

    def _free_arena(self, arena: Arena) -> None:
        self.leaked += arena.outstanding()
        if isinstance(arena.owner, CallersMemory):
            self._adopted.release(arena.iova)
        if isinstance(arena.owner, (AnonymousMemory, CallersMemory)):
            arena.owner.close()


def _window(regions: dict[int, Region], address: int, size: int) -> Region:
    for base, region in regions.items():
        if base <= address and address + size <= base + region.size:
            return Window(region, address - base, size)
    raise DmaError(f"there are no registers of {size:#x} bytes at {address:#x}")


def _verb(writable: bool) -> str:
    return "write" if writable else "read"
