"""UIO in a real kernel: its interrupt, its node, and what is left when it is over. Two transitional disks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

import hwloop
import udev
from hwloop import claim
from hwloop.device.blk import VirtioBlk
from hwloop.door.pci import Choice, PciPlace
from hwloop.errors import DeviceLost, DmaError, RefusedError, SetupError, Unsupported
from hwloop.hal.uio import UioHal, UioInterrupt
from hwloop.session import find
from pci import Command, ConfigSpace, SysfsConfigAccess
from tests.guest import machine
from tests.guest.machine import given_back
from tests.guest.machine import hwloop as command

DISK = "0000:00:05.0"
MODERN_ONLY = "0000:00:06.0"
BOTH = pytest.mark.parametrize("mode", ["modern", "legacy"])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After each test the disk is the kernel's, no journal or lock is left, and all huge pages are free."""
    yield
    given_back(DISK)
    given_back(MODERN_ONLY)
    assert machine.huge_pages("Free") == machine.huge_pages("Total") > 0
    # Files without a name do not show in a file system; a mount of one would be where they would be left.
    assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if "hwloop-dma" in line]


def opened(options: str, address: str = DISK) -> VirtioBlk:
    return cast(VirtioBlk, hwloop.open(f"{address}?{options}"))


def read_command() -> Command:
    with SysfsConfigAccess(machine.function(DISK) / "config") as access:
        return ConfigSpace(access).read_command()


def node() -> Path:
    found = udev.uio_node(udev.Sysfs(), DISK)
    assert found is not None
    return found


@BOTH
def test_interrupts_arrive_and_the_line_is_on_again_after_each(mode: str) -> None:
    with opened(f"hal=uio&mode={mode}&wait=irq") as disk:
        line = disk.lines.queues[0]
        assert isinstance(line, UioInterrupt)
        for sector in range(20):
            disk.write(sector, bytes([sector]) * 512)
        assert [disk.read(sector, 512)[0] for sector in range(20)] == list(range(20))
        if not line.count:
            # The device was always faster than we; the interrupt that it sent is there for the next wait.
            disk.virtqueues[0].wait(10)
        assert line.count >= 1
        assert disk.virtqueues[0].interrupts >= 1
        # The last one may have been completed without a wait; the next wait takes its interrupt.
        disk.virtqueues[0].wait(0.2)
        assert not read_command() & Command.INTERRUPT_DISABLE, "the line is on again after each"


@BOTH
def test_polling_needs_no_interrupt(mode: str) -> None:
    with opened(f"hal=uio&mode={mode}") as disk:
        disk.read(0, 4096)
        assert disk.virtqueues[0].interrupts == 0
        disk.enable_interrupts()
        disk.read(0, 4096)
        disk.disable_interrupts()
        assert read_command() & Command.INTERRUPT_DISABLE
        disk.read(0, 4096)


@pytest.mark.fault(45)
@BOTH
def test_somebody_who_closes_the_node_is_noticed_at_the_next_request(mode: str) -> None:
    disk = opened(f"hal=uio&mode={mode}")
    disk.read(0, 512)
    os.close(os.open(node(), os.O_RDWR))
    assert not read_command() & Command.BUS_MASTER, "the kernel did not do what it is known to do"
    with pytest.raises(DeviceLost, match=f"bus mastering of {DISK} was turned off behind our back.*closes {node()}"):
        disk.read(0, 512)
    disk.close()
    with opened(f"hal=uio&mode={mode}") as again:
        assert len(again.read(0, 512)) == 512


def test_a_node_that_another_process_has_open_is_refused() -> None:
    claim.bind_lastingly(DISK, claim.UIO_DRIVER)
    with subprocess.Popen(["sleep", "60"], stdin=open(node(), "rb")) as other:
        with pytest.raises(RefusedError, match=f"is open in process {other.pid} \\(sleep 60\\)"):
            opened("hal=uio")
        other.kill()
    assert claim.restore(DISK) == "virtio-pci"


def test_the_interrupt_has_one_user_at_a_time() -> None:
    with find(f"{DISK}?hal=uio").open_transport() as way:
        hal = cast(UioHal, way.hal)
        line = hal.interrupt()
        assert line is not None
        assert hal.interrupt(3) is None, "there are no vectors"
        with pytest.raises(OSError, match="in use already"):
            hal.interrupt()
        line.close()
        second = hal.interrupt()
        assert second is not None
        second.close()


def test_memory_is_of_huge_pages_and_freed_at_the_end() -> None:
    total = machine.huge_pages("Total")
    with opened("hal=uio") as disk:
        disk.read(0, 4096)
        assert machine.huge_pages("Free") == total - 1


@pytest.mark.fault(52)
def test_without_huge_pages_the_command_that_makes_some_is_named() -> None:
    pages = Path("/proc/sys/vm/nr_hugepages")
    before = pages.read_text()
    pages.write_text("0")
    try:
        with pytest.raises(DmaError, match="echo 16 > /proc/sys/vm/nr_hugepages"):
            opened("hal=uio")
    finally:
        pages.write_text(before)


def test_a_device_behind_the_iommu_is_not_driven_with_physical_addresses() -> None:
    with pytest.raises(SetupError, match=r"reaches memory through IOMMU group .*use hal=vfio"):
        opened("hal=uio", MODERN_ONLY)


def test_vfio_is_chosen_where_there_is_a_group_and_the_reason_is_told() -> None:
    place = find(DISK)
    assert isinstance(place, PciPlace)
    group = udev.read_pci(udev.Sysfs(), DISK).iommu_group
    assert place.choice == Choice("vfio", "modern", f"IOMMU group {group} confines it")


def test_a_modern_disk_has_no_legacy_mode() -> None:
    with pytest.raises(Unsupported, match="has no legacy interface"):
        opened("mode=legacy", MODERN_ONLY)


@pytest.mark.parametrize("hal", ["vfio", "uio"])
@BOTH
def test_a_disk_with_both_interfaces_works_over_every_combination(hal: str, mode: str) -> None:
    written = os.urandom(4096)
    with opened(f"hal={hal}&mode={mode}") as disk:
        disk.write(16, written)
        assert disk.read(16, 4096) == written
    with open(f"/dev/{machine.disk_name(DISK)}", "rb") as kernels:
        kernels.seek(8192)
        assert kernels.read(4096) == written


def test_info_says_the_way_and_the_reason() -> None:
    target = f"{DISK}?hal=uio&mode=legacy"
    described = json.loads(command("info", "--json", target).stdout)
    assert described["registers_read"] is True, described
    assert (described["way"]["hal"], described["way"]["transport"]) == ("uio", "pci-legacy")
    assert described["way"]["why"] == "hal=uio was asked for; mode=legacy was asked for"
