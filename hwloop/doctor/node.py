"""What may be wrong with a memory-mapped node, seen from outside."""

from __future__ import annotations

from collections.abc import Iterator

import udev
from hwloop.claim import why_in_use
from hwloop.doctor.base import LIKELY, Case, Finding
from hwloop.doctor.function import in_use, locked


def check_strict_devmem(case: Case) -> Iterator[Finding]:
    """A kernel with IO_STRICT_DEVMEM maps no page of /dev/mem of which a driver holds a part."""
    node = case.node
    if node is None or node.driver is None:
        return
    known = case.system.config.get("CONFIG_IO_STRICT_DEVMEM")
    if known == "n" or (case.system.config and known is None) or _is_relaxed(case):
        return
    yield Finding(
        f"the driver {node.driver} holds {node.name}, and the command line has no iomem=relaxed",
        "the kernel does not let /dev/mem reach registers that a driver holds (IO_STRICT_DEVMEM)",
        f"use mmio:{node.name}?unbind=on, or: hwloop unbind mmio:{node.name}",
        sure="certain" if known == "y" else LIKELY,
    )


def _is_relaxed(case: Case) -> bool:
    return "iomem=relaxed" in (case.sysfs.read_optional(case.sysfs.proc / "cmdline") or "").split()


def check_in_use(case: Case) -> Iterator[Finding]:
    if case.node is None:
        return
    reasons = why_in_use(case.sysfs, udev.block_devices_of(case.sysfs, case.node.name, bus="platform"))
    if reasons:
        yield in_use(case.node.name, reasons)


def check_locked(case: Case) -> Iterator[Finding]:
    if case.node is not None:
        yield from locked(case)
