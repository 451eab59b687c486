"""Failures that were put there: each has to be found, with the command that mends it. And what is not there is not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import udev
from hwloop.doctor import CHECKS, Case, Finding, System, examine
from hwloop.doctor.base import SEVERITIES, SURENESS
from hwloop.journal import Entry, Journal
from hwloop.lock import DeviceLock
from tests.unit.hwloop.machine import resource_file
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"
NODE = "virtio-mmio.3"
NO_BARS = "0x0 0x0 0x0\n" * 7
COMMAND, STATUS, CAPABILITIES = 4, 6, 0x34


def config(command: int = 6) -> bytearray:
    """A function with the three structures that it must have, in BAR 4."""
    data = bytearray(4096)
    data[:8] = struct.pack("<HHHH", 0x1AF4, 0x1042, command, 0x10)
    data[CAPABILITIES] = 0x40
    for number, (kind, at, length) in enumerate([(1, 0, 0x1000), (3, 0x1000, 0x1000), (2, 0x3000, 0x1000)]):
        place = 0x40 + 0x18 * number
        following = place + 0x18 if number < 2 else 0
        size = 20 if kind == 2 else 16
        data[place : place + 20] = struct.pack("<BBBBBBHIII", 9, following, size, kind, 4, 0, 0, at, length, 4)
    return data


class Seed:
    """A healthy machine, on which a test breaks something."""

    def __init__(self, folder: Path) -> None:
        self.tree = FakeSysfs(folder / "machine")
        self.run_dir = folder / "run"
        self.system = System()
        self.hal, self.asked_for = "vfio", False
        self.tree.add_driver("vfio-pci")
        self.tree.add_driver("uio_pci_generic")
        self.tree.set_cmdline("root=/dev/sda")
        (self.tree.root / "kernel/mm/hugepages/hugepages-2048kB").mkdir(parents=True)
        self.huge_pages(16)

    def huge_pages(self, count: int) -> None:
        (self.tree.root / "kernel/mm/hugepages/hugepages-2048kB/free_hugepages").write_text(f"{count}\n")

    def disk(self, **changes: object) -> None:
        shape: dict[str, object] = {
            "driver": "virtio-pci", "iommu_group": 7, "block": "vda", "partitions": (1 << 16, 1 << 16),
            "resource": resource_file(), "config": bytes(config()),
        }  # fmt: skip
        self.tree.add_pci(DISK, 0x1AF4, 0x1042, **(shape | changes))  # type: ignore[arg-type]

    def node(self, **changes: object) -> None:
        shape: dict[str, object] = {"driver": "virtio-mmio", "address": 0xFEB02E00, "block": "vdb"}
        self.tree.add_mmio(NODE, **(shape | changes))  # type: ignore[arg-type]

    def case(self) -> Case:
        sysfs = self.tree.sysfs
        if (sysfs.root / "bus/pci/devices" / DISK).exists():
            return Case(
                sysfs, self.system, function=udev.read_pci(sysfs, DISK), hal=self.hal, asked_for=self.asked_for,
                run_dir=self.run_dir,
            )  # fmt: skip
        return Case(sysfs, self.system, node=udev.read_mmio(sysfs, NODE), run_dir=self.run_dir)

    def examine(self) -> list[Finding]:
        return examine(self.case())


@pytest.fixture
def seed(tmp_path: Path) -> Seed:
    return Seed(tmp_path)


# --- Each seeds one failure: (check, sure, word of what was seen, the remedy) -----------------------------------------

Wanted = tuple[str, str, str, str]


def not_root(seed: Seed) -> Wanted:
    seed.disk()
    seed.system = replace(seed.system, euid=1000)
    return "root", "certain", "user 1000", "sudo hwloop doctor"


def locked_down(seed: Seed) -> Wanted:
    seed.disk(iommu_group=None)
    seed.hal = "uio"
    (seed.tree.root / "kernel/security").mkdir(parents=True)
    (seed.tree.root / "kernel/security/lockdown").write_text("none [integrity] confidentiality\n")
    return "lockdown", "certain", "locked down: integrity", "Secure Boot"


def journal_left(seed: Seed) -> Wanted:
    seed.disk()
    Journal(seed.run_dir).write(Entry(DISK, "virtio-pci", None, pid=4711))
    return "journal", "likely", "entry of process 4711", f"hwloop restore {DISK}"


def bound_by_hwloop_bind(seed: Seed) -> Wanted:
    seed.disk(driver="vfio-pci", home="virtio-pci")
    Journal(seed.run_dir).write(Entry(DISK, "virtio-pci", None, lasting=True))
    return "journal", "certain", "given to another driver", f"hwloop restore {DISK}"


def no_iommu(seed: Seed) -> Wanted:
    seed.disk(iommu_group=None)
    seed.asked_for = True
    return "iommu", "certain", "no IOMMU group", "intel_iommu=on"


def group_not_viable(seed: Seed) -> Wanted:
    seed.disk()
    seed.tree.add_pci("0000:00:06.0", 0x8086, 0x100E, driver="e1000", iommu_group=7)
    return "group", "certain", "also holds 0000:00:06.0 (e1000)", "hwloop unbind 0000:00:06.0"


def noiommu_mode_off(seed: Seed) -> Wanted:
    seed.disk(iommu_group=None)
    seed.hal, seed.asked_for = "vfio-noiommu", True
    seed.tree.set_noiommu_mode("N")
    return "noiommu-mode", "certain", "unsafe mode is off", "echo 1 > /sys/module/vfio/parameters"


def module_missing(seed: Seed) -> Wanted:
    seed.disk()
    (seed.tree.root / "bus/pci/drivers/vfio-pci").rename(seed.tree.root / "gone")
    return "module", "certain", "no driver vfio-pci", "modprobe vfio-pci"


def node_missing(seed: Seed) -> Wanted:
    seed.disk(driver="vfio-pci", home="virtio-pci")
    for path in (seed.tree.dev / "vfio").glob("*"):
        path.unlink()
    return "vfio-node", "likely", "dev/vfio/7 is not there", "mount -t devtmpfs"


def memlock_small(seed: Seed) -> Wanted:
    seed.disk()
    seed.system = System(euid=0, can_lock_memory=False, memlock=64 << 10)
    return "memlock", "likely", "64 KiB", "ulimit -l unlimited"


def no_huge_pages(seed: Seed) -> Wanted:
    seed.disk(iommu_group=None)
    seed.hal = "uio"
    seed.huge_pages(0)
    return "hugepages", "certain", "0 huge pages", "nr_hugepages"


def few_huge_pages(seed: Seed) -> Wanted:
    seed.node(driver=None, block=None)
    seed.huge_pages(1)
    return "hugepages", "likely", "1 huge pages", "nr_hugepages"


def mounted(seed: Seed) -> Wanted:
    seed.disk()
    seed.tree.add_mount("vda1", "/mnt")
    return "in-use", "certain", "mount@vda1:/mnt", "umount /mnt"


def swap(seed: Seed) -> Wanted:
    seed.disk()
    seed.tree.add_process(1)
    seed.tree.add_swap("/dev/vda2")
    return "in-use", "certain", "swap@vda2", "swapoff /dev/vda2"


def device_mapper(seed: Seed) -> Wanted:
    seed.disk()
    seed.tree.add_holder("vda", "dm-0")
    return "in-use", "certain", "holder@vda:dm-0", "dmsetup remove /dev/dm-0"


def raid(seed: Seed) -> Wanted:
    seed.disk()
    seed.tree.add_holder("vda1", "md0")
    return "in-use", "certain", "holder@vda1:md0", "mdadm --stop /dev/md0"


def loop(seed: Seed) -> Wanted:
    seed.disk()
    seed.tree.add_loop("loop0", "/dev/vda")
    return "in-use", "certain", "loop@vda:loop0", "losetup -d /dev/loop0"


def uio_open(seed: Seed) -> Wanted:
    seed.disk(driver="uio_pci_generic", home="virtio-pci", iommu_group=None)
    seed.hal = "uio"
    node = udev.uio_node(seed.tree.sysfs, DISK)
    assert node is not None
    seed.tree.add_open_file(815, node)
    return "uio-holder", "certain", "open in process 815", "kill 815"


def override_left(seed: Seed) -> Wanted:
    seed.disk(driver_override="vfio-pci")
    return "override", "likely", "driver_override of 0000:00:05.0 is vfio-pci", f"hwloop restore {DISK}"


def override_to_none(seed: Seed) -> Wanted:
    seed.disk(driver=None, block=None, driver_override="hwloop-none")
    return "override", "certain", "is hwloop-none", f"hwloop restore {DISK}"


def no_driver(seed: Seed) -> Wanted:
    seed.disk(driver=None, block=None)
    return "driver", "certain", "no driver holds", f"hwloop restore {DISK}"


def left_with_vfio(seed: Seed) -> Wanted:
    seed.disk(driver="vfio-pci", home="virtio-pci")
    return "driver", "likely", "vfio-pci holds", f"hwloop restore {DISK}"


def unplugged(seed: Seed) -> Wanted:
    seed.disk(config=b"\xff" * 4096)
    return "answers", "likely", "all ones", "rescan"


def bar_without_address(seed: Seed) -> Wanted:
    seed.disk(resource=resource_file().replace("0x0 0x0 0x0", "0x0 0xfff 0x200", 1))
    return "bars", "certain", "BAR 0 of 0000:00:05.0 has no address", "rescan"


def no_bars(seed: Seed) -> Wanted:
    seed.disk(resource=NO_BARS)
    return "bars", "likely", "has no BAR", "rescan"


def decoding_off(seed: Seed) -> Wanted:
    seed.disk(config=bytes(config(command=4)))
    return "decoding", "certain", "memory decoding of 0000:00:05.0 is off", "hwloop restore"


def bus_mastering_off(seed: Seed) -> Wanted:
    seed.disk(config=bytes(config(command=2)))
    return "decoding", "likely", "bus mastering of 0000:00:05.0 is off", "hwloop restore"


def capability_loop(seed: Seed) -> Wanted:
    data = config()
    data[0x41] = 0x40
    seed.disk(config=bytes(data))
    return "capabilities", "certain", "", f"hwloop info {DISK}"


def no_common_structure(seed: Seed) -> Wanted:
    data = config()
    data[0x43] = 9
    seed.disk(config=bytes(data))
    return "capabilities", "certain", "COMMON_CFG structure", f"hwloop info {DISK}"


def structure_behind_its_bar(seed: Seed) -> Wanted:
    data = config()
    data[0x4B] = 0x80
    seed.disk(config=bytes(data))
    return "capabilities", "certain", "COMMON_CFG structure", f"hwloop info {DISK}"


def strict_devmem(seed: Seed) -> Wanted:
    seed.node()
    return "strict-devmem", "likely", "virtio-mmio holds", "?unbind=on"


def strict_devmem_for_sure(seed: Seed) -> Wanted:
    seed.node()
    seed.system = System(config={"CONFIG_IO_STRICT_DEVMEM": "y"})
    return "strict-devmem", "certain", "virtio-mmio holds", "?unbind=on"


def node_mounted(seed: Seed) -> Wanted:
    seed.node()
    seed.tree.add_mount("vdb", "/data")
    return "node-in-use", "certain", "mount@vdb:/data", "umount /data"


SEEDS: list[Callable[[Seed], Wanted]] = [
    not_root, locked_down, journal_left, bound_by_hwloop_bind, no_iommu, group_not_viable, noiommu_mode_off,
    module_missing, node_missing, memlock_small, no_huge_pages, few_huge_pages, mounted, swap, device_mapper, raid,
    loop,
    uio_open, override_left, override_to_none, no_driver, left_with_vfio, unplugged, bar_without_address, no_bars,
    decoding_off, bus_mastering_off, capability_loop, no_common_structure, structure_behind_its_bar, strict_devmem,
    strict_devmem_for_sure, node_mounted,
]  # fmt: skip


def idle(seed: Seed) -> None:
    """Nobody uses any disk, as far as anybody can see."""
    seed.tree.add_process(1)


@pytest.mark.parametrize("plant", SEEDS, ids=lambda plant: plant.__name__)
def test_a_failure_is_found(seed: Seed, plant: Callable[[Seed], Wanted]) -> None:
    idle(seed)
    check, sure, saw, remedy = plant(seed)
    found = [finding for finding in seed.examine() if finding.check == check]
    assert found, f"{check} found nothing"
    assert any(saw in finding.saw and finding.sure == sure and remedy in finding.remedy for finding in found), found


@pytest.mark.parametrize("plant", SEEDS, ids=lambda plant: plant.__name__)
def test_each_finding_is_whole(seed: Seed, plant: Callable[[Seed], Wanted]) -> None:
    idle(seed)
    plant(seed)
    for finding in seed.examine():
        assert finding.sure in SURENESS
        assert finding.severity in SEVERITIES
        assert finding.saw
        assert finding.means
        assert finding.remedy
        assert finding.exit_code in (3, 4, 5, 6)
        assert finding.check in CHECKS


@pytest.mark.parametrize("plant", SEEDS, ids=lambda plant: plant.__name__)
def test_looking_changes_nothing(seed: Seed, plant: Callable[[Seed], Wanted]) -> None:
    idle(seed)
    plant(seed)
    seed.tree.writes.clear()
    seed.examine()
    assert seed.tree.writes == []


def test_a_device_that_another_hwloop_has(seed: Seed) -> None:
    idle(seed)
    seed.disk()
    with DeviceLock(DISK, seed.run_dir):
        (finding,) = (finding for finding in seed.examine() if finding.check == "locked")
    assert "another hwloop drives it now" in finding.means
    assert finding.exit_code == 3


def test_a_driver_that_hangs_in_its_remove_function(seed: Seed) -> None:
    idle(seed)
    seed.disk()
    device = replace(udev.read_pci(seed.tree.sysfs, DISK), driver_override=udev.OVERRIDE_BUSY)
    findings = examine(replace(seed.case(), function=device))
    assert [finding.sure for finding in findings if finding.check == "override"] == ["likely"]


# --- Healthy machines -------------------------------------------------------------------------------------------------


def healthy_with_vfio(seed: Seed) -> None:
    seed.disk()


def healthy_in_use_by_hwloop_elsewhere(seed: Seed) -> None:
    seed.disk()
    Journal(seed.run_dir).write(Entry("0000:00:09.0", "virtio-pci", None))


def healthy_group_with_a_bridge(seed: Seed) -> None:
    seed.disk()
    seed.tree.add_pci("0000:00:01.0", 0x1B36, 0x000C, driver="pcieport", iommu_group=7)


def healthy_other_disk_mounted(seed: Seed) -> None:
    seed.disk()
    seed.tree.add_pci("0000:00:09.0", 0x1AF4, 0x1042, driver="virtio-pci", iommu_group=8, block="vdz")
    seed.tree.add_mount("vdz", "/")


def healthy_node(seed: Seed) -> None:
    seed.node(driver=None, block=None)


def healthy_relaxed(seed: Seed) -> None:
    seed.node()
    seed.tree.set_cmdline("iomem=relaxed root=/dev/sda")


def healthy_kernel_without_strict(seed: Seed) -> None:
    seed.node()
    seed.system = System(config={"CONFIG_STRICT_DEVMEM": "y"})


def healthy_locked_down_with_vfio_is_only_a_hint(seed: Seed) -> None:
    seed.disk()
    (seed.tree.root / "kernel/security").mkdir(parents=True)
    (seed.tree.root / "kernel/security/lockdown").write_text("[none] integrity confidentiality\n")


def healthy_with_enough_memlock(seed: Seed) -> None:
    seed.disk()
    seed.system = System(euid=0, can_lock_memory=False, memlock=1 << 30)


@pytest.mark.parametrize(
    "plant",
    [
        healthy_with_vfio, healthy_in_use_by_hwloop_elsewhere, healthy_group_with_a_bridge, healthy_other_disk_mounted,
        healthy_node, healthy_relaxed, healthy_kernel_without_strict, healthy_locked_down_with_vfio_is_only_a_hint,
        healthy_with_enough_memlock,
    ],
)  # fmt: skip
def test_of_what_is_healthy_nothing_is_said(seed: Seed, plant: Callable[[Seed], None]) -> None:
    idle(seed)
    plant(seed)
    assert seed.examine() == []


def test_a_group_without_an_iommu_is_only_a_hint_where_uio_does_it(seed: Seed) -> None:
    idle(seed)
    seed.disk(iommu_group=None)
    seed.hal = "uio"
    assert [finding.severity for finding in seed.examine()] == ["hint"]
