"""The contract suite for block devices, over VFIO. It is the same suite that the fakes pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hwloop import claim
from tests.contract.door import Door
from tests.contract.test_block import *  # noqa: F403
from tests.guest import machine
from tests.guest.disks import DISKS, address_of
from tests.guest.vfio_door import VfioDoor


@pytest.fixture
def door() -> Iterator[Door]:
    door = VfioDoor()
    yield door
    door.close()


def test_all_disks_go_back_to_the_kernel_at_the_end() -> None:
    outcomes = dict(claim.restore_all())
    assert set(outcomes.values()) == {"virtio-pci"}
    for spec in DISKS:
        machine.given_back(address_of(spec))
