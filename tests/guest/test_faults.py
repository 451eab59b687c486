"""What goes wrong with a real device while it is driven: somebody resets it, or it stops answering."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import cast

import pytest

import hwloop
from hwloop.device.blk import VirtioBlk
from hwloop.errors import DeviceLost
from hwloop.hal.uio import UioHal
from hwloop.hal.vfio import VfioHal
from hwloop.spec import DeviceStatus
from pci import Command, ConfigSpace
from tests.guest.machine import given_back

CONFINED, BOTH = "0000:00:05.0", "0000:00:06.0"
WAYS = [
    pytest.param(f"{CONFINED}?hal=vfio", marks=pytest.mark.fault(7, 10, over="vfio"), id="vfio"),
    pytest.param(f"{BOTH}?hal=uio", marks=pytest.mark.fault(7, 10, over="uio"), id="uio"),
]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    given_back(CONFINED)
    given_back(BOTH)


@pytest.mark.parametrize("target", WAYS)
def test_a_device_that_somebody_else_resets_is_lost_and_works_again_when_it_is_opened(target: str) -> None:
    with hwloop.open(target) as disk:
        assert isinstance(disk, VirtioBlk)
        disk.write(1, b"a" * 512)
        disk.transport.set_status(DeviceStatus(0))
        with pytest.raises(DeviceLost):
            disk.read(1, 512)
    with hwloop.open(target) as disk:
        assert isinstance(disk, VirtioBlk)
        assert disk.read(1, 512) == b"a" * 512


@pytest.mark.parametrize("target", WAYS)
def test_a_device_that_stops_decoding_its_registers_is_lost_and_the_process_lives(target: str) -> None:
    with hwloop.open(target) as disk:
        assert isinstance(disk, VirtioBlk)
        disk.write(1, b"b" * 512)
        config = ConfigSpace(cast(VfioHal | UioHal, disk.hal).config_access())
        config.set_command_bits(Command(0), Command.MEMORY_SPACE)
        with pytest.raises(DeviceLost) as caught:
            disk.read(1, 512)
        assert caught.value.errno == errno.ENODEV
        config.set_command_bits(Command.MEMORY_SPACE, Command(0))
