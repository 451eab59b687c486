"""File systems in a guest: on disks that hwloop serves or copies, and that the kernel mounts."""

from __future__ import annotations

from pathlib import Path

from tests.vm.guest import MIB, image, run_in_guest


def test_ext4_goes_to_and_fro_between_hwloop_and_the_kernel(tmp_path: Path) -> None:
    run_in_guest("test_file_system.py", disks=[str(image(tmp_path, "disk.img", 16 * MIB))], share=tmp_path)
