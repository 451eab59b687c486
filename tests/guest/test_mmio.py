"""virtio-mmio in a real kernel: what is found, what is refused, and what is given back. The contract suite's disks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwloop as ours
import udev
from hwloop import claim
from hwloop.errors import HwloopError, RefusedError, exit_code_of
from hwloop.hal.devmem import DevMemHal
from hwloop.session import find
from hwloop.transport.mmio import MmioTransport
from tests.guest import machine
from tests.guest.devmem_door import MACHINE, VERSION, address_of, give_back_all, leave_free, node_of, target_of
from tests.guest.disks import DISKS
from tests.guest.machine import hwloop, start

INDEX = 10
MATES = (8, 9, 11, 12)
"""The other disks in its page of registers: eight slots of 512 bytes each."""

TARGET = target_of(INDEX)
UNBIND = target_of(INDEX, "?unbind=on")
SPEC = DISKS[INDEX]


not_on_arm = pytest.mark.skipif(MACHINE == "virt", reason="runs on microvm; nothing in it is particular to ARM")


@pytest.fixture(autouse=True)
def _alone_in_its_page() -> None:
    """The kernel maps whole pages, and none of which a driver holds a part."""
    for mate in MATES:
        if held(mate):
            leave_free(mate)


@pytest.fixture(scope="module", autouse=True)
def _all_back() -> Iterator[None]:
    yield
    list(claim.restore_all())
    give_back_all()


def held(index: int = INDEX) -> bool:
    return machine.driver(node_of(index), "platform") is not None


def given_back(index: int = INDEX) -> None:
    """Assert that nothing of ours is left of the disk."""
    node = node_of(index)
    assert machine.driver(node, "platform") == "virtio-mmio"
    assert machine.override(node, "platform") == ""
    assert not [path for path in machine.RUN_DIR.iterdir() if path.name.startswith(node)]
    with open(f"/dev/{machine.disk_name(node, 'platform')}", "rb", buffering=0) as disk:
        assert len(disk.read(4096)) == 4096


def read_as_the_kernel_does(offset: int, length: int) -> bytes:
    """Past its cache."""
    name = machine.disk_name(node_of(INDEX), "platform")
    subprocess.run(["blockdev", "--flushbufs", f"/dev/{name}"], check=True)
    with open(f"/dev/{name}", "rb") as disk:
        disk.seek(offset)
        return disk.read(length)


def nodes_that_the_kernel_shows() -> set[int]:
    """Addresses, from where this machine's kernel has them: the device tree, or the resources of ACPI's devices."""
    tree = Path("/sys/firmware/devicetree/base")
    if tree.exists():
        return {int.from_bytes((node / "reg").read_bytes()[:8], "big") for node in tree.glob("virtio_mmio@*")}
    lines = Path("/proc/iomem").read_text().splitlines()
    return {int(line.split("-")[0], 16) for line in lines if re.search(r": LNRO0005:[0-9a-f]{2,}$", line)}


# --- What is found ----------------------------------------------------------------------------------------------------


def test_the_nodes_found_are_those_of_the_kernel() -> None:
    nodes = udev.list_mmio(udev.Sysfs())
    assert {node.address for node in nodes} == nodes_that_the_kernel_shows()
    assert {node.size for node in nodes} == {0x200}
    with_driver = {node.address for node in nodes if node.driver == "virtio-mmio"}
    assert {address_of(index) for index in range(len(DISKS)) if index not in MATES} <= with_driver


def test_the_command_lists_each_disk_with_its_address_and_driver() -> None:
    listed = hwloop("list")
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.decode().splitlines()
    for index in (index for index in range(len(DISKS)) if index not in MATES):
        line = next(line for line in lines if line.startswith(f"mmio:{address_of(index):#x}?unbind=on "))
        assert {node_of(index), "block", "virtio-mmio"} <= set(line.split())


def test_the_registers_have_the_version_that_was_asked_for() -> None:
    with find(UNBIND).open_transport() as opened:
        assert isinstance(opened.transport, MmioTransport)
        assert opened.transport.version == VERSION
        assert opened.transport.requires_legacy_layout() == (VERSION == 1)
    given_back()


# --- A node that the kernel's driver holds ----------------------------------------------------------------------------


@pytest.mark.fault(38)
def test_a_node_with_a_driver_is_refused_and_stays_as_it_was() -> None:
    before = read_as_the_kernel_does(0, 4096)
    refused = hwloop("read", TARGET, "0", "512")
    assert refused.returncode == 3, refused.stderr
    assert b"virtio-mmio" in refused.stderr
    assert b"unbind=on" in refused.stderr
    given_back()
    assert read_as_the_kernel_does(0, 4096) == before


def test_a_disk_in_use_is_refused_even_when_it_may_be_unbound() -> None:
    node = f"/dev/{machine.disk_name(node_of(INDEX), 'platform')}"
    fd = os.open(node, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(RefusedError, match="in use") as caught:
            ours.open(UNBIND)
    finally:
        os.close(fd)
    assert exit_code_of(caught.value) == 3
    given_back()


def test_unbinding_takes_it_and_gives_it_back_with_what_was_written() -> None:
    written = os.urandom(4096)
    with ours.open(UNBIND) as disk:
        assert not held()
        assert isinstance(disk, ours.VirtioBlk)
        assert disk.size() == SPEC.size
        disk.write(16, written)
        disk.flush()
        assert disk.read(16, 4096) == written
    given_back()
    assert read_as_the_kernel_does(16 * 512, 4096) == written


@not_on_arm
def test_what_the_kernel_wrote_is_read() -> None:
    written = os.urandom(4096)
    with open(f"/dev/{machine.disk_name(node_of(INDEX), 'platform')}", "r+b") as disk:
        disk.write(written)
        disk.flush()
        os.fsync(disk.fileno())
    read = hwloop("read", UNBIND, "0", "4096")
    assert (read.returncode, read.stdout) == (0, written), read.stderr
    given_back()


@not_on_arm
def test_a_node_without_a_driver_needs_no_option_and_stays_without() -> None:
    assert hwloop("unbind", TARGET).returncode == 0
    assert not held()
    assert hwloop("read", TARGET, "0", "512").returncode == 0
    assert not held()
    assert hwloop("restore", TARGET).returncode == 0
    given_back()


@pytest.mark.fault(43)
@not_on_arm
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_write_ends_it_and_gives_the_node_back(signum: int, status: int) -> None:
    process = start("write", UNBIND, "0")
    assert machine.wait_for(lambda: not held())
    process.send_signal(signum)
    assert process.wait(30) == status
    given_back()


@pytest.mark.fault(42)
def test_a_killed_process_and_guardian_are_cleaned_up_by_restore() -> None:
    process = start("write", UNBIND, "0")
    assert machine.wait_for(lambda: not held() and machine.guardians_of(process.pid))
    for pid in machine.guardians_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait(30)
    assert not held()
    restored = hwloop("restore")
    assert restored.returncode == 0, restored.stderr
    assert f"{node_of(INDEX)}: virtio-mmio" in restored.stdout.decode()
    (machine.RUN_DIR / f"{node_of(INDEX)}.lock").unlink(missing_ok=True)
    given_back()


@not_on_arm
def test_two_disks_of_one_page_of_registers_are_open_at_once() -> None:
    other = MATES[-1]
    with ours.open(UNBIND) as one, ours.open(target_of(other)) as two:
        assert isinstance(one, ours.VirtioBlk)
        assert isinstance(two, ours.VirtioBlk)
        assert (one.size(), two.size()) == (SPEC.size, DISKS[other].size)
        one.write(0, b"1" * 512)
        two.write(0, b"2" * 512)
        assert (one.read(0, 512), two.read(0, 512)) == (b"1" * 512, b"2" * 512)
    given_back()


@pytest.mark.fault(38)
def test_a_page_of_which_a_driver_holds_a_part_is_an_error_that_names_the_part() -> None:
    mate = node_of(MATES[0])
    assert claim.restore(mate, bus="platform") == "virtio-mmio"
    failed = hwloop("read", UNBIND, "0", "512")
    assert failed.returncode == 6
    assert f"in one page of memory with those of {mate}".encode() in failed.stderr
    assert f"hwloop unbind mmio:{mate}".encode() in failed.stderr
    given_back()
    given_back(MATES[0])


# --- Where no disk is -------------------------------------------------------------------------------------------------


@pytest.mark.fault(37)
def test_a_slot_without_a_device_is_an_error_that_says_so() -> None:
    empty = address_of(MATES[-1] + 1)
    claim.bind_lastingly(node_of(INDEX), None, bus="platform")
    failed = hwloop("read", f"mmio:{empty:#x}", "0", "512", timeout=30)
    assert failed.returncode in (4, 5, 6), failed.stderr
    assert f"{empty:#x}".encode() in failed.stderr
    assert b"the slot is empty" in failed.stderr
    assert b"Traceback" not in failed.stderr
    assert claim.restore(node_of(INDEX)) == "virtio-mmio"
    given_back()


# Beside the slots; far from anything; the console's UART, whose driver holds it; ordinary memory.
NOTHING = {
    "microvm": [0xFEB03000, 0xFEA00000, 0xD0000000, 0x100000],
    "virt": [0x0A004000, 0x0B000000, 0x09000000, 0x40000000],
}


@pytest.mark.parametrize("address", NOTHING.get(MACHINE, []), ids=hex)
def test_an_address_with_no_device_behind_it_is_an_error_and_not_the_end(address: int) -> None:
    """On ARM the access is a bus error, of which a process would die."""
    with pytest.raises(HwloopError, match=f"{address:#x}") as caught:
        ours.open(f"mmio:{address:#x}")
    assert exit_code_of(caught.value) in (4, 5, 6)
    failed = hwloop("read", f"mmio:{address:#x}", "0", "512", timeout=30)
    assert failed.returncode in (4, 5, 6), failed.stderr
    assert b"Traceback" not in failed.stderr


@not_on_arm
def test_a_user_who_is_not_root_is_told_so() -> None:
    failed = subprocess.run(
        ["hwloop", "read", TARGET, "0", "512"], capture_output=True, timeout=60, check=False, user=65534, group=65534
    )
    assert failed.returncode in (3, 6)
    assert b"Traceback" not in failed.stderr
    given_back()


def test_no_memory_is_left_after_all_of_it() -> None:
    assert machine.huge_pages("Free") == machine.huge_pages("Total")
    with DevMemHal():
        pass
    assert machine.huge_pages("Free") == machine.huge_pages("Total")
