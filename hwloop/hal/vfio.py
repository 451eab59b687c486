"""Memory and registers of a PCI function through VFIO with a type 1 IOMMU.

The IOMMU confines the device to what is mapped here, in the direction it was mapped for, so this is the safest way to
drive real hardware. One container, one group and one device a HAL.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hwloop.errors import AlreadyUsed, DmaError, InvalidParam, SetupError
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.arena import Arena
from hwloop.hal.base import BounceHal, BufferDirection
from hwloop.hal.iova import IovaAllocator
from hwloop.hal.memory import HUGE_PAGE, AnonymousMemory
from hwloop.hal.physical import Pagemap, physical_arena
from hwloop.owner import Owner
from mmio import FdRegion, MappedFile, Window
from pci import FdConfigAccess, IoBar, MemoryBar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmio import Region
    from pci import BarInfo

_MAP_FLAGS = {
    BufferDirection.DriverToDevice: vfio.MAP_READ,
    BufferDirection.DeviceToDriver: vfio.MAP_WRITE,
    BufferDirection.Both: vfio.MAP_READ | vfio.MAP_WRITE,
}

# Kernels before 4.15 do not report ranges: this window is free of the MSI hole on every IOMMU that Linux drives.
_RANGES_WHEN_NOT_TOLD = [(0, 0xFEDF_FFFF)]


class VfioHal(BounceHal):
    """The HAL of the function at `address` (such as `0000:00:05.0`), which must be bound to vfio-pci.

    `group` is its IOMMU group, `bars` what the function decodes. Raises SetupError with the remedy when VFIO or the
    IOMMU is missing or the group is not viable, AlreadyUsed when another process has it.
    """

    name = "vfio"

    def __init__(self, address: str, group: int, bars: Mapping[int, BarInfo], dev: str = "/dev") -> None:
        super().__init__()
        self.address = address
        self._bars = bars
        self._pagemap: Pagemap | None = None
        with ExitStack() as stack:
            self._container = _open_container(dev)
            stack.callback(os.close, self._container)
            self._group = _open_group(dev, group)
            stack.callback(os.close, self._group)
            _join(self._group, self._container, group)
            self._device = _open_device(self._group, address)
            stack.callback(os.close, self._device)
            self.info = vfio.iommu_info(self._container)
            self._iovas = IovaAllocator(self.info.ranges or _RANGES_WHEN_NOT_TOLD)
            self._resources = stack.pop_all()

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
            vfio.map_dma(self._container, arena.vaddr, arena.iova, arena.size, _MAP_FLAGS[direction])
        except OSError as error:
            self._drop(arena)
            raise _map_error(error, size) from error
        return arena

    def _arena_anywhere(self, size: int) -> Arena:
        memory = AnonymousMemory(size)
        return Arena(memory.address, self._iovas.allocate(memory.size, HUGE_PAGE), memory.size, memory)

    def _free_arena(self, arena: Arena) -> None:
        vfio.unmap_dma(self._container, arena.iova, arena.size)
        self._drop(arena)

    def _drop(self, arena: Arena) -> None:
        if isinstance(arena.owner, AnonymousMemory):
            self._iovas.release(arena.iova)
        if isinstance(arena.owner, Owner):
            arena.owner.close()


def _open_container(dev: str) -> int:
    path = f"{dev}/vfio/vfio"
    try:
        container = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        remedy = "run as root" if error.errno in (errno.EACCES, errno.EPERM) else "modprobe vfio-pci"
        raise SetupError.refused(f"cannot open {path}", error, remedy=remedy) from error
    try:
        if vfio.api_version(container) == vfio.API_VERSION and vfio.has_extension(container, vfio.TYPE1V2_IOMMU):
            return container
        raise SetupError(
            "this kernel's VFIO has no type 1 version 2 IOMMU", remedy="modprobe vfio_iommu_type1, then try again"
        )
    except BaseException:
        os.close(container)
        raise


def _open_group(dev: str, group: int) -> int:
    path = f"{dev}/vfio/{group}"
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise AlreadyUsed(
                f"IOMMU group {group} is in use by another process", remedy=f"find it with: fuser -v {path}"
            ) from error
        remedy = "run as root" if error.errno in (errno.EACCES, errno.EPERM) else "bind the device to vfio-pci first"
        raise SetupError.refused(f"cannot open {path}", error, remedy=remedy) from error


def _join(group_fd: int, container: int, group: int) -> None:
    if not vfio.group_flags(group_fd) & vfio.GROUP_FLAG_VIABLE:
        raise SetupError(
            f"IOMMU group {group} is not viable: another device in it is bound to a kernel driver",
            remedy=f"see them with: ls /sys/kernel/iommu_groups/{group}/devices; unbind them or bind them to vfio-pci",
        )
    try:
        vfio.set_container(group_fd, container)
        vfio.set_iommu(container, vfio.TYPE1V2_IOMMU)
    except OSError as error:
        raise _join_error(error, group) from error


def _join_error(error: OSError, group: int) -> AlreadyUsed | SetupError:
    if error.errno == errno.EBUSY:
        return AlreadyUsed(f"IOMMU group {group} is in another container", remedy="end the process that has it")
    problem = f"the IOMMU of group {group} cannot be used: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EPERM:
        return SetupError(
            f"{problem}, which the kernel says of one that cannot remap interrupts",
            errno=error.errno,
            remedy="turn interrupt remapping on, or where that is no danger: "
            "echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
        )
    return SetupError(problem, errno=error.errno, remedy="see: dmesg | grep -i -e vfio -e iommu")


def _open_device(group_fd: int, address: str) -> int:
    try:
        return vfio.device_fd(group_fd, address)
    except OSError as error:
        remedy = f"bind it first: hwloop bind {address} --driver vfio-pci"
        raise SetupError.refused(f"VFIO does not give out {address}", error, remedy=remedy) from error


def _map_error(error: OSError, size: int) -> DmaError:
    if error.errno == errno.ENOMEM:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        shown = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit >> 10} KiB"
        return DmaError(
            f"cannot pin {size >> 10} KiB for the device: the limit of locked memory is {shown}",
            remedy="raise it with: ulimit -l unlimited (or LimitMEMLOCK= of the service)",
        )
    return DmaError(f"cannot map {size >> 10} KiB for the device: {error.strerror}", errno=error.errno)
