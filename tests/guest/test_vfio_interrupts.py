"""Interrupts of real functions through VFIO: MSI-X of a modern and of a legacy interface, and a line."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

import hwloop
from hwloop import claim
from hwloop.deadline import Deadline, wait_until
from hwloop.device.blk import VirtioBlk

MODERN, WITHOUT_VECTORS, TRANSITIONAL = "0000:00:05.0", "0000:00:06.0", "0000:00:07.0"
WAYS = {
    "msix": (MODERN, "", "msix"),
    "intx": (WITHOUT_VECTORS, "", "intx"),
    "legacy-msix": (TRANSITIONAL, "&hal=vfio&mode=legacy", "msix"),
}
SECTORS = 2048


@pytest.fixture(scope="module", autouse=True)
def disks_are_given_back() -> Iterator[None]:
    """Bound once: a test then does not wait for the kernel's driver to come and go."""
    for address in (MODERN, WITHOUT_VECTORS, TRANSITIONAL):
        claim.bind_lastingly(address, claim.VFIO_DRIVER)
    yield
    # But for the first one: a test unbinds it by hand, and hwloop leaves alone what others have changed.
    claim.restore_all()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    return WAYS[request.param]


def opened(way: tuple[str, str, str], wait: str) -> VirtioBlk:
    address, options, _ = way
    return cast(VirtioBlk, hwloop.open(f"{address}?wait={wait}{options}"))


def read_until_interrupted(disk: VirtioBlk, count: int) -> None:
    """A completion that is there before anybody waits needs no interrupt."""
    deadline = Deadline(60)
    while disk._queue.interrupts < count:
        assert not deadline.expired(), f"{disk._queue.interrupts} interrupts; {disk.lines.kind}: {disk.lines.why}"
        disk.read(0, 128 << 10)


@pytest.mark.parametrize("wait", ["irq", "adaptive"])
def test_requests_are_waited_for_by_interrupts(way: tuple[str, str, str], wait: str) -> None:
    with opened(way, wait) as disk:
        assert (disk.lines.kind, disk._queue.waiter.mode) == (way[2], wait)
        read_until_interrupted(disk, 10)


def test_what_was_written_is_read_whichever_way_is_waited(way: tuple[str, str, str]) -> None:
    generator = random.Random(11)
    with opened(way, "irq") as disk:
        model = bytearray(disk.read(0, SECTORS * 512))
        for _ in range(300):
            sector, count = generator.randrange(SECTORS - 8), generator.randrange(1, 9)
            data = generator.randbytes(count * 512)
            disk.write(sector, data)
            model[sector * 512 : sector * 512 + len(data)] = data
        assert disk.read(0, SECTORS * 512) == model
        disk.disable_interrupts()
        assert disk.read(0, SECTORS * 512) == model


def test_a_queue_that_is_polled_is_not_interrupted(way: tuple[str, str, str]) -> None:
    with opened(way, "irq") as disk:
        line = disk.lines.queues[0]
        disk._queue.use_interrupt(None)
        # With EVENT_IDX, QEMU sends one for the first completion of a queue, whatever it was asked.
        disk.read(0, 4096)
        while line.wait(0.05):
            disk.transport.ack_interrupt()
            line.rearm()
        for _ in range(50):
            disk.read(0, 4096)
        assert not line.wait(0.05)


def test_a_loop_of_asyncio_sleeps_on_them(way: tuple[str, str, str]) -> None:
    import asyncio

    async def work() -> None:
        address, options, _ = way
        async with hwloop.aopen(f"{address}?wait=irq{options}") as disk:
            blocks = await asyncio.gather(*(disk.read(sector, 512) for sector in range(300)))
            assert b"".join(blocks) == await disk.read(0, 300 * 512)

    asyncio.run(asyncio.wait_for(work(), 60))


@pytest.mark.fault(9)
def test_who_wants_the_function_back_is_heard() -> None:
    asked: list[int] = []
    disk = opened(WAYS["msix"], "irq")
    disk.on_removal_request(lambda: asked.append(1))
    disk.check_events()
    assert asked == []
    # The kernel waits for us there, and tells us.
    unbind = ["sh", "-c", f"echo {MODERN} > /sys/bus/pci/drivers/vfio-pci/unbind"]
    with subprocess.Popen(unbind) as other:
        wait_until(lambda: bool(disk.check_events() or asked), "the kernel to ask for the function", 60)
        disk.close()
        assert other.wait(60) == 0
    # As it was before: bound to vfio-pci, until the end of these tests.
    Path("/sys/bus/pci/drivers/vfio-pci/bind").write_text(MODERN)
