"""The names of seed 000 for making a block driver."""

from __future__ import annotations

import pytest

from hwloop.device.blk import VirtioBlk, VirtIoBlkDev
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import FeaturesRefused
from hwloop.hal.fake import FakeHal
from hwloop.transport.fake import FakeTransport


def test_try_new_gives_an_initialised_driver() -> None:
    hal = FakeHal()
    with VirtIoBlkDev.try_new(FakeTransport(FakeBlk(hal)), hal) as disk:
        assert isinstance(disk, VirtioBlk)
        assert disk.read(0, 512) == bytes(512)
    assert hal.leaks() == []


def test_try_new_fails_when_a_step_fails_and_leaves_nothing() -> None:
    hal = FakeHal()
    device = FakeBlk(hal)
    device.faults.refuse_features = True
    transport = FakeTransport(device)
    with pytest.raises(FeaturesRefused):
        VirtIoBlkDev.try_new(transport, hal)
    assert (hal.leaks(), transport.closed) == ([], True)
