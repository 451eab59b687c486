"""What every HAL over VFIO has: the registers of a PCI function, and memory that an IOMMU maps for it."""

from __future__ import annotations

import errno
import os
import resource
from abc import abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hwloop.errors import DmaError, InvalidParam, SetupError
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.arena import Arena
from hwloop.hal.base import BounceHal, BufferDirection
from hwloop.hal.memory import HUGE_PAGE, AnonymousMemory
from hwloop.hal.physical import Pagemap, physical_arena
from hwloop.hal.registered import CallersMemory
from hwloop.hal.vfio_interrupt import VfioInterrupt, VfioInterrupts
from hwloop.owner import Owner
from hwloop.spec import PAGE_SIZE
from mmio import FdRegion, MappedFile, Window
from pci import FdConfigAccess, IoBar, MemoryBar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwloop.hal.iova import IovaAllocator
    from mmio import Region
    from pci import BarInfo

IOMMU_NODE = "iommu"
"""The node below /dev that a kernel with iommufd has."""


class VfioFunction(BounceHal):
    """A HAL whose registers are those of the function at `address`, behind a VFIO device's descriptor.

    `bars` is what the function decodes. A subclass opens the device in its constructor: it sets `_device`, its
    `_interrupts`, and `_resources` to what is closed last.
    """

    _device: int
    _interrupts: VfioInterrupts
    _resources: ExitStack

    def __init__(self, address: str, bars: Mapping[int, BarInfo]) -> None:
        super().__init__()
        self.address = address
        self._bars = bars

    def config_access(self) -> FdConfigAccess:
        """The function's configuration space."""
        region = vfio.region_info(self._device, vfio.PCI_CONFIG_REGION)
        return FdConfigAccess(self._device, region.offset, region.size)

    def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
        """Registers inside a BAR of the function. Those that are not `hot` go through the device's descriptor: each
        access is then a system call, and one to a device that has gone is an error instead of a SIGBUS."""
        bar = self._bar_of(MemoryBar, paddr, size)
        region = vfio.region_info(self._device, bar.index)
        offset = paddr - bar.address
        if hot and region.flags & vfio.REGION_FLAG_MMAP:
            return MappedFile(self._device, region.offset + offset, size)
        return Window(FdRegion(self._device, region.offset, region.size), offset, size)

    def port_region(self, port: int, size: int) -> Region:
        """Registers inside an I/O BAR of the function; each access is a system call of exactly its width."""
        bar = self._bar_of(IoBar, port, size)
        region = vfio.region_info(self._device, bar.index)
        return Window(FdRegion(self._device, region.offset, region.size), port - bar.address, size)

    def interrupt(self, vector: int | None = None) -> VfioInterrupt | None:
        """MSI-X vector `vector`, or the line: MSI, or INTx. Raises InvalidParam, AlreadyUsed, SetupError."""
        return self._interrupts.line() if vector is None else self._interrupts.vector(vector)

    def vectors(self, wanted: int) -> int:
        return self._interrupts.vectors(wanted)

    @property
    def removal_requested(self) -> bool:
        return self._interrupts.removal_requested

    @property
    def request_fd(self) -> int | None:
        return self._interrupts.request_fd

    def check(self) -> None:
        """Raises DeviceLost when the kernel has told of an error of the function."""
        self._interrupts.check()
        super().check()

    def reset(self) -> None:
        """Reset the function, where it can be reset by itself. Raises SetupError."""
        if not vfio.device_flags(self._device) & vfio.DEVICE_FLAG_RESET:
            raise SetupError(f"{self.address} cannot be reset by VFIO", errno=errno.EOPNOTSUPP)
        vfio.reset_device(self._device)

    def close(self) -> None:
        try:
            super().close()
        finally:
            # Closing the device's last descriptor clears bus mastering and resets the function
            # (vfio_pci_core_disable); left open, it would keep vfio-pci from giving the device back.
            self._resources.close()

    def _bar_of(self, kind: type[BarInfo], paddr: int, size: int) -> BarInfo:
        for bar in self._bars.values():
            if (
                isinstance(bar, kind)
                and bar.address
                and bar.address <= paddr
                and paddr + size <= bar.address + bar.size
            ):
                return bar
        raise InvalidParam(f"{size:#x} bytes at {paddr:#x} are in no {kind.__name__} of {self.address}")


