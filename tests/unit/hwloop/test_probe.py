"""Probing all devices, and taking one of a type."""

from __future__ import annotations

import pytest

import hwloop
from hwloop.device.blk import VirtioBlk
from tests.unit.hwloop.machine import DISK, Machine, NewMachine


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    return new_machine()


def test_the_first_block_device_is_taken_as_in_seed_000(machine: Machine) -> None:
    all_devices = hwloop.probe(machine.tree.sysfs)
    disk = all_devices.block.take_one()
    assert isinstance(disk, VirtioBlk)
    with disk:
        assert disk.device_type() == hwloop.DeviceType.Block
        assert all_devices.block.take_one() is None, "there is one, and it is taken"
    assert machine.given_back()


def test_probing_opens_nothing(machine: Machine) -> None:
    found = hwloop.probe(machine.tree.sysfs)
    assert (list(found.block), len(found.block), len(found.console)) == ([DISK], 1, 0)
    assert machine.tree.writes == []


def test_a_disk_in_use_is_not_offered_and_one_that_got_into_use_is_passed_over(machine: Machine) -> None:
    found = hwloop.probe(machine.tree.sysfs)
    machine.tree.add_mount("vda", "/")
    assert found.block.take_one() is None
    assert list(hwloop.probe(machine.tree.sysfs).block) == []
    assert machine.given_back()


def test_a_word_that_is_no_type_of_device_is_an_error(machine: Machine) -> None:
    with pytest.raises(AttributeError, match="no type of device is called 'toaster'"):
        hwloop.probe(machine.tree.sysfs).toaster  # noqa: B018
