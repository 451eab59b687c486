"""SIGKILL of a driver in mid-write, in real kernels: by VFIO, UIO and /dev/mem. HWLOOP_KILLS says how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.disks import TRANSITIONAL
from tests.vm.guest import MIB, image, run_in_guest


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_a_driver_killed_while_it_writes_harms_nobody(machine: str, tmp_path: Path) -> None:
    images = [str(image(tmp_path, f"{n}.img", 16 * MIB)) for n in range(9)]
    disks = [images[0], images[1] + TRANSITIONAL, images[2]] if machine == "q35" else images
    run_in_guest("test_killed.py", disks=disks, machine=machine)
