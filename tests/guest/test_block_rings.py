"""Every combination of what a ring can be, over VFIO: the suite of tests/contract/test_block_rings.py."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

import hwloop
from hwloop import claim
from hwloop.device.blk import VirtioBlk
from tests.contract.test_block_rings import ALL, MIB, carries_every_kind_of_use, named, options_of


def is_of_the_covering_ones(ring: str, indirect: str, events: str, wait: str, queues: int) -> bool:
    first, second, third = ring == "packed", indirect == "on", events == "on"
    return (wait == "irq") == (first ^ second) and (queues == 4) == (first ^ third)


COVERING = [each for each in ALL if is_of_the_covering_ones(*each)]
"""With these every pair of choices comes together; `HWLOOP_ALL_RINGS=1` runs all of them."""
CHOSEN = ALL if os.environ.get("HWLOOP_ALL_RINGS") else COVERING
DISK = "0000:00:05.0"
IMAGE = Path("/share/rings.img")


@pytest.fixture(scope="module", autouse=True)
def disk_is_given_back() -> Iterator[None]:
    claim.bind_lastingly(DISK, claim.VFIO_DRIVER)
    yield
    assert dict(claim.restore_all()) == {DISK: "virtio-pci"}


def opened(options: str) -> VirtioBlk:
    return cast(VirtioBlk, hwloop.open(f"{DISK}?{options}"))


@pytest.mark.parametrize("combination", CHOSEN, ids=[named(*each) for each in CHOSEN])
def test_every_combination_carries_every_kind_of_use(combination: tuple[str, str, str, str, int]) -> None:
    with opened(options_of(*combination)) as disk:
        carries_every_kind_of_use(disk, combination, turns=1, requests=30)
        written = disk.read(0, MIB)
        with open(IMAGE, "rb", buffering=0) as image:
            assert image.read(MIB) == written


@pytest.mark.parametrize("packed", ["off", "on"])
def test_pages_of_the_callers_own_are_read_and_written_in_place(packed: str) -> None:
    with mmap.mmap(-1, 64 << 10) as pages, opened(f"packed={packed}") as disk:
        with disk.register(pages) as buffer:
            pages[: 32 << 10] = b"mine" * (8 << 10)
            disk.queues[0].write_from(64, buffer, 0, 32 << 10)
            disk.queues[0].read_into(64, buffer, 32 << 10, 32 << 10)
        assert pages[32 << 10 :] == b"mine" * (8 << 10)
        with open(IMAGE, "rb", buffering=0) as image:
            image.seek(64 * 512)
            assert image.read(32 << 10) == b"mine" * (8 << 10)


@pytest.mark.parametrize("wait", ["irq", "adaptive"])
@pytest.mark.parametrize("queues", [1, 4])
def test_calls_of_a_queue_sleep_on_its_interrupt(wait: str, queues: int) -> None:
    with opened(f"wait={wait}&queues={queues}") as disk, disk.alloc(128 << 10) as buffer:
        for queue, virtqueue in zip(disk.queues, disk.virtqueues, strict=True):
            while virtqueue.interrupts < 3:
                queue.read_into(0, buffer)
