"""What may be wrong with the machine, or with this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from hwloop.doctor.base import HINT, LIKELY, Case, Finding
from hwloop.errors import SetupError
from hwloop.journal import Journal
from hwloop.lock import lock_holder

_PINNED = 16 << 20
"""Bytes that a disk with its arenas pins at most, before a user registers memory of his own."""
_HUGE_PAGES = 4


def check_root(case: Case) -> Iterator[Finding]:
    if case.in_kernel and case.system.euid != 0:
        yield Finding(
            f"this process runs as user {case.system.euid}",
            f"{case.name} cannot be taken from its kernel driver, which only root can do",
            "sudo hwloop doctor",
            severity=HINT if not case.hal and case.node is None else "problem",
        )


def check_lockdown(case: Case) -> Iterator[Finding]:
    """Linux, Documentation/ABI: the chosen word of /sys/kernel/security/lockdown stands in brackets."""
    text = case.sysfs.read_optional(case.sysfs.root / "kernel/security/lockdown") or "[none]"
    mode = text.partition("[")[2].partition("]")[0]
    if mode in ("", "none") or not case.in_kernel:
        return
    blocked = "/dev/mem" if case.node is not None else "writes to configuration space and resources in sysfs"
    yield Finding(
        f"the kernel is locked down: {mode}",
        f"{blocked} are refused" if case.function is not None else f"{blocked} is refused",
        "turn Secure Boot off in the firmware (mokutil --sb-state shows it), or boot without lockdown=",
        severity=HINT if case.uses_vfio else "problem",
    )


def check_journal(case: Case) -> Iterator[Finding]:
    """Entries that no living process owns: what a crash has left, or a bind that was asked for."""
    journal = Journal(case.run_dir)
    for address in journal.addresses():
        if case.in_kernel and address != case.name:
            continue
        with suppress(SetupError):
            entry = journal.read(address)
            if entry is None or lock_holder(address, case.run_dir) is not None:
                continue
            if entry.lasting:
                yield Finding(
                    f"{address} was given to another driver by hwloop bind or unbind",
                    f"its driver {entry.driver or '(none)'} does not have it",
                    f"hwloop restore {address}",
                    severity=HINT,
                )
            else:
                yield Finding(
                    f"the journal has an entry of process {entry.pid} for {address}, and no process holds it",
                    "a hwloop that was killed has not given it back",
                    f"hwloop restore {address}",
                    sure=LIKELY,
                )


def check_memlock(case: Case) -> Iterator[Finding]:
    limit = case.system.memlock
    if case.function is None or not case.uses_vfio or case.system.can_lock_memory:
        return
    if limit is not None and limit < _PINNED:
        yield Finding(
            f"this process may lock {limit >> 10} KiB of memory, and has no CAP_IPC_LOCK",
            f"VFIO pins up to {_PINNED >> 20} MiB for a disk, so mapping it will fail",
            "ulimit -l unlimited",
            sure=LIKELY,
        )


def check_hugepages(case: Case) -> Iterator[Finding]:
    if not case.needs_physical_memory:
        return
    text = case.sysfs.read_optional(case.sysfs.root / "kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if text is None or not text.isdecimal():
        return
    if int(text) < _HUGE_PAGES:
        yield Finding(
            f"{text} huge pages of 2 MiB are free",
            f"{case.name} is told physical addresses, and its memory has to be huge pages: {_HUGE_PAGES} for a disk",
            "echo 16 > /proc/sys/vm/nr_hugepages",
            sure=LIKELY if int(text) else "certain",
        )
