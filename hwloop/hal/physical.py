"""Memory whose physical address is known and stays, for a device that no IOMMU translates for.

Nothing confines such a device: it can write all memory of the machine, and an address that is wrong goes somewhere
else. So an address is never guessed: it is what the kernel says (/proc/self/pagemap), of huge pages that are pinned,
and it is asked for again before memory is handed out.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from hwloop.errors import DmaError, SetupError
from hwloop.hal.arena import Arena
from hwloop.hal.base import BounceHal, BufferDirection
from hwloop.hal.memory import HUGE_PAGE
from hwloop.owner import Owner

if TYPE_CHECKING:
    from pathlib import Path

Keeper = Callable[[int], None]

PAGEMAP = "/proc/self/pagemap"
MAKE_HUGE_PAGES = "echo 16 > /proc/sys/vm/nr_hugepages"
"""The command that makes huge pages; some have to be free for every device in use."""

# Linux Documentation/admin-guide/mm/pagemap.rst.
_PRESENT = 1 << 63
_FRAME_BITS = (1 << 55) - 1
_ENTRY_BYTES = 8


class Pagemap(Owner):
    """The physical addresses of this process's memory, as the kernel tells them. Raises SetupError."""

    def __init__(self, path: str | Path = PAGEMAP) -> None:
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            absent = "it needs a kernel with CONFIG_PROC_PAGE_MONITOR=y" if error.errno == errno.ENOENT else None
            raise SetupError.refused(f"cannot open {path}", error, remedy=absent) from error

    def physical_address(self, vaddr: int) -> int:
        """Where our address `vaddr` is in the machine's memory now.

        Raises SetupError when the kernel does not tell (a frame number of 0, without CAP_SYS_ADMIN), or when nothing
        is there: never an address that was not told.
        """
        entry = self._read_entry(vaddr // mmap.PAGESIZE)
        if not entry & _PRESENT:
            raise SetupError(f"the page at {vaddr:#x} is not in memory, so it has no physical address")
        frame = entry & _FRAME_BITS
        if not frame:
            raise SetupError(
                "the kernel hides physical addresses from this process: a page's frame number reads 0",
                errno=errno.EPERM,
                remedy="run as root, with CAP_SYS_ADMIN",
            )
        return frame * mmap.PAGESIZE + vaddr % mmap.PAGESIZE

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _read_entry(self, page: int) -> int:
        try:
            data = os.pread(self._fd, _ENTRY_BYTES, page * _ENTRY_BYTES)
        except OSError as error:
            raise SetupError.refused("cannot read the physical address of a page", error) from error
        if len(data) != _ENTRY_BYTES:
            raise SetupError(f"the kernel tells no physical address of {page * mmap.PAGESIZE:#x}")
        return int.from_bytes(data, "little")


class PhysicalMemory(Owner):
    """Zeroed memory of whole huge pages, at least `size` bytes, in this process and at `physical[i]` each.

    It is a file that has no name: nothing of it is left in hugetlbfs, however we die. It is locked, a child process
    does not inherit it, and it is not touched before the kernel has shown that all of it is there. `address` and `size`
    (bytes) never change. `keeper` is called with its descriptor, for who keeps the pages after our death.
    Raises DmaError when no huge page is free, SetupError where addresses are not told.
    """

    def __init__(self, size: int, pagemap: Pagemap, keeper: Keeper | None = None) -> None:
        self._pagemap = pagemap
        self._map = _map_huge_pages(-(-size // HUGE_PAGE) * HUGE_PAGE, keeper)
        self.size = len(self._map)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        try:
            self._map.madvise(mmap.MADV_DONTFORK)
            _lock(self.address, self.size)
            self.physical = self._read_addresses()
        except BaseException:
            self.close()
            raise

    @property
    def contiguous(self) -> bool:
        """Whether the pages are neighbours in this order, so that a device sees one stretch."""
        first = self.physical[0]
        return all(at == first + index * HUGE_PAGE for index, at in enumerate(self.physical))

    def verify(self) -> None:
        """Ask the kernel again. Raises DmaError when a page has moved: the device would write what is not ours."""
        now = self._read_addresses()
        if now != self.physical:
            old, new = next((old, new) for old, new in zip(self.physical, now, strict=True) if old != new)
            raise DmaError(f"a pinned page moved from {old:#x} to {new:#x}", errno=errno.EFAULT)

    def close(self) -> None:
        """Unmap; the pages are free again. Idempotent; nothing may use the addresses afterwards."""
        self._anchor = None
        self._map.close()

    def _read_addresses(self) -> tuple[int, ...]:
        starts = range(self.address, self.address + self.size, HUGE_PAGE)
        found = tuple(self._pagemap.physical_address(start) for start in starts)
        for at in found:
            if at % HUGE_PAGE:
                raise SetupError(f"the page at physical address {at:#x} is not a huge page of {HUGE_PAGE >> 10} KiB")
        return found


class PhysicalHal(BounceHal):
    """A BounceHal whose device addresses are physical addresses. The registers are left to a subclass.

    There is no direction to enforce, so all memory comes from the same pages.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pagemap = Pagemap()
        self.memory_keeper: Keeper | None = None
        """Called with the descriptor of all memory that the device can reach, before it can."""

    def check(self) -> None:
        """Raises DmaError when memory has moved in the machine."""
        for arenas in self._arenas.values():
            for arena in arenas:
                _verify(arena)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._pagemap.close()

    def _allocate(self, size: int, direction: BufferDirection) -> tuple[Arena, int]:
        arena, offset = super()._allocate(size, BufferDirection.Both)
        try:
            _verify(arena)
        except BaseException:
            with suppress(DmaError):
                arena.release(offset)
            raise
        return arena, offset

    def _new_arena(self, size: int, direction: BufferDirection) -> Arena:
        return physical_arena(size, self._pagemap, self.memory_keeper)

    def _free_arena(self, arena: Arena) -> None:
        if isinstance(arena.owner, PhysicalMemory):
            arena.owner.close()


def physical_arena(size: int, pagemap: Pagemap, keeper: Keeper | None = None) -> Arena:
    """An arena whose device address is its physical address. Raises DmaError, SetupError."""
    memory = PhysicalMemory(size, pagemap, keeper)
    if not memory.contiguous:
        pages = len(memory.physical)
        memory.close()
        raise DmaError(
            f"{size >> 10} KiB in one piece for the device need {pages} huge pages side by side, and the ones that are "
            "free are not",
            remedy=f"use smaller requests or queues, or make more pages: {MAKE_HUGE_PAGES}",
        )
    return Arena(memory.address, memory.physical[0], memory.size, memory)


def _verify(arena: Arena) -> None:
    if isinstance(arena.owner, PhysicalMemory):
        arena.owner.verify()


def _map_huge_pages(size: int, keeper: Keeper | None) -> mmap.mmap:
    """Map that many bytes, present from the start where there are enough pages."""
    try:
        fd = create_huge_file()
        try:
            os.ftruncate(fd, size)
            mapping = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            if keeper is not None:
                keeper(fd)
            return mapping
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise _none_free(size) from error
        raise DmaError.refused("cannot make memory of huge pages", error, remedy=MAKE_HUGE_PAGES) from error


def create_huge_file() -> int:
    """The descriptor of an empty file in memory, without a name, whose pages are huge."""
    return os.memfd_create("hwloop-dma", os.MFD_CLOEXEC | os.MFD_HUGETLB | os.MFD_HUGE_2MB)


def _none_free(size: int) -> DmaError:
    count = size // HUGE_PAGE
    return DmaError(
        f"{count} huge page{'s' if count > 1 else ''} of {HUGE_PAGE >> 10} KiB for the device's memory: not free",
        remedy=f"make some: {MAKE_HUGE_PAGES}",
    )


def _lock(address: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)):
        code = ctypes.get_errno()
        raise DmaError(
            f"cannot lock {size >> 10} KiB of memory for the device: {os.strerror(code)}",
            errno=code,
            remedy="raise the limit with: ulimit -l unlimited (or LimitMEMLOCK= of the service)",
        )
