"""SIGKILL of a driver in mid-write, and other trouble, in real kernels. HWLOOP_KILLS says how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.disks import TRANSITIONAL
from tests.vm.guest import MIB, image, run_in_guest


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_faults_in_a_real_kernel(machine: str, tmp_path: Path) -> None:
    images = [str(image(tmp_path, f"{n}.img", 16 * MIB)) for n in range(9)]
    disks = [images[0], images[1] + TRANSITIONAL, images[2]] if machine == "q35" else images
    files = ["test_killed.py", *(["test_faults.py"] if machine == "q35" else [])]
    run_in_guest(*files, disks=disks, machine=machine, share=tmp_path)
