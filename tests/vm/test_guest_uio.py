"""UIO and the legacy interface in a guest with an IOMMU: a boot for what is particular, one for the contract suite."""

from __future__ import annotations

from pathlib import Path

from tests.guest.disks import DISKS, TRANSITIONAL
from tests.vm.guest import MIB, image, run_in_guest


def test_uio_in_a_real_kernel(tmp_path: Path) -> None:
    disks = [f"{image(tmp_path, 'both.img', MIB)}{TRANSITIONAL}", str(image(tmp_path, "modern.img", MIB))]
    run_in_guest("test_uio.py", disks=disks, share=tmp_path)


def test_the_contract_suite_passes_over_uio_and_over_the_legacy_interface(tmp_path: Path) -> None:
    for spec in DISKS:
        image(tmp_path, f"{spec.name}.img", spec.size)
    disks = [spec.argument(tmp_path, TRANSITIONAL) for spec in DISKS]
    run_in_guest("test_block_transitional.py", disks=disks, share=tmp_path)
