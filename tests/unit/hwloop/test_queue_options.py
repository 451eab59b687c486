"""What a user may choose about the queues of a device."""

from __future__ import annotations

import pytest

from hwloop import session
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import FeaturesRefused, InvalidParam, Unsupported
from hwloop.hal.fake import FakeHal
from hwloop.queue_options import SWITCHES, QueueOptions
from hwloop.spec import BlkFeature, DeviceStatus, Feature
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, RINGS


def opened(options: str) -> VirtioBlk:
    disk = session.open(f"fake:1M?{options}")
    assert isinstance(disk, VirtioBlk)
    return disk


def disk_of(options: QueueOptions, features: int = MODERN | RINGS, **shape: int) -> VirtioBlk:
    hal = FakeHal()
    return VirtioBlk(FakeTransport(FakeBlk(hal, features=features, **shape)), hal, options=options)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["on", "off"])
def test_each_feature_of_rings_is_negotiated_as_it_was_asked_for(name: str, value: str) -> None:
    with opened(f"{name}={value}") as disk:
        assert bool(disk.negotiated & SWITCHES[name][0]) == (value == "on")
        disk.write(3, b"x" * 512)
        assert disk.read(3, 512) == b"x" * 512


def test_without_a_word_everything_but_packed_rings_and_the_reset_of_queues_is_used() -> None:
    with opened("serial=A") as disk:
        left_out = Feature.RING_PACKED | Feature.RING_RESET
        assert disk.negotiated & RINGS == RINGS & ~left_out


@pytest.mark.parametrize("name", SWITCHES)
def test_what_a_device_does_not_offer_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(Unsupported, match=f"leave {name} out"):
        disk_of(QueueOptions({name: True}), MODERN)
    disk_of(QueueOptions({name: False}), MODERN).close()


class OnlyPacked(FakeBlk):
    """Keeps FEATURES_OK only with packed rings."""

    def _kept(self, new: DeviceStatus) -> DeviceStatus:
        kept = super()._kept(new)
        return kept if self.driver_features & Feature.RING_PACKED else kept & ~DeviceStatus.FEATURES_OK


def test_a_device_that_wants_packed_rings_gets_them() -> None:
    hal = FakeHal()
    with VirtioBlk(FakeTransport(OnlyPacked(hal, features=MODERN | RINGS)), hal) as disk:
        assert disk.negotiated & Feature.RING_PACKED
        assert disk.read(0, 512) == bytes(512)


def test_unless_the_user_said_no() -> None:
    hal = FakeHal()
    with pytest.raises(FeaturesRefused):
        VirtioBlk(FakeTransport(OnlyPacked(hal, features=MODERN | RINGS)), hal, options=QueueOptions({"packed": False}))


def test_as_many_queues_are_set_up_as_were_asked_for_each_of_the_size_that_was() -> None:
    with opened("queues=4&queue-size=16") as disk:
        assert [(queue.index, queue.size) for queue in disk.virtqueues] == [(index, 16) for index in range(4)]


def test_more_queues_than_the_device_has_are_refused() -> None:
    with pytest.raises(InvalidParam, match="the device has 2"):
        disk_of(QueueOptions(queues=3), MODERN | BlkFeature.MQ, queues=2)
    with pytest.raises(InvalidParam, match="the device has 1"):
        disk_of(QueueOptions(queues=2), MODERN, queues=2)


@pytest.mark.parametrize(
    "option", ["queues=0", "queues=x", "queues=1025", "queue-size=0", "queue-size=32769", "packed=yes"]
)
def test_options_that_cannot_be_are_refused(option: str) -> None:
    with pytest.raises(InvalidParam, match=option.split("=")[0]):
        opened(option)
