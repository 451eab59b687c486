"""Which physical addresses have memory behind them, and no registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from udev.platform import iomem_lines

if TYPE_CHECKING:
    from udev.sysfs import Sysfs

_RAM = "System RAM"


def list_ram(sysfs: Sysfs) -> list[range]:
    """The addresses of ordinary memory, in order (/proc/iomem); none of them to users without CAP_SYS_ADMIN, to whom
    the kernel shows no addresses."""
    lines = iomem_lines(sysfs.read_optional(sysfs.proc / "iomem") or "")
    return sorted(
        (range(start, start + size) for name, start, size in lines if name == _RAM), key=lambda ram: ram.start
    )
