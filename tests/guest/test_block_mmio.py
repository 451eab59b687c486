"""The contract suite for block devices, over memory-mapped registers through /dev/mem."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hwloop import claim
from tests.contract.door import Door
from tests.contract.test_block import *  # noqa: F403
from tests.guest import machine
from tests.guest.devmem_door import DevMemDoor, give_back_all, node_of
from tests.guest.disks import DISKS


@pytest.fixture
def door() -> Iterator[Door]:
    door = DevMemDoor()
    yield door
    door.close()


def test_all_disks_work_in_the_kernel_again_at_the_end_and_their_pages_are_free() -> None:
    assert claim.restore(node_of(0), bus="platform") == "virtio-mmio"
    give_back_all()
    for index in range(len(DISKS)):
        machine.given_back(node_of(index), "platform", "virtio-mmio")
    assert machine.huge_pages("Free") == machine.huge_pages("Total")
