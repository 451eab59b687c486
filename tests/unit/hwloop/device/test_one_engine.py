"""A disk's bytes, its tokens and its queues go through one engine."""

from __future__ import annotations

import pytest

from cython_ring import DmaBuffer
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import AlreadyUsed
from hwloop.hal.base import BufferDirection, Dma
from hwloop.hal.fake import FakeHal
from hwloop.queue_options import QueueOptions
from hwloop.spec import BlkFeature
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, RINGS

QUEUES = 4


def disk_of(**chosen: bool) -> tuple[VirtioBlk, FakeBlk, DmaBuffer]:
    hal = FakeHal()
    device = FakeBlk(hal, features=MODERN | RINGS | BlkFeature.MQ, queues=QUEUES)
    disk = VirtioBlk(FakeTransport(device), hal, options=QueueOptions(chosen, queues=QUEUES))
    memory = Dma(hal, 4, BufferDirection.Both)
    return disk, device, DmaBuffer(memory.vaddr, memory.paddr, memory.size, owner=memory)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("in_order", [False, True])
def test_each_queue_reads_what_another_one_wrote(packed: bool, indirect: bool, in_order: bool) -> None:
    disk, _, memory = disk_of(**{"packed": packed, "indirect": indirect, "in-order": in_order})
    with disk:
        for queue in disk.queues:
            disk.write(8 * queue.index, bytes([queue.index + 1]) * 4096)
        for queue in disk.queues:
            queue.read_into(8 * queue.index, memory, 0, 4096)
            assert bytes(memory)[:4096] == bytes([queue.index + 1]) * 4096
        assert [queue.notifications > 0 for queue in disk.virtqueues] == [True] * QUEUES


def test_requests_of_a_queue_s_user_are_not_taken_by_the_disk() -> None:
    disk, device, memory = disk_of()
    with disk:
        device.hold = True
        disk.queues[0].submit_read(0, memory, 7, 0, 512)
        with pytest.raises(AlreadyUsed, match="reap them first"):
            disk.submit_read(0, 512)
        device.hold = False
        device.release(0)
        assert disk.poll() == []
        assert disk.queues[0].poll() == (7,)
        assert disk.read(0, 512) == bytes(512)


def test_a_disk_that_grew_tells_its_queues() -> None:
    disk, device, _ = disk_of()
    with disk:
        device.set_config(0, 8, 4096)
        disk.read_config_again()
        assert [queue.capacity for queue in disk.queues] == [4096] * QUEUES
