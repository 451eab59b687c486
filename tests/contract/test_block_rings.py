"""A short core of the suite over every combination of what a ring can be, on QEMU's disk and on a fake one.

The complete suite runs over a selection of them: see the doors.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import pytest

from cython_ring import DmaBuffer
from hwloop.device.blk import VirtioBlk
from hwloop.hal.base import BufferDirection, Dma
from hwloop.hal.fake import FakeHal
from hwloop.hal.fake_interrupt import FakeInterrupts
from hwloop.queue_options import QueueOptions
from hwloop.spec import Feature
from hwloop.transport.fake_device import RINGS
from tests.contract.door import Door
from tests.contract.doors import FakeDoor
from tests.contract.qtest_doors import QtestDoor

MIB = 1 << 20
FORMATS, INDIRECT, EVENTS, WAITS, QUEUES = ("split", "packed"), ("on", "off"), ("on", "off"), ("poll", "irq"), (1, 4)
ALL = list(product(FORMATS, INDIRECT, EVENTS, WAITS, QUEUES))
WANTED = {"packed": Feature.RING_PACKED, "indirect": Feature.INDIRECT_DESC, "event-idx": Feature.EVENT_IDX}


def named(*values: object) -> str:
    ring, indirect, events, wait, queues, *rest = values
    return f"{ring}-indirect={indirect}-event-idx={events}-{wait}-{queues}" + "".join(f"-in-order={v}" for v in rest)


class FakeRings(FakeDoor):
    """A fake disk with every feature of rings, of which those in `switches` are used."""

    def __init__(self, switches: dict[str, bool], wait: str, queues: int) -> None:
        super().__init__("pci", wait, name="rings", vectors=queues + 1)
        self.options = QueueOptions(switches, queues=queues)

    def reopen(self) -> VirtioBlk:
        self.device.features |= RINGS
        self.hal = self.device.hal = FakeHal(interrupts=FakeInterrupts(self.vectors))
        self.disk = VirtioBlk(self.transport(), self.hal, request_seconds=10, wait=self.wait, options=self.options)
        return self.disk


@pytest.fixture
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    where, ring, indirect, events, wait, queues, *in_order = request.param
    if where == "fake":
        switches = {"packed": ring == "packed", "indirect": indirect == "on", "event-idx": events == "on"}
        switches["in-order"] = in_order == ["on"]
        made: Door = FakeRings(switches, wait, queues)
    else:
        made = QtestDoor("rings", options_of(ring, indirect, events, wait, queues))
    yield made
    made.close()


IN_ORDER = ("on", "off")
"""Of the fake alone: no device of QEMU's offers it."""
QTEST = [pytest.param(("qtest", *each), id=f"qtest-{named(*each)}", marks=pytest.mark.qemu) for each in ALL]
FAKE = [
    pytest.param(("fake", *each), id=f"fake-{named(*each)}")
    for each in product(FORMATS, INDIRECT, EVENTS, WAITS, QUEUES, IN_ORDER)
]


@pytest.mark.parametrize("door", [*QTEST, *FAKE], indirect=True)
def test_every_combination_carries_every_kind_of_use(door: Door, request: pytest.FixtureRequest) -> None:
    where, *combination = request.node.callspec.params["door"]
    queues = combination[4]
    disk = door.open(MIB, **({"shape": f"queues={queues}"} if where == "fake" else {}))
    assert isinstance(disk, VirtioBlk)
    carries_every_kind_of_use(disk, combination)
    written = disk.read(0, MIB)
    assert door.backing(0, MIB) == written


def options_of(ring: str, indirect: str, events: str, wait: str, queues: int) -> str:
    """The part of a target that asks for a combination."""
    packed = "on" if ring == "packed" else "off"
    return f"packed={packed}&indirect={indirect}&event-idx={events}&wait={wait}&queues={queues}"


def carries_every_kind_of_use(disk: VirtioBlk, combination: Sequence[Any], turns: int = 3, requests: int = 200) -> None:
    """Asserts that the disk is of this combination, and that all kinds of requests work."""
    ring, indirect, events, wait, queues, *in_order = combination
    negotiated = {name: bool(disk.negotiated & bit) for name, bit in WANTED.items()}
    assert negotiated == {"packed": ring == "packed", "indirect": indirect == "on", "event-idx": events == "on"}
    assert bool(disk.negotiated & Feature.IN_ORDER) == (in_order == ["on"])
    assert len(disk.queues) == queues
    assert {queue.waiter.mode for queue in disk.virtqueues} == {wait}
    model = bytearray(disk.read(0, MIB))
    many_outstanding(disk, model, turns)
    random_requests(disk, model, requests)
    each_queue(disk, model)
    disk.flush()
    assert disk.read(0, MIB) == model


def many_outstanding(disk: VirtioBlk, model: bytearray, turns: int) -> None:
    """More than the queue takes without indirect tables at once, and each gets its own."""
    for turn in range(turns):
        count = min(disk.requests_free, 40)
        tokens = [disk.submit_write(8 * at, bytes([at + turn]) * 4096) for at in range(count)]
        for token in reversed(tokens):
            disk.wait(token)
        for at in range(count):
            model[4096 * at : 4096 * (at + 1)] = bytes([at + turn]) * 4096
        reads = {disk.submit_read(8 * at, 4096): at for at in range(count)}
        for token, at in reads.items():
            assert disk.wait(token) == bytes([at + turn]) * 4096


def random_requests(disk: VirtioBlk, model: bytearray, requests: int) -> None:
    rng = random.Random(1)
    for _ in range(requests):
        first, length = rng.randrange(MIB // 512 - 16), 512 * rng.randint(1, 16)
        start = 512 * first
        if rng.random() < 0.5:
            data = rng.randbytes(length)
            disk.write(first, data)
            model[start : start + length] = data
        else:
            assert disk.read(first, length) == model[start : start + length]


def each_queue(disk: VirtioBlk, model: bytearray) -> None:
    """Reads that one queue after the other has in flight together, in memory of the disk's Hal."""
    count = 8
    with Dma(disk.hal, count, BufferDirection.DeviceToDriver) as memory:
        buffer = DmaBuffer(memory.vaddr, memory.paddr, memory.size, owner=memory)
        for number, queue in enumerate(disk.queues):
            sectors = [8 * (count * number + at) for at in range(count)]
            for at, sector in enumerate(sectors):
                queue.submit_read(sector, buffer, at, 4096 * at, 4096)
            taken: set[int] = set()
            while len(taken) < count:
                found = queue.reap(1, deadline=30)
                found.raise_first()
                taken |= set(found.tags)
            start = 512 * sectors[0]
            assert memory.view == model[start : start + 4096 * count]
        buffer.close()
