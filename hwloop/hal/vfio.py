"""Memory and registers of a PCI function through VFIO with a type 1 IOMMU.

The IOMMU confines the device to what is mapped here, in the direction it was mapped for, so this is the safest way to
drive real hardware. One container, one group and one device a HAL.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hwloop.errors import AlreadyUsed, SetupError
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.base import BufferDirection
from hwloop.hal.iova import IovaAllocator
from hwloop.hal.vfio_function import ConfinedFunction
from hwloop.hal.vfio_group import open_container, open_device, open_group
from hwloop.hal.vfio_interrupt import VfioInterrupts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwloop.hal.arena import Arena
    from pci import BarInfo

_MAP_FLAGS = {
    BufferDirection.DriverToDevice: vfio.MAP_READ,
    BufferDirection.DeviceToDriver: vfio.MAP_WRITE,
    BufferDirection.Both: vfio.MAP_READ | vfio.MAP_WRITE,
}

# Kernels before 4.15 do not report ranges: this window is free of the MSI hole on every IOMMU that Linux drives.
_RANGES_WHEN_NOT_TOLD = [(0, 0xFEDF_FFFF)]


class VfioHal(ConfinedFunction):
    """The HAL of the function at `address` (such as `0000:00:05.0`), which must be bound to vfio-pci.

    `group` is its IOMMU group, `bars` what the function decodes. Raises SetupError with the remedy when VFIO or the
    IOMMU is missing or the group is not viable, AlreadyUsed when another process has it.
    """

    name = "vfio"

    def __init__(self, address: str, group: int, bars: Mapping[int, BarInfo], dev: str = "/dev") -> None:
        super().__init__(address, bars)
        with ExitStack() as stack:
            self._container = open_container(dev)
            stack.callback(os.close, self._container)
            _check_type1(self._container)
            self._group = open_group(f"{dev}/vfio/{group}", f"IOMMU group {group}")
            stack.callback(os.close, self._group)
            _join(self._group, self._container, group)
            self._device = open_device(self._group, address)
            stack.callback(os.close, self._device)
            self.info = vfio.iommu_info(self._container)
            self._iovas = IovaAllocator(self.info.ranges or _RANGES_WHEN_NOT_TOLD)
            self._interrupts = stack.enter_context(VfioInterrupts(self._device, address))
            self._resources = stack.pop_all()

    def _map(self, arena: Arena, direction: BufferDirection) -> None:
        vfio.map_dma(self._container, arena.vaddr, arena.iova, arena.size, _MAP_FLAGS[direction])

    def _unmap(self, arena: Arena) -> None:
        vfio.unmap_dma(self._container, arena.iova, arena.size)


def _check_type1(container: int) -> None:
    if not vfio.has_extension(container, vfio.TYPE1V2_IOMMU):
        raise SetupError(
            "this kernel's VFIO has no type 1 version 2 IOMMU", remedy="modprobe vfio_iommu_type1, then try again"
        )


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
