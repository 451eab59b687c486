"""Every combination of rings, ways to wait and numbers of queues, through VFIO in a guest: one boot."""

from __future__ import annotations

from pathlib import Path

from tests.vm.guest import MIB, image, run_in_guest


def test_every_combination_of_rings_works_over_vfio(tmp_path: Path) -> None:
    disk = f"{image(tmp_path, 'rings.img', MIB)},num-queues=4,packed=on"
    run_in_guest("test_block_rings.py", disks=[disk], share=tmp_path)