class ConfinedFunction(VfioFunction):
    """A function whose memory an IOMMU maps, in the direction it was asked for, and confines it to.

    A subclass sets `_iovas` when it has opened the device, and implements `_map` and `_unmap`.
    """

    _iovas: IovaAllocator

    def __init__(self, address: str, bars: Mapping[int, BarInfo]) -> None:
        super().__init__(address, bars)
        self._pagemap: Pagemap | None = None

    @abstractmethod
    def _map(self, arena: Arena, direction: BufferDirection) -> None:
        """Map the arena at its device address. Raises the kernel's OSError."""

    @abstractmethod
    def _unmap(self, arena: Arena) -> None:
        """Take the arena from the device. Raises the kernel's OSError."""

    def use_physical_addresses(self) -> None:
        """Map memory at its physical addresses from now on, which need huge pages; before any of it is allocated.

        For a device that may go past the IOMMU, as QEMU's do without VIRTIO_F_ACCESS_PLATFORM: such an address is
        right either way, and any other one would be somebody else's memory. Raises SetupError.
        """
        assert not any(self._arenas.values()), "memory was mapped elsewhere already"
        self._pagemap = self._resources.enter_context(Pagemap())

    def _new_arena(self, size: int, direction: BufferDirection) -> Arena:
        arena = self._arena_anywhere(size) if self._pagemap is None else physical_arena(size, self._pagemap)
        try:
            self._map(arena, direction)
        except OSError as error:
            self._drop(arena)
            raise _map_error(error, size) from error
        return arena

    def _adopt(self, memory: CallersMemory) -> Arena | None:
        if self._pagemap is not None:
            return None  # A device that may go past the IOMMU: it would find somebody else's pages there.
        arena = Arena(memory.address, self._iovas.allocate(memory.size, PAGE_SIZE), memory.size, memory)
        try:
            self._map(arena, BufferDirection.DriverToDevice if memory.read_only else BufferDirection.Both)
        except OSError as error:
            self._iovas.release(arena.iova)
            raise _map_error(error, memory.size) from error
        return arena

    def _arena_anywhere(self, size: int) -> Arena:
        memory = AnonymousMemory(size)
        return Arena(memory.address, self._iovas.allocate(memory.size, HUGE_PAGE), memory.size, memory)

    def _free_arena(self, arena: Arena) -> None:
        self._unmap(arena)
        self._drop(arena)

    def _drop(self, arena: Arena) -> None:
        if isinstance(arena.owner, (AnonymousMemory, CallersMemory)):
            self._iovas.release(arena.iova)
        if isinstance(arena.owner, Owner):
            arena.owner.close()


def describe_locked_limit() -> str:
    """How much memory this process may lock, for a message about memory that could not be pinned."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit >> 10} KiB"


def open_node(path: str, *, missing: str) -> int:
    """The descriptor of a device node. Raises SetupError; `missing` is the remedy unless it is one of permission."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        remedy = "run as root" if error.errno in (errno.EACCES, errno.EPERM) else missing
        raise SetupError.refused(f"cannot open {path}", error, remedy=remedy) from error


def _map_error(error: OSError, size: int) -> DmaError:
    if error.errno == errno.ENOMEM:
        return DmaError(
            f"cannot pin {size >> 10} KiB for the device: the limit of locked memory is {describe_locked_limit()}",
            remedy="raise it with: ulimit -l unlimited (or LimitMEMLOCK= of the service)",
        )
    return DmaError(f"cannot map {size >> 10} KiB for the device: {error.strerror}", errno=error.errno)
