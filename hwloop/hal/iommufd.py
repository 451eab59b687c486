"""Memory and registers of a PCI function through iommufd and the device nodes of VFIO: no containers, no groups.

What the IOMMU enforces is the same as with `hwloop.hal.vfio`; the kernel's way to it is another one (Linux 6.6, with
CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV). Debian's kernels, up to 6.12, have neither: this is tested on a model of
the kernel's calls, and has not met a real kernel.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hwloop.errors import AlreadyUsed, SetupError
from hwloop.hal import iommufd_ioctl as iommufd
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.base import BufferDirection
from hwloop.hal.iova import IovaAllocator
from hwloop.hal.vfio_function import IOMMU_NODE, ConfinedFunction, open_node
from hwloop.hal.vfio_interrupt import VfioInterrupts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hwloop.hal.arena import Arena
    from pci import BarInfo

_MAP_FLAGS = {
    BufferDirection.DriverToDevice: iommufd.MAP_READABLE,
    BufferDirection.DeviceToDriver: iommufd.MAP_WRITEABLE,
    BufferDirection.Both: iommufd.MAP_READABLE | iommufd.MAP_WRITEABLE,
}


class IommufdHal(ConfinedFunction):
    """The HAL of the function at `address` (such as `0000:00:05.0`), which must be bound to vfio-pci.

    `node` is the function's own device node (`/dev/vfio/devices/vfio0`), `bars` what the function decodes. One iommufd
    with one address space a HAL. Raises SetupError with the remedy when the kernel has no iommufd or the IOMMU cannot
    be used, AlreadyUsed when another process has the function.
    """

    name = "iommufd"

    def __init__(self, address: str, node: str | Path, bars: Mapping[int, BarInfo], dev: str = "/dev") -> None:
        super().__init__(address, bars)
        with ExitStack() as stack:
            self._iommu = open_node(f"{dev}/{IOMMU_NODE}", missing="modprobe iommufd, or use hal=vfio")
            stack.callback(os.close, self._iommu)
            self._space = iommufd.allocate_space(self._iommu)
            stack.callback(iommufd.destroy, self._iommu, self._space)
            # From here on the device is closed before its address space ends: the kernel wants it so.
            self._device = open_node(str(node), missing=f"bind it first: hwloop bind {address} --driver vfio-pci")
            stack.callback(os.close, self._device)
            _bind(self._device, self._iommu, address)
            _attach(self._device, self._space, address)
            stack.callback(vfio.detach_space, self._device)
            self._iovas = IovaAllocator(iommufd.read_iova_ranges(self._iommu, self._space))
            self._interrupts = stack.enter_context(VfioInterrupts(self._device, address))
            self._resources = stack.pop_all()

    def _map(self, arena: Arena, direction: BufferDirection) -> None:
        flags = _MAP_FLAGS[direction]
        iommufd.map_memory(self._iommu, self._space, arena.vaddr, arena.iova, arena.size, flags)

    def _unmap(self, arena: Arena) -> None:
        iommufd.unmap_memory(self._iommu, self._space, arena.iova, arena.size)


def _bind(device: int, iommu: int, address: str) -> None:
    try:
        vfio.bind_iommufd(device, iommu)
    except OSError as error:
        raise _bind_error(error, address) from error


def _bind_error(error: OSError, address: str) -> AlreadyUsed | SetupError:
    if error.errno == errno.EBUSY:
        return AlreadyUsed(f"{address} or its IOMMU group is in use by another process", remedy="end that process")
    if error.errno == errno.EPERM:
        return SetupError(
            f"iommufd does not take {address}: its IOMMU group has another owner, or the IOMMU cannot remap interrupts",
            errno=error.errno,
            remedy="unbind what else is in the group, turn interrupt remapping on, or where that is no danger: "
            "echo 1 > /sys/module/iommufd/parameters/allow_unsafe_interrupts",
        )
    return _iommu_error(error, address)


def _attach(device: int, space: int, address: str) -> None:
    try:
        vfio.attach_space(device, space)
    except OSError as error:
        raise _iommu_error(error, address) from error


def _iommu_error(error: OSError, address: str) -> SetupError:
    what = f"the IOMMU of {address} cannot be used through iommufd"
    return SetupError.refused(what, error, remedy="use hal=vfio; see: dmesg | grep -i -e vfio -e iommu")
