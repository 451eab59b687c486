"""virtio-mmio on a machine without ACPI: only the kernel's command line says where the devices are."""

from __future__ import annotations

from pathlib import Path

import hwloop as ours
import udev
from tests.guest import machine
from tests.guest.devmem_door import address_of, target_of
from tests.guest.machine import hwloop

MIB = 1 << 20
COUNT = 2


def test_the_nodes_found_are_those_of_the_command_line() -> None:
    words = [word for word in Path("/proc/cmdline").read_text().split() if word.startswith("virtio_mmio.device=")]
    nodes = udev.list_mmio(udev.Sysfs())
    assert [f"virtio_mmio.device=512@{node.address:#x}:{node.irq}" for node in nodes] == sorted(words)
    assert [node.address for node in nodes] == [address_of(index) for index in range(COUNT)]
    assert not list(Path("/sys/block").glob("vd*")), "the kernel has not found them"


def test_disks_that_the_kernel_does_not_know_are_read_and_written() -> None:
    for index in range(COUNT):
        with ours.open(target_of(index)) as disk:
            assert isinstance(disk, ours.VirtioBlk)
            assert disk.size() == (index + 1) * MIB
            disk.write(0, bytes([index + 1]) * 512)
            disk.flush()
            assert disk.read(0, 512) == bytes([index + 1]) * 512
    assert not list(machine.RUN_DIR.glob("*.json")), "nothing was taken from the kernel, so there is nothing to restore"


def test_the_command_lists_and_reads_them() -> None:
    listed = hwloop("list")
    assert listed.returncode == 0, listed.stderr
    for index in range(COUNT):
        assert f"{address_of(index):x}" in listed.stdout.decode()
    assert hwloop("read", target_of(0), "0", "512").returncode == 0
