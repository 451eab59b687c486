"""SIGKILL at random moments of heavy writing: the device is stopped, nothing else is written, the old driver is back.

HWLOOP_KILLS says how often for each door. The neighbour is a disk with a mounted file system, the canaries are all huge
pages that are free while the device is ours and as soon as it is not.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hwloop.hal.memory import HUGE_PAGE
from hwloop.owner import Owner
from tests.guest import machine
from tests.guest.machine import given_back
from tests.killed import start_writing

KILLS = int(os.environ.get("HWLOOP_KILLS", "3"))
MACHINE = os.environ.get("HWLOOP_MACHINE", "q35")
CANARY = b"\xc5" * HUGE_PAGE
SECONDS = 30.0
"""How long it may take here: an emulated machine on a busy host. The time that it took is printed."""

DOORS = {
    "q35": [
        ("0000:00:05.0", "pci", "?hal=vfio"),
        ("0000:00:06.0", "pci", "?hal=uio"),
        ("0000:00:06.0", "pci", "?hal=uio&mode=legacy"),
    ],
    "microvm": [("ninth", "platform", "?unbind=on")],
}


def back_end_of(name: str, bus: str, options: str) -> str:
    """As the matrix of docs/faults.md calls it."""
    return "devmem" if bus == "platform" else "uio" if "uio" in options else "vfio"


DRIVERS = {"pci": "virtio-pci", "platform": "virtio-mmio"}
NEIGHBOURS = {"q35": ("0000:00:07.0", "pci"), "microvm": ("first", "platform")}


def place(name: str) -> str:
    """An address, or which of the memory-mapped disks. Eight of those share a page, which the kernel gives to nobody
    while it drives one of them."""
    if MACHINE == "q35":
        return name
    from tests.guest.devmem_door import node_of  # Its module is for machines without PCI.

    return node_of(["first", "ninth"].index(name) * 8)


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mounted file system on a disk that is none of ours; it is whole at the end."""
    name, bus = NEIGHBOURS[MACHINE]
    node = f"/dev/{machine.disk_name(place(name), bus)}"
    folder = tmp_path_factory.mktemp("neighbour")
    subprocess.run(["mkfs.ext4", "-q", "-F", node], check=True, timeout=60)
    subprocess.run(["mount", node, str(folder)], check=True, timeout=60)
    (folder / "file").write_bytes(random.Random(1).randbytes(1 << 20))
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=60)
    subprocess.run(["e2fsck", "-f", "-n", node], check=True, timeout=60)


class Canaries(Owner):
    """Huge pages that nobody but us may write; `fill` takes all that are free."""

    def __init__(self) -> None:
        self.maps: list[mmap.mmap] = []

    def fill(self) -> None:
        with suppress(OSError):
            while True:
                flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE | 0x40000  # MAP_HUGETLB
                page = mmap.mmap(-1, HUGE_PAGE, flags=flags)
                page.write(CANARY)
                self.maps.append(page)

    def intact(self) -> bool:
        return all(page[:] == CANARY for page in self.maps)

    def close(self) -> None:
        while self.maps:
            self.maps.pop().close()


def kill_once(address: str, bus: str, options: str, delay: float) -> float:
    """Kill a writer after so many seconds; returns how long the old driver took to be back."""
    kind = "mmio:" if bus == "platform" else ""
    child = start_writing(f"{kind}{address}{options}", b"w" * (64 * 512))
    with Canaries() as canaries:
        canaries.fill()
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        killed = time.monotonic()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        while not is_back(address, bus):
            canaries.fill()
            assert time.monotonic() - killed < SECONDS, machine.driver(address, bus)
            time.sleep(0.01)
        took = time.monotonic() - killed
        canaries.fill()
        time.sleep(0.05)
        assert canaries.intact()
    return took


def is_back(address: str, bus: str) -> bool:
    return machine.driver(address, bus) == DRIVERS[bus] and not list(machine.RUN_DIR.glob("*"))


@pytest.mark.parametrize(
    ("name", "bus", "options"),
    [pytest.param(*door, marks=pytest.mark.fault(41, over=back_end_of(*door))) for door in DOORS[MACHINE]],
    ids=str,
)
def test_faults_41_a_driver_killed_while_it_writes_harms_nobody(
    name: str, bus: str, options: str, neighbour: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = place(name)
    choose = random.Random(41)
    took = []
    for _ in range(KILLS):
        took.append(kill_once(address, bus, options, choose.random() * 0.3))
        assert machine.wait_for(lambda: has_disk(address, bus))
        given_back(address, bus, DRIVERS[bus])
    assert (neighbour / "file").read_bytes() == random.Random(1).randbytes(1 << 20)
    with capsys.disabled():
        print(
            f"{len(took)} of {KILLS} kills of {address}{options}: old driver back within {max(took):.2f} s, "
            f"{sum(each < 2 for each in took)} of them within 2 s, median {statistics.median(took):.2f} s"
        )


def has_disk(address: str, bus: str) -> bool:
    try:
        return Path(f"/dev/{machine.disk_name(address, bus)}").exists()
    except IndexError:
        return False


def test_the_canaries_would_notice() -> None:
    with Canaries() as canaries:
        canaries.fill()
        assert canaries.maps
        assert canaries.intact()
        ctypes.c_char.from_buffer(canaries.maps[0], 100).value = b"x"
        assert not canaries.intact()
