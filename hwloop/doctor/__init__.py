"""What is wrong with a machine or a device, how sure that is, and the command that mends it.

Each check is one function that yields findings and changes nothing. To add one: the function, and one line in the table
of its group. Machine and place are looked at from outside; `live` takes the device for a moment and tries it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hwloop.doctor.base import Case, Finding, System
from hwloop.registry import Registry

Check = Callable[[Case], Iterator[Finding]]

CHECKS: Registry[Check] = Registry(
    "check",
    {
        "root": "hwloop.doctor.machine:check_root",
        "lockdown": "hwloop.doctor.machine:check_lockdown",
        "journal": "hwloop.doctor.machine:check_journal",
        "iommu": "hwloop.doctor.function:check_iommu",
        "group": "hwloop.doctor.function:check_group",
        "noiommu-mode": "hwloop.doctor.function:check_noiommu_mode",
        "module": "hwloop.doctor.function:check_module",
        "vfio-node": "hwloop.doctor.function:check_vfio_node",
        "memlock": "hwloop.doctor.machine:check_memlock",
        "hugepages": "hwloop.doctor.machine:check_hugepages",
        "in-use": "hwloop.doctor.function:check_in_use",
        "locked": "hwloop.doctor.function:check_locked",
        "uio-holder": "hwloop.doctor.function:check_uio_holder",
        "override": "hwloop.doctor.function:check_override",
        "driver": "hwloop.doctor.function:check_driver",
        "answers": "hwloop.doctor.function:check_answers",
        "bars": "hwloop.doctor.function:check_bars",
        "decoding": "hwloop.doctor.function:check_decoding",
        "capabilities": "hwloop.doctor.function:check_capabilities",
        "strict-devmem": "hwloop.doctor.node:check_strict_devmem",
        "node-in-use": "hwloop.doctor.node:check_in_use",
        "node-locked": "hwloop.doctor.node:check_locked",
    },
)
"""What is looked at from outside, in the order in which a reader wants to know."""


def examine(case: Case) -> list[Finding]:
    """Every finding about a case, problems first. Nothing is opened or changed."""
    found = [finding for name in CHECKS for finding in _named(name, case)]
    return sorted(found, key=lambda finding: finding.severity != "problem")


def _named(name: str, case: Case) -> Iterator[Finding]:
    for finding in CHECKS.get(name)(case):
        yield finding.of(name)


__all__ = ["CHECKS", "Case", "Check", "Finding", "System", "examine"]
