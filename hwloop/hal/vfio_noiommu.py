"""Memory and registers of a PCI function through VFIO without an IOMMU (CONFIG_VFIO_NOIOMMU).

Registers come through VFIO; device addresses are physical ones, of huge pages. Nothing confines the device: it can
read and write all memory of the machine, a wrong address included, and the kernel marks itself as tainted for that.
Where there is an IOMMU, use it; where there is none, UIO is no less safe and needs no such mode. Debian's kernels do
not have it: this is tested on a model of the kernel's calls, and has not met a real kernel.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hwloop.errors import SetupError
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.physical import PhysicalHal
from hwloop.hal.vfio_function import VfioFunction
from hwloop.hal.vfio_group import open_container, open_device, open_group
from hwloop.hal.vfio_interrupt import VfioInterrupts
from udev import ENABLE_NOIOMMU_MODE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pci import BarInfo

log = logging.getLogger("hwloop.hal")


class VfioNoIommuHal(VfioFunction, PhysicalHal):
    """The HAL of the function at `address` (such as `0000:00:05.0`), which must be bound to vfio-pci.

    `group` is the number that VFIO gave it (`/dev/vfio/noiommu-0`), `bars` what the function decodes. Needs
    CAP_SYS_RAWIO. Raises SetupError with the remedy when the mode is off or this process may not use it, AlreadyUsed
    when another process has the function.
    """

    name = "vfio-noiommu"

    def __init__(self, address: str, group: int, bars: Mapping[int, BarInfo], dev: str = "/dev") -> None:
        super().__init__(address, bars)
        with ExitStack() as stack:
            stack.callback(self._pagemap.close)
            container = open_container(dev)
            stack.callback(os.close, container)
            _check_mode(container)
            group_fd = _open_group(f"{dev}/vfio/noiommu-{group}")
            stack.callback(os.close, group_fd)
            _join(group_fd, container, address)
            self._device = open_device(group_fd, address)
            stack.callback(os.close, self._device)
            log.warning("no IOMMU confines %s: it can read and write all memory of this machine", address)
            self._interrupts = stack.enter_context(VfioInterrupts(self._device, address))
            self._resources = stack.pop_all()


def _check_mode(container: int) -> None:
    """VFIO offers the mode only while it is on (Linux, drivers/vfio/container.c)."""
    if not vfio.has_extension(container, vfio.NOIOMMU_IOMMU):
        raise SetupError(
            "VFIO hands out nothing without an IOMMU: its unsafe mode is off, or this kernel has none",
            errno=errno.EOPNOTSUPP,
            remedy=f"use hal=uio, or: {ENABLE_NOIOMMU_MODE}",
        )


def _open_group(path: str) -> int:
    try:
        return open_group(path, path)
    except SetupError as error:
        if error.errno == errno.EPERM:
            raise SetupError(error.problem, errno=errno.EPERM, remedy="run as root, with CAP_SYS_RAWIO") from error
        raise


def _join(group_fd: int, container: int, address: str) -> None:
    try:
        vfio.set_container(group_fd, container)
        vfio.set_iommu(container, vfio.NOIOMMU_IOMMU)
    except OSError as error:
        remedy = "run as root, with CAP_SYS_RAWIO" if error.errno == errno.EPERM else "see: dmesg | grep -i vfio"
        raise SetupError.refused(f"{address} cannot be used without an IOMMU", error, remedy=remedy) from error
