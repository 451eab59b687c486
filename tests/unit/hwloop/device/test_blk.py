"""The names of seed 000 for making a block driver, and requests that cannot be made."""

from __future__ import annotations

from typing import Any

import pytest

from hwloop.device.blk import VirtioBlk, VirtIoBlkDev
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DmaError, FeaturesRefused
from hwloop.hal.fake import FakeHal
from hwloop.spec import PhysAddr
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


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_while_a_request_is_put_into_the_queue_costs_that_request_only(moment: str) -> None:
    """What the device has keeps its buffer until it is done; what it has not gives it back at once."""
    hal = FakeHal()
    device = FakeBlk(hal)
    device.hold = True
    disk = VirtioBlk(FakeTransport(device), hal)
    add, released = disk._add, list[int]()

    def interrupted(*arguments: Any) -> None:
        if moment == "after":
            add(*arguments)
        raise KeyboardInterrupt

    unshare = hal.unshare
    hal.unshare = lambda *arguments: (released.append(1), unshare(*arguments))[1]  # type: ignore[method-assign]
    disk._add = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        disk.submit_read(0, 512)
    assert len(released) == (moment == "before")
    disk._add = add  # type: ignore[method-assign]
    device.hold = False
    device.release()
    assert disk.read(0, 512) == bytes(512)
    assert disk.poll() == []
    assert len(released) == 2
    disk.close()
    assert hal.leaks() == []


def test_a_request_that_cannot_be_made_costs_nothing() -> None:
    hal = FakeHal()
    with VirtioBlk(FakeTransport(FakeBlk(hal)), hal) as disk:
        free = disk.requests_free
        share = hal.share

        def exhausted(*_: object) -> PhysAddr:
            raise DmaError("1 huge page of 2048 KiB for the device's memory: not free")

        hal.share = exhausted  # type: ignore[method-assign]
        for _ in range(free + 1):
            with pytest.raises(DmaError):
                disk.read(0, 512)
        hal.share = share  # type: ignore[method-assign]
        assert disk.requests_free == free
        assert disk.read(0, 512) == bytes(512)
    assert hal.leaks() == []
