"""A window of physical memory through /dev/mem: python-periphery maps it, our accesses use it.

periphery's own `write32` reads the register before it writes it, so nothing but its mapping is used.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import Any

from mmio._access import MappedRegion
from mmio.errors import MmioError
from mmio.file import check_file_holds, explain
from mmio.memory import address_of
from mmio.region import check_window

_PHYSICAL_END = 1 << 63
"""Physical addresses end below this, whatever the machine: /dev/mem takes them as file offsets."""

_CANNOT_OPEN = {
    errno.ENOENT: "the kernel has no such device: it needs CONFIG_DEVMEM=y (`ls -l /dev/mem`)",
    errno.EACCES: "run as root",
    errno.EPERM: "run as root with CAP_SYS_RAWIO; under Secure Boot the kernel may be locked down "
    "(`cat /sys/kernel/security/lockdown`)",
}

_CANNOT_MAP = {
    errno.EPERM: "unbind the kernel driver first: with CONFIG_IO_STRICT_DEVMEM a range that a driver holds is refused "
    "(`cat /proc/iomem` names it), and so is ordinary memory; or the kernel is locked down "
    "(`cat /sys/kernel/security/lockdown`)",
    errno.EINVAL: "the processor has no such physical address",
}


class DevMemWindow(MappedRegion):
    """`size` bytes of registers at physical `address`, which need not start a page.

    `path` is the memory device, or any file in its place. Raises MmioError with the kernel's errno and what to do:
    EPERM while a driver holds the range, EACCES for those who are not root, ENOENT without the device.
    """

    def __init__(self, address: int, size: int, path: str | os.PathLike[str] = "/dev/mem") -> None:
        check_window(address, size, _PHYSICAL_END, "physical window")
        self._physical_address = address
        self._periphery = _open_periphery(address, size, os.fspath(path))
        # periphery's `pointer` would do, but it leaves a reference cycle behind that makes its `close` fail.
        in_page = address % mmap.PAGESIZE
        super().__init__(address_of(self._periphery.mapping) + in_page, size, self._periphery)

    @property
    def physical_address(self) -> int:
        """Where the window starts in physical memory; `address` is where it is mapped in this process."""
        return self._physical_address

    def close(self) -> None:
        super().close()
        self._periphery.close()


def _open_periphery(address: int, size: int, path: str) -> Any:
    # Here and not above: only users of /dev/mem need the package.
    from periphery import MMIO

    _try_out(path, address, size)
    return MMIO(address, size, path)


def _try_out(path: str, address: int, size: int) -> None:
    """Open and map as periphery will, and undo it: periphery leaves its descriptor open when the mapping is refused."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(f"{path} cannot be opened", error, _CANNOT_OPEN) from error
    try:
        check_file_holds(fd, address, size)
        in_page = address % mmap.PAGESIZE
        mmap.mmap(fd, in_page + size, offset=address - in_page).close()
    except MmioError:
        raise
    except OSError as error:
        what = f"{size:#x} bytes at physical address {address:#x} of {path} cannot be mapped"
        raise _refused(what, error, _CANNOT_MAP) from error
    finally:
        os.close(fd)


def _refused(what: str, error: OSError, advice: dict[int, str]) -> MmioError:
    code = error.errno or errno.EIO
    reason = f"{os.strerror(code)}; {advice[code]}" if code in advice else explain(code)
    return MmioError(code, f"{what}: {reason}")
