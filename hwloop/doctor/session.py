"""From a target, or from nothing, to the cases to examine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import udev
from hwloop import session
from hwloop.doctor import examine
from hwloop.doctor.base import CERTAIN, PROBLEM, Case, Finding, System
from hwloop.doctor.live import try_device
from hwloop.door.base import KernelPlace, Place
from hwloop.door.mmio import MmioPlace
from hwloop.door.pci import PciPlace
from hwloop.errors import HwloopError, RefusedError, exit_code_of
from hwloop.lock import RUN_DIR
from hwloop.spec import DeviceType, is_virtio_pci_id
from udev import Sysfs


def diagnose(
    target: str | None,
    *,
    touch: bool = True,
    sysfs: Sysfs | None = None,
    system: System | None = None,
    run_dir: Path = RUN_DIR,
) -> list[tuple[str, list[Finding]]]:
    """What was found of a target, or without one of the machine and each virtio device of it: (name, findings).

    With `touch` a target without problems is taken, tried and given back. Raises as `session.find`.
    """  # fmt: skip
    sysfs, system = sysfs or Sysfs(), system or System.read()
    if target is None:
        return [(case.name, examine(case)) for case in _all_cases(sysfs, system, run_dir)]
    place = session.find(target, sysfs)
    findings = examine(_case_of(place, sysfs, system, run_dir))
    if touch and not any(finding.severity == PROBLEM for finding in findings) and _may_be_tried(place):
        findings = _try(place) + findings
    return [(place.name, findings)]


def worst(reports: list[tuple[str, list[Finding]]]) -> int:
    """The exit status: that of the first problem, or 0."""
    problems = [finding for _, findings in reports for finding in findings if finding.severity == PROBLEM]
    return problems[0].exit_code if problems else 0


def _all_cases(sysfs: Sysfs, system: System, run_dir: Path) -> Iterator[Case]:
    yield Case(sysfs, system, run_dir=run_dir)
    for device in udev.list_pci(sysfs):
        if is_virtio_pci_id(device.vendor_id, device.device_id):
            yield Case(sysfs, system, function=device, run_dir=run_dir)
    for node in udev.list_mmio(sysfs):
        yield Case(sysfs, system, node=node, run_dir=run_dir)


def _case_of(place: Place, sysfs: Sysfs, system: System, run_dir: Path) -> Case:
    if isinstance(place, PciPlace):
        wanted = place.target.options.get("hal")
        return Case(
            sysfs, system, function=place.device, hal=wanted or _hal_of(place), asked_for=wanted is not None,
            run_dir=run_dir,
        )  # fmt: skip
    if isinstance(place, MmioPlace):
        return Case(sysfs, system, node=udev.read_mmio(sysfs, place.address), run_dir=run_dir)
    return Case(sysfs, system, run_dir=run_dir)


def _hal_of(place: PciPlace) -> str:
    try:
        return place.choice.hal
    except HwloopError:
        return ""


def _may_be_tried(place: Place) -> bool:
    """A disk, whose users can be found out; and what nobody but us has."""
    return not isinstance(place, KernelPlace) or place.device_type in (None, DeviceType.Block)


def _try(place: Place) -> list[Finding]:
    try:
        return try_device(place)
    except OSError as error:
        problem = getattr(error, "problem", "") or error.strerror or str(error)
        remedy = getattr(error, "remedy", "") or f"hwloop info {place.target}"
        means = "it was not touched" if isinstance(error, RefusedError) else "it cannot be reached"
        return [Finding(problem, means, remedy, CERTAIN, PROBLEM, exit_code_of(error), "open")]
