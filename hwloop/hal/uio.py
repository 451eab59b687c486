"""Memory and registers of a PCI function through uio_pci_generic, where there is no IOMMU.

The kernel gives out the function's interrupt and keeps other drivers away; registers come through sysfs, and device
addresses are physical ones. Nothing confines the device to the memory it was given: prefer VFIO wherever it works.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import udev
from hwloop.errors import AlreadyUsed, DeviceLost, InvalidParam, SetupError
from hwloop.hal.physical import PhysicalHal
from hwloop.hal.uio_count import UioCount
from mmio import FdRegion, MappedFile, Window
from pci import Command, ConfigSpace, IoBar, MemoryBar, SysfsConfigAccess
from udev import Sysfs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmio import Region
    from pci import BarInfo

_INTERRUPT_PIN = 0x3D
_ALL_ONES = 0xFFFF


class UioHal(PhysicalHal):
    """The HAL of the function at `address` (such as `0000:00:05.0`), which must be bound to uio_pci_generic.

    `bars` is what the function decodes. Raises SetupError with the remedy when the function has no UIO device, or this
    process may not use it. The UIO device stays open as long as the HAL: when anybody closes it, the kernel turns the
    function's bus mastering off (Linux, drivers/uio/uio_pci_generic.c), which `check` notices.
    """

    name = "uio"

    def __init__(self, address: str, bars: Mapping[int, BarInfo], sysfs: Sysfs | None = None) -> None:
        super().__init__()
        self.address = address
        self._bars = bars
        self._sysfs = sysfs or Sysfs()
        self._ports: dict[int, int] = {}
        self._line: UioInterrupt | None = None
        with ExitStack() as stack:
            stack.callback(self._pagemap.close)
            self.node = _node_of(self._sysfs, address)
            # Not blocking: an interrupt that another process has read must not make us wait for the next.
            self._fd = _open(self.node, os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, self._fd)
            self._access = stack.enter_context(SysfsConfigAccess(self._folder / "config"))
            self._config = ConfigSpace(self._access)
            self._resources = stack.pop_all()

    def config_access(self) -> SysfsConfigAccess:
        """The function's configuration space; open until the HAL is closed."""
        return self._access

    def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
        """Registers inside a memory BAR of the function, mapped."""
        bar = self._bar_of(MemoryBar, paddr, size)
        return MappedFile(self._resource(bar), paddr - bar.address, size)

    def port_region(self, port: int, size: int) -> Region:
        """Registers inside an I/O BAR of the function; each access is a system call of exactly its width."""
        bar = self._bar_of(IoBar, port, size)
        return Window(FdRegion(self._port_fd(bar), 0, bar.size), port - bar.address, size)

    def interrupt(self, vector: int | None = None) -> UioInterrupt | None:
        """The function's INTx line; None for a vector, or for a function without a line.

        Raises SetupError when the kernel gave the function's line to nobody, AlreadyUsed while the line is in use.
        """
        if vector is not None or not self._config.read8(_INTERRUPT_PIN):
            return None
        if self._line is not None and not self._line.closed:
            raise AlreadyUsed(f"the interrupt of {self.address} is in use already")
        self._line = UioInterrupt(self._fd, str(self.node), self._config)
        return self._line

    def check(self) -> None:
        """Raises DeviceLost when the function is gone, or when its bus mastering was turned off behind our back."""
        command = self._read_command()
        if not command & Command.BUS_MASTER:
            raise DeviceLost(
                f"bus mastering of {self.address} was turned off behind our back, which the kernel does when any "
                f"process closes {self.node}",
                remedy=f"find out who uses it (fuser -v {self.node}), then open the device again",
            )
        super().check()

    def descriptors(self) -> list[int]:
        """What is open, for a child process that ends the device in our place."""
        return [self._fd, *self._ports.values(), *self._access.descriptors()]

    def close(self) -> None:
        """Interrupt off, bus mastering off, memory freed, descriptors closed, in this order. Idempotent."""
        with ExitStack() as steps:
            steps.callback(self._resources.close)
            steps.callback(super().close)
            steps.callback(self._quieten)

    def _quieten(self) -> None:
        if self._line is not None:
            self._line.close()
        with suppress(OSError):  # closed before, or gone from the bus: nothing is left to turn off
            self._config.set_command_bits(Command.INTERRUPT_DISABLE, Command.BUS_MASTER)

    def _read_command(self) -> Command:
        try:
            command = self._config.read_command()
        except OSError as error:
            raise DeviceLost(f"the configuration space of {self.address} does not answer: {error.strerror}") from error
        if command == _ALL_ONES:
            raise DeviceLost(f"{self.address} does not answer any more: its configuration space reads all ones")
        return command

    @property
    def _folder(self) -> Path:
        return self._sysfs.pci_device(self.address)

    def _resource(self, bar: BarInfo) -> Path:
        return self._folder / f"resource{bar.index}"

    def _port_fd(self, bar: BarInfo) -> int:
        """The descriptor of an I/O BAR, the same one for all its regions."""
        if bar.index not in self._ports:
            fd = _open(self._resource(bar), os.O_RDWR)
            self._resources.callback(os.close, fd)
            self._ports[bar.index] = fd
        return self._ports[bar.index]

    def _bar_of(self, kind: type[BarInfo], paddr: int, size: int) -> BarInfo:
        for bar in self._bars.values():
            if isinstance(bar, kind) and 0 < bar.address <= paddr and paddr + size <= bar.address + bar.size:
                return bar
        raise InvalidParam(f"{size:#x} bytes at {paddr:#x} are in no {kind.__name__} of {self.address}")


class UioInterrupt(UioCount):
    """INTx as uio_pci_generic passes it on; `config` is the function's configuration space."""

    kind = "intx"

    def __init__(self, fd: int, name: str, config: ConfigSpace) -> None:
        self._config = config
        super().__init__(fd, name)

    def _turn(self, on: bool) -> None:
        """Clear INTERRUPT_DISABLE (PCI 3.0, 6.2.2), which the kernel's handler has set, or set it."""
        off = Command.INTERRUPT_DISABLE
        self._config.set_command_bits(Command(0) if on else off, off if on else Command(0))


def _node_of(sysfs: Sysfs, address: str) -> Path:
    node = udev.uio_node(sysfs, address)
    if node is None:
        raise SetupError(
            f"{address} has no UIO device", remedy=f"bind it first: hwloop bind {address} --driver uio_pci_generic"
        )
    return node


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        remedy = (
            "run as root" if error.errno in (errno.EACCES, errno.EPERM) else "is the function still there? lspci -D"
        )
        raise SetupError.refused(f"cannot open {path}", error, remedy=remedy) from error
