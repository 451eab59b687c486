"""The contract suite for block devices over disks with both interfaces, through UIO and through VFIO."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hwloop import claim
from tests.contract.door import Door
from tests.contract.test_block import *  # noqa: F403
from tests.guest import machine
from tests.guest.disks import DISKS, address_of
from tests.guest.transitional_doors import DOORS
from tests.guest.vfio_door import VfioDoor


# A door after the other: a disk is bound once for each of them.
@pytest.fixture(params=DOORS, ids=[door.name for door in DOORS], scope="module")
def kind(request: pytest.FixtureRequest) -> type[VfioDoor]:
    assert issubclass(request.param, VfioDoor)
    return request.param


@pytest.fixture
def door(kind: type[VfioDoor]) -> Iterator[Door]:
    door = kind()
    yield door
    door.close()


def test_all_disks_go_back_to_the_kernel_at_the_end_and_their_pages_are_free() -> None:
    outcomes = dict(claim.restore_all())
    assert set(outcomes.values()) == {"virtio-pci"}
    for spec in DISKS:
        machine.given_back(address_of(spec))
    assert machine.huge_pages("Free") == machine.huge_pages("Total")
