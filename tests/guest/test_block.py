"""The contract suite for block devices, over VFIO. It is the same suite that the fakes pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hwloop import claim
from tests.contract.door import Door
from tests.contract.test_block import *  # noqa: F403
from tests.contract.test_block_bytes import (  # noqa: F401
    test_an_archive_is_written_to_it_and_read_back,
    test_random_bytes_agree_with_a_model,
    test_the_end_of_the_disk_is_what_it_is_on_linux,
)
from tests.contract.test_block_requests import (  # noqa: F401
    test_a_discarded_range_leaves_the_rest_as_it_is,
    test_a_zeroed_range_reads_zeros_and_is_zeros_on_the_disk,
    test_many_ranges_are_zeroed_in_one_call,
    test_ranges_that_are_not_on_the_disk_are_refused_and_none_of_a_call_is_sent,
    test_the_cache_mode_is_read_and_switched,
)
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
