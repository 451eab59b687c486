"""Memory-mapped registers through /dev/mem in real kernels: x86 and ARM, both versions. Five boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.disks import DISKS
from tests.vm.guest import MIB, image, run_in_guest

# What is particular to such nodes runs once on each machine, so that each version is among them.
PARTICULAR = [("microvm", 2), ("virt", 1)]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("machine", ["microvm", "virt"])
def test_the_contract_suite_passes_over_dev_mem(machine: str, version: int, tmp_path: Path) -> None:
    for spec in DISKS:
        image(tmp_path, f"{spec.name}.img", spec.size)
    disks = [spec.argument(tmp_path) for spec in DISKS]
    files = ["test_block_mmio.py", *(["test_mmio.py"] if (machine, version) in PARTICULAR else [])]
    run_in_guest(*files, disks=disks, share=tmp_path, machine=machine, mmio_version=version)


def test_devices_that_only_the_command_line_names_are_driven(tmp_path: Path) -> None:
    disks = [str(image(tmp_path, f"{size}.img", size * MIB)) for size in (1, 2)]
    run_in_guest("test_mmio_cmdline.py", disks=disks, machine="microvm-noacpi", mmio_version=2)
    assert [(tmp_path / f"{size}.img").read_bytes()[:512] for size in (1, 2)] == [b"\1" * 512, b"\2" * 512]
