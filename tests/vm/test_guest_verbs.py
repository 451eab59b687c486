"""Every command of the help in a guest."""

from __future__ import annotations

from pathlib import Path

from tests.vm.guest import MIB, image, run_in_guest

OTHERS = [
    "-device virtio-rng-pci,addr=08.0,disable-legacy=on,iommu_platform=on",
    "-chardev null,id=nobody -device virtio-serial-pci,id=serial,addr=09.0,disable-legacy=on,iommu_platform=on",
    "-device virtconsole,chardev=nobody,bus=serial.0",
]


def test_each_command_of_the_help_on_a_real_kernel(tmp_path: Path) -> None:
    disk = f"{image(tmp_path, 'disk.img', 4 * MIB)},serial=HWLOOP0"
    run_in_guest("test_verbs.py", disks=[disk], qemu=OTHERS)
