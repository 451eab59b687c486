"""Registers at any physical address through /dev/mem, and memory from huge pages: for devices on no bus that the kernel
would hand out, such as virtio-mmio. There is no IOMMU: device addresses are physical. The interrupt comes through UIO
where that offers it; otherwise one polls.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

import udev
from hwloop.deadline import wait_until
from hwloop.errors import SetupError
from hwloop.hal.physical import PhysicalHal
from hwloop.hal.uio_line import UioLine
from mmio import DevMemWindow, MmioError, RegionBoundsError, UniqueMmioPointer
from udev import Sysfs

if TYPE_CHECKING:
    from pathlib import Path

    from mmio import Region

DEV_MEM = "/dev/mem"
_ANSWER_SECONDS = 5.0


class NothingAnswers(SetupError):
    """There are no registers at the address: reading them is a bus error."""


class DevMemHal(PhysicalHal):
    """The HAL of registers in `path`, which is the memory device or any file in its place.

    Each range of registers has one owner in this process. `sysfs` is the machine whose memory map is consulted, `line`
    the UIO device that passes on the interrupt, where there is one. Raises SetupError where physical addresses are not
    told.
    """

    name = "devmem"

    def __init__(
        self, path: str | os.PathLike[str] = DEV_MEM, sysfs: Sysfs | None = None, line: Path | None = None
    ) -> None:
        super().__init__()
        self._line = line
        self._path = os.path.realpath(path)
        self._sysfs = sysfs or Sysfs()
        self._owned: WeakSet[UniqueMmioPointer] = WeakSet()

    def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
        """The registers, mapped; inside registers that this HAL has mapped already, a part of those.

        The first register is read once, to see that something answers. Raises SetupError for what the kernel does not
        let us map (a driver holds it, it is memory, we are not root), NothingAnswers, mmio.RegionInUse for registers
        that this process has already.
        """
        for owner in list(self._owned):
            if not owner.closed and owner.address <= paddr and paddr + size <= owner.address + owner.size:
                return owner.window(paddr - owner.address, size)
        self._refuse_memory(paddr, size)
        with ExitStack() as stack:
            pointer = UniqueMmioPointer(self._map, paddr, size, space=f"physical memory in {self._path}")
            stack.callback(pointer.close)
            if not answers(pointer):
                raise NothingAnswers(
                    f"nothing answers at {paddr:#x}: reading it is a bus error", remedy="see: hwloop list"
                )
            self._owned.add(pointer)
            stack.pop_all()
        return pointer

    def interrupt(self, vector: int | None = None) -> UioLine | None:
        """The line, where UIO passes it on; there are no vectors."""
        return UioLine(self._line) if vector is None and self._line is not None else None

    def device_lost(self) -> None:
        """The memory is never used again: there is no bus mastering to turn off, and no IOMMU."""
        self.quarantine()

    def close(self) -> None:
        """Free the memory and unmap all registers. Idempotent."""
        for owner in list(self._owned):
            owner.close()
        super().close()

    def _map(self, address: int, size: int) -> Region:
        try:
            return DevMemWindow(address, size, self._path)
        except RegionBoundsError as error:
            raise SetupError(f"{self._path} has no registers at {address:#x}: {error.strerror}") from error
        except MmioError as error:
            held = f"hwloop unbind mmio:{address:#x}" if error.errno == errno.EPERM else ""
            raise SetupError(error.strerror or "", errno=error.errno, remedy=held) from error

    def _refuse_memory(self, address: int, size: int) -> None:
        """A store to what is somebody's memory would be the end of them; some kernels allow it."""
        for ram in udev.list_ram(self._sysfs):
            if ram.start < address + size and address < ram.stop:
                raise SetupError(
                    f"{address:#x} is in the machine's memory ({ram.start:#x} to {ram.stop - 1:#x}), not in registers",
                    errno=errno.EPERM,
                    remedy="see: hwloop list",
                )


def answers(region: Region) -> bool:
    """Whether the first 32 bits of the region can be read. Where nothing decodes an address some processors (ARM) end
    the process that reads it with SIGBUS, so a child process reads first. Raises DeadlineExpired."""
    status: list[int] = []
    child = _fork_reader(region)

    def ended() -> bool:
        try:
            pid, code = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            return True  # It has ended, and who ignores SIGCHLD or waits for every child had its status.
        if pid:
            status.append(code)
        return bool(pid)

    try:
        wait_until(ended, "the first read of a register", _ANSWER_SECONDS)
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        raise
    # Whatever else became of the child, our own read will tell.
    return not (status and os.WIFSIGNALED(status[0]) and os.WTERMSIG(status[0]) == signal.SIGBUS)


def _fork_reader(region: Region) -> int:
    """The child that reads. Signals are blocked until it is out of our code, which would act on them a second time."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child = os.fork()
        if not child:
            _read_and_exit(region)
        return child
    except OSError as error:
        raise SetupError.refused("cannot start the process that tries a register", error) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _read_and_exit(region: Region) -> None:
    """In the child: nothing of the parent's is run or closed, and its death makes no noise."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        region.read32(0)
    except BaseException:
        os._exit(1)
    os._exit(0)
