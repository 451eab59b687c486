"""Interrupts through VFIO in a guest: one boot."""

from __future__ import annotations

from pathlib import Path

from tests.guest.disks import TRANSITIONAL
from tests.vm.guest import MIB, image, run_in_guest


def test_interrupts_arrive_through_vfio(tmp_path: Path) -> None:
    more = ["", ",vectors=0", TRANSITIONAL]
    disks = [f"{image(tmp_path, f'{number}.img', MIB)}{options}" for number, options in enumerate(more)]
    run_in_guest("test_vfio_interrupts.py", disks=disks)
