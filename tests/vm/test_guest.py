"""The main job in a guest: VFIO, real virtio-blk devices of QEMU, images that the host checks."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from tests.guest.disks import DISKS
from tests.vm.guest import MIB, image, run_in_guest

TOPOLOGY = [
    "-device pcie-root-port,id=port0,chassis=1,slot=1,addr=08.0",
    "-device pcie-pci-bridge,id=bridge0,addr=09.0",
    "-device e1000,addr=0d.0,multifunction=on",
    "-device qemu-xhci,addr=0b.0",
    "-drive if=none,id=n0,file=null-co://,file.size=1048576,format=raw -device nvme,drive=n0,serial=NVME0,addr=0c.0",
]


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_example_of_seed_000_works_and_the_host_sees_it(tmp_path: Path) -> None:
    disk = image(tmp_path, "disk.img", 256 * MIB)
    run_in_guest("test_seed_example.py", disks=[str(disk)])
    with open(disk, "rb") as file:
        file.seek(512)
        assert file.read(4) == b"0123"


def test_a_random_image_survives_both_ways(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "random.bin").write_bytes(random.Random(2).randbytes(64 * MIB))
    disk = image(tmp_path, "disk.img", 64 * MIB)
    read_only = image(tmp_path, "read-only.img", MIB)
    disks = [f"{disk},serial=HWLOOP0", str(image(tmp_path, "spare.img", MIB)), f"{read_only},read-only=on"]
    run_in_guest("test_transfer.py", disks=disks, share=share)
    assert sha256(share / "back.bin") == sha256(share / "random.bin")
    with open(disk, "rb") as ours, open(share / "random.bin", "rb") as theirs:
        assert ours.read(MIB) == theirs.read(MIB)
    assert read_only.read_bytes() == bytes(MIB)


def test_disks_are_given_back_and_disks_in_use_are_refused(tmp_path: Path) -> None:
    disks = [str(image(tmp_path, "one.img", MIB)), str(image(tmp_path, "two.img", 16 * MIB))]
    run_in_guest("test_giving_back.py", "test_refusals.py", disks=disks, share=tmp_path)


def test_list_and_info_agree_with_lspci_wherever_the_disk_sits(tmp_path: Path) -> None:
    places = ["addr=05.0", "bus=port0", "bus=bridge0,addr=03.0", "addr=0d.3"]
    disks = [f"{image(tmp_path, f'{n}.img', 16 * MIB)},{place}" for n, place in enumerate(places)]
    run_in_guest("test_lspci.py", disks=disks, qemu=TOPOLOGY)


def test_the_contract_suite_passes_over_vfio(tmp_path: Path) -> None:
    for spec in DISKS:
        image(tmp_path, f"{spec.name}.img", spec.size)
    disks = [spec.argument(tmp_path) for spec in DISKS]
    run_in_guest("test_block.py", disks=disks, share=tmp_path)
