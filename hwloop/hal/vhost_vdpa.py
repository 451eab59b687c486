"""Memory of a vDPA device that the kernel's vhost_vdpa driver holds: a node such as /dev/vhost-vdpa-0.

The kernel checks every mapping, and takes all of them back when the node is closed. Behind the node may be a network
card or a process (VDUSE), so memory is a file's: a process can only be given that.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hwloop.errors import AlreadyUsed, DeviceLost, DmaError, InvalidParam, SetupError, Unsupported
from hwloop.forked import disown_in_children, keep_no_longer
from hwloop.hal import vhost_vdpa_ioctl as vdpa
from hwloop.hal.arena import Arena
from hwloop.hal.base import BounceHal, BufferDirection
from hwloop.hal.eventfd_interrupt import EventfdInterrupt, new_eventfd
from hwloop.hal.iova import IovaAllocator
from hwloop.hal.memory import HUGE_PAGE, FileMemory
from hwloop.hal.registered import CallersMemory
from hwloop.hal.vfio_function import describe_locked_limit, open_node
from hwloop.hal.vhost_vdpa_ioctl import Access, BackendFeature
from hwloop.spec import PAGE_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from hwloop.hal.interrupt import Interrupt
    from mmio import Region

_WANTED = BackendFeature.IOTLB_MSG_V2 | BackendFeature.IOTLB_PERSIST
_MOST_VECTORS = 1 << 11

# A device may read what it writes: back ends in software do, in their used ring.
_ACCESS = {
    BufferDirection.DriverToDevice: Access.RO,
    BufferDirection.DeviceToDriver: Access.RW,
    BufferDirection.Both: Access.RW,
}


class VhostVdpaHal(BounceHal):
    """The HAL of the device behind the node `path`, and the owner of its descriptor.

    Raises SetupError with the remedy when there is no such node or the kernel is too old, AlreadyUsed when another
    process has it: the kernel gives it to one at a time, and resets it then.
    """

    name = "vhost-vdpa"

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = str(path)
        self._lines: dict[int | None, int] = {}
        self._resources = ExitStack()
        self._fd = -1
        with ExitStack() as stack:
            self._fd = _open(self.path)
            stack.callback(os.close, self._fd)
            self._iovas = IovaAllocator([_prepare(self._fd, self.path)])
            self.config_line = new_eventfd(stack)
            self._resources = stack.pop_all()
        disown_in_children(self)

    @property
    def fd(self) -> int:
        """The node's descriptor. Raises DeviceLost when it is closed, or was left to the process that opened it."""
        if self._fd < 0:
            raise DeviceLost(f"{self.path} is not open in this process any more")
        return self._fd

    def call_line(self, vector: int | None) -> int:
        """The eventfd that queues with this vector are to call, or those without one. Raises InvalidParam."""
        if vector is not None and not 0 <= vector < _MOST_VECTORS:
            raise InvalidParam(f"there is no vector {vector}", remedy=f"give a number from 0 to {_MOST_VECTORS - 1}")
        if vector not in self._lines:
            self._lines[vector] = new_eventfd(self._resources)
        return self._lines[vector]

    def interrupt(self, vector: int | None = None) -> Interrupt:
        """The call of the queues whose vector is `vector`; without one, changes of the configuration come there too.

        The kernel calls once when the device becomes ready, for nothing. Raises InvalidParam for no vector.
        """
        return EventfdInterrupt(self.call_line(vector), self.config_line if vector is None else None)

    def vectors(self, wanted: int) -> int:
        return min(wanted, _MOST_VECTORS)

    def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
        raise Unsupported(f"a vhost-vdpa device has no registers in memory, so none at {paddr:#x}")

    def disown(self) -> None:
        """In a child: the device, its mappings and its memory are the parent's."""
        self.quarantine()
        self._fd = -1
        self._resources.close()

    def close(self) -> None:
        keep_no_longer(self)
        try:
            super().close()
        finally:
            # The kernel resets the device at the end of the descriptor, and takes every mapping from it.
            self._fd = -1
            self._resources.close()

    def _new_arena(self, size: int, direction: BufferDirection) -> Arena:
        memory = FileMemory(size)
        arena = Arena(memory.address, self._iovas.allocate(memory.size, HUGE_PAGE), memory.size, memory)
        try:
            vdpa.map_memory(self.fd, arena.vaddr, arena.iova, arena.size, _ACCESS[direction])
        except OSError as error:
            self._drop(arena)
            raise _map_error(error, size) from error
        return arena

    def _adopt(self, memory: CallersMemory) -> Arena:
        """A device that is a process can be given no memory but that of a file that is shared."""
        arena = Arena(memory.address, self._iovas.allocate(memory.size, PAGE_SIZE), memory.size, memory)
        try:
            vdpa.map_memory(self.fd, arena.vaddr, arena.iova, arena.size, Access.RO if memory.read_only else Access.RW)
        except OSError as error:
            self._iovas.release(arena.iova)
            raise _map_error(error, memory.size) from error
        return arena

    def _free_arena(self, arena: Arena) -> None:
        try:
            vdpa.unmap_memory(self.fd, arena.iova, arena.size)
        finally:
            self._drop(arena)

    def _drop(self, arena: Arena) -> None:
        self._iovas.release(arena.iova)
        if isinstance(arena.owner, (FileMemory, CallersMemory)):
            arena.owner.close()


def _open(path: str) -> int:
    try:
        return open_node(path, missing="modprobe vhost_vdpa, and give it the device: see `vdpa dev`")
    except SetupError as error:
        if error.errno == errno.EBUSY:
            raise AlreadyUsed(
                f"{path} is in use by another process", remedy=f"find it with: fuser -v {path}"
            ) from error
        raise


def _prepare(fd: int, path: str) -> tuple[int, int]:
    """Own the device and agree on how mappings are told; the range of its addresses. Raises SetupError."""
    try:
        vdpa.set_owner(fd)
        offered = vdpa.read_backend_features(fd)
        if not offered & BackendFeature.IOTLB_MSG_V2:
            raise SetupError(f"{path} takes no mappings by messages of version 2 (it offers {offered:#x})")
        vdpa.write_backend_features(fd, offered & _WANTED)
        return vdpa.read_iova_range(fd)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            raise SetupError(
                f"{path} is no vhost-vdpa node, or its kernel is too old",
                errno=error.errno,
                remedy="see: ls /dev/vhost-vdpa-*",
            ) from error
        if isinstance(error, SetupError):
            raise
        raise SetupError.refused(f"cannot own {path}", error) from error


def _map_error(error: OSError, size: int) -> DmaError:
    if error.errno == errno.EFAULT:
        return DmaError(
            f"the kernel did not map {size >> 10} KiB for the device, and does not say why; the limit of locked memory "
            f"is {describe_locked_limit()}",
            errno=errno.EFAULT,
            remedy="raise it with: ulimit -l unlimited (or LimitMEMLOCK= of the service); see: dmesg | grep -i vdpa",
        )
    return DmaError(f"cannot map {size >> 10} KiB for the device: {error.strerror}", errno=error.errno)
