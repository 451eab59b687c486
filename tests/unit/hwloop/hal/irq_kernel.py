"""The interrupts of VFIO in a model of the kernel, as strict as drivers/vfio/pci/vfio_pci_intrs.c."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

from hwloop.hal import vfio_ioctl as vfio

NAMES = {vfio.PCI_INTX: "intx", vfio.PCI_MSI: "msi", vfio.PCI_MSIX: "msix", vfio.PCI_ERR: "err", vfio.PCI_REQ: "req"}
SEEN = (vfio.PCI_INTX, vfio.PCI_MSI, vfio.PCI_MSIX)
DATA_BITS, ACTION_BITS = 0x07, 0x38


class IrqKernel:
    """A function with so many interrupts of each kind; `available` is how many vectors the machine has for it.

    `enabled` is the kind that is on, `eventfds` who is told of what, `masked` whether INTx is.
    """

    def __init__(self, available: int = 64, **counts: int) -> None:
        self.counts = {"intx": 1, "msi": 0, "msix": 3, "err": 1, "req": 1} | counts
        self.available = available
        self.enabled: int | None = None
        self.allocated = 0
        self.masked = False
        self.raised = False
        self.eventfds: dict[tuple[int, int], int] = {}
        self.calls: list[str] = []
        self.fail: dict[int, int] = {}

    def ioctl(self, fd: int, request: int, argument: Any = 0) -> Any:
        """As `fcntl.ioctl`, which returns the kernel's number only where the argument is one that it can change."""
        number = self._ioctl(request, argument)
        return number if isinstance(argument, bytearray) else bytes(argument)

    def _ioctl(self, request: int, argument: Any) -> int:
        if request == vfio.DEVICE_GET_IRQ_INFO:
            return self._info(argument)
        assert request == vfio.DEVICE_SET_IRQS
        size, flags, index, start, count = struct.unpack_from("=5I", argument)
        data = bytes(argument[20:])
        assert size == len(argument)
        if index in self.fail:
            raise OSError(self.fail[index], os.strerror(self.fail[index]))
        _refuse_unless(index in NAMES and start + count <= max(1, self.counts[NAMES[index]]))
        if flags & vfio.IRQ_SET_ACTION_TRIGGER:
            return self._trigger(flags, index, start, list(struct.unpack(f"={len(data) // 4}i", data)), count)
        _refuse_unless(index == vfio.PCI_INTX and self.enabled == index and (start, count) == (0, 1))
        self._mask(bool(flags & vfio.IRQ_SET_ACTION_MASK))
        return 0

    def fire(self, index: int, number: int = 0) -> bool:
        """The device interrupts; whether anybody is told."""
        if index == vfio.PCI_INTX:
            self.raised = True
            return self._pass_on()
        return self._write(index, number)

    def lower(self) -> None:
        self.raised = False

    def _pass_on(self) -> bool:
        if not self.raised or self.masked:
            return False
        self.masked = True
        return self._write(vfio.PCI_INTX, 0)

    def _write(self, index: int, number: int) -> bool:
        fd = self.eventfds.get((index, number), vfio.NO_EVENTFD)
        if fd >= 0:
            os.eventfd_write(fd, 1)
        return fd >= 0

    def _info(self, argument: bytearray) -> int:
        index = struct.unpack("=4I", argument)[2]
        _refuse_unless(index in NAMES)
        flags = vfio.IRQ_EVENTFD | (vfio.IRQ_AUTOMASKED if index == vfio.PCI_INTX else vfio.IRQ_NORESIZE)
        argument[:] = struct.pack("=4I", 16, flags, index, self.counts[NAMES[index]])
        return 0

    def _trigger(self, flags: int, index: int, start: int, eventfds: list[int], count: int) -> int:
        self.calls.append(f"{NAMES[index]} {start}+{count}")
        if not count:
            _refuse_unless(bool(flags & vfio.IRQ_SET_DATA_NONE) and self.enabled == index)
            self.enabled = None
            self.eventfds = {key: fd for key, fd in self.eventfds.items() if key[0] != index}
            return 0
        _refuse_unless(bool(flags & vfio.IRQ_SET_DATA_EVENTFD) and len(eventfds) == count)
        if index in SEEN and self.enabled != index:
            _refuse_unless(self.enabled is None)
            if index != vfio.PCI_INTX and start + count > self.available:
                return self.available
            self.enabled, self.allocated, self.masked = index, start + count, False
        _refuse_unless(index not in SEEN or start + count <= self.allocated)
        for offset, fd in enumerate(eventfds):
            self.eventfds[index, start + offset] = fd
        return 0

    def _mask(self, on: bool) -> None:
        self.masked = on
        self._pass_on()


def _refuse_unless(allowed: bool) -> None:
    if not allowed:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
