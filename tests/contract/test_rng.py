"""What every entropy device must do, through whatever door it is reached."""

from __future__ import annotations

import array
import threading
from collections.abc import Callable, Iterator

import pytest

import hwloop
from hwloop.device.fake_rng import FakeRng
from hwloop.device.rng import REQUEST_BYTES, VirtioRng
from hwloop.door.qemu import QemuPlace
from hwloop.errors import DeviceClosed, InvalidParam
from hwloop.hal.fake import FakeHal
from hwloop.spec import Feature
from hwloop.transport.fake_device import MODERN
from tests.contract.machines import MACHINES, WITH_LEGACY
from tests.contract.qemu_machines import QEMU, opened, qemu_target

OpenRng = Callable[[], VirtioRng]
DOORS = [*sorted(MACHINES), *(pytest.param(name, marks=pytest.mark.qemu) for name in QEMU)]


@pytest.fixture(params=DOORS)
def open_rng(request: pytest.FixtureRequest) -> Iterator[OpenRng]:
    """Opens the device; called again, it opens it once more."""
    yield from (_qemu if request.param in QEMU else _fake)(request.param)


def _fake(name: str) -> Iterator[OpenRng]:
    hals: list[FakeHal] = []
    more = Feature.ANY_LAYOUT if name in WITH_LEGACY else 0
    device = FakeRng(FakeHal(), most=1000, features=MODERN | more)

    def open_it() -> VirtioRng:
        hals.append(FakeHal())
        device.hal = hals[-1]
        return VirtioRng(MACHINES[name](hals[-1], device), hals[-1], request_seconds=1)

    yield open_it
    assert [leak for hal in hals for leak in hal.leaks()] == []


def _qemu(name: str) -> Iterator[OpenRng]:
    place = QemuPlace(qemu_target(name, "rng"))
    with place.open_machine() as machine:
        yield lambda: opened(place, machine, VirtioRng)


def test_it_says_what_it_is(open_rng: OpenRng) -> None:
    with open_rng() as rng:
        assert rng.device_type() == hwloop.DeviceType.EntropySource
        assert rng.device_name() == "virtio-rng"
        assert isinstance(rng, hwloop.VirtioRng)
        assert isinstance(rng, hwloop.BaseDriverOps)


@pytest.mark.parametrize("length", [0, 1, 7, 64, REQUEST_BYTES, REQUEST_BYTES + 1, 100_000])
def test_as_many_bytes_come_as_were_asked_for(open_rng: OpenRng, length: int) -> None:
    with open_rng() as rng:
        assert len(rng.read(length)) == length


def test_no_two_reads_are_the_same_and_every_byte_comes(open_rng: OpenRng) -> None:
    with open_rng() as rng:
        reads = [rng.read(32) for _ in range(50)]
        assert len(set(reads)) == 50
        assert set(rng.read(20_000)) == set(range(256))


def test_any_writable_buffer_is_filled(open_rng: OpenRng) -> None:
    with open_rng() as rng:
        words = array.array("I", bytes(4096))
        rng.read_into(words)
        assert len(set(words)) > 1000
        with pytest.raises(InvalidParam):
            rng.read_into(bytes(4))


@pytest.mark.parametrize("length", [-1, -(1 << 64)])
def test_a_length_that_cannot_be_is_refused(open_rng: OpenRng, length: int) -> None:
    with open_rng() as rng, pytest.raises(InvalidParam, match=str(length)):
        rng.read(length)


def test_several_threads_read_at_once(open_rng: OpenRng) -> None:
    with open_rng() as rng:
        reads: list[bytes] = []
        threads = [threading.Thread(target=lambda: reads.append(rng.read(10_000))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert [len(read) for read in reads] == [10_000] * 4
        assert len(set(reads)) == 4


def test_it_is_closed_and_opened_again(open_rng: OpenRng) -> None:
    for _ in range(3):
        rng = open_rng()
        assert len(rng.read(16)) == 16
        rng.close()
        rng.close()
        with pytest.raises(DeviceClosed):
            rng.read(16)
