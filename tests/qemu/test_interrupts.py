"""Interrupts without a processor: messages that land in guest RAM, and lines that the qtest server listens on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import cast

import pytest

from hwloop.deadline import Deadline, wait_until
from hwloop.device.blk import VirtioBlk
from hwloop.door.base import Opened
from hwloop.door.qemu import DEVICE_ID, QemuPlace
from hwloop.errors import AlreadyUsed, InvalidParam
from hwloop.hal.base import BufferDirection, Dma
from hwloop.hal.interrupt import Interrupt
from hwloop.hal.qtest import QtestHal
from hwloop.qtest.qemu import QemuMachine
from hwloop.queue import VirtQueue
from hwloop.spec import BlkFeature, Feature, PhysAddr
from hwloop.transport.pci_legacy import PciLegacyTransport
from tests.qemu.conftest import CONTENT

Start = Callable[..., tuple[QemuPlace, QemuMachine]]
LINES = [
    {},
    {"legacy": "on"},
    {"transitional": "on", "mode": "legacy"},
    {"machine": "virt-pci"},
    {"machine": "virt-pci", "legacy": "on"},
    {"machine": "microvm"},
    {"machine": "microvm", "mmio_version": "1"},
    {"machine": "virt"},
    {"machine": "virt", "mmio_version": "1"},
]


def read_until_interrupted(disk: VirtioBlk) -> None:
    """A completion that is there before anybody waits brings no interrupt, and on a busy machine one may well be."""
    deadline = Deadline(60)
    while disk.virtqueues[0].interrupts < 3:
        assert not deadline.expired()
        assert disk.read(0, 512) == CONTENT


def vectors_of(opened: Opened, count: int) -> list[Interrupt]:
    lines = [opened.hal.interrupt(vector) for vector in range(count)]
    return [cast(Interrupt, line) for line in lines]


def slow_down(machine: QemuMachine) -> None:
    """100 requests a second but for a few at first, so that none completes before somebody waits for it."""
    limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
    # A function has the device inside; on other buses the two are one.
    inside = "/virtio-backend" if machine.type.pci is not None else ""
    machine.qmp.execute("block_set_io_throttle", limits, id=f"/machine/peripheral/{DEVICE_ID}{inside}", iops=100)


@pytest.mark.parametrize("options", LINES, ids=lambda options: "-".join(options.values()) or "q35")
def test_a_line_is_heard_and_goes_down_when_it_is_acknowledged(start: Start, options: dict[str, str]) -> None:
    place, machine = start(**options)
    opened = place.reach(machine)
    with opened, VirtioBlk(opened.transport, opened.hal) as disk:
        disk.enable_interrupts()
        line = cast(Interrupt, opened.hal.interrupt())
        for _ in range(3):
            token = disk.submit_read(0, 512)
            assert line.wait(30)
            assert line.wait(0), "it stays raised until it is acknowledged"
            assert opened.transport.ack_interrupt()
            assert not line.wait(0.01)
            assert disk.complete(token) == CONTENT


def test_a_driver_waits_on_the_line_of_its_device(start: Start) -> None:
    place, machine = start(legacy="on")
    opened = place.reach(machine)
    with opened, VirtioBlk(opened.transport, opened.hal) as disk:
        disk.enable_interrupts()
        slow_down(machine)
        read_until_interrupted(disk)


def test_a_line_is_not_heard_while_the_device_is_asked_not_to_interrupt(start: Start) -> None:
    place, machine = start()
    opened = place.reach(machine)
    with opened, VirtioBlk(opened.transport, opened.hal) as disk:
        line = cast(Interrupt, opened.hal.interrupt())
        disk.read(0, 512)
        # With EVENT_IDX, QEMU sends one for the first completion of a queue, whatever it was asked.
        while line.wait(0.01):
            opened.transport.ack_interrupt()
            line.rearm()
        disk.read(0, 512)
        assert not line.wait(0.01)


@pytest.mark.parametrize("name", ["q35", "virt-pci"])
def test_each_queue_and_the_configuration_have_their_own_vectors(start: Start, name: str) -> None:
    place, machine = start(num_queues="4", machine=name)
    with place.reach(machine) as opened:
        transport, hal = opened.transport, opened.hal
        lines = vectors_of(opened, 5)
        transport.queue_vectors = {queue: queue for queue in range(4)}
        transport.config_vector = 4
        transport.begin_init(int(Feature.VERSION_1 | BlkFeature.MQ))
        queues = [VirtQueue(hal, transport, index, 8) for index in range(4)]
        transport.finish_init()
        for index, queue in enumerate(queues):
            queue.use_interrupt(lines[index])
            assert read_sector(hal, queue, lines[index]) == CONTENT
            assert [line.wait(0) for line in lines] == [False] * 5
        machine.qmp.execute("block_resize", {"node-name": "disk0"}, size=2 << 20)
        assert [line.wait(1 if line is lines[4] else 0) for line in lines] == [False] * 4 + [True]
        transport.reset()
        for queue in queues:
            queue.close()


def read_sector(hal: object, queue: VirtQueue, line: Interrupt) -> bytes:
    """A read of sector 0, past every driver, which has completed when the line says so."""
    assert isinstance(hal, QtestHal)
    header = Dma(hal, 1, BufferDirection.DriverToDevice)
    answer = Dma(hal, 1, BufferDirection.DeviceToDriver)
    with header, answer:
        data, status = (answer.paddr, 512), (PhysAddr(answer.paddr + 512), 1)
        queue.add([(header.paddr, 16)], [data, status], "read")
        queue.submit()
        assert line.wait(30)
        assert queue.pop() == ("read", 513)
        assert answer.view[512] == 0
        return bytes(answer.view[:512])


def test_a_driver_waits_on_the_vector_of_its_queue(start: Start) -> None:
    place, machine = start()
    with ExitStack() as stack:
        opened = stack.enter_context(place.reach(machine))
        [line] = vectors_of(opened, 1)
        opened.transport.queue_vectors = {0: 0}
        disk = stack.enter_context(VirtioBlk(opened.transport, opened.hal))
        disk.virtqueues[0].use_interrupt(line)
        slow_down(machine)
        read_until_interrupted(disk)


def test_a_legacy_device_with_vectors_has_its_configuration_elsewhere(start: Start) -> None:
    place, machine = start(legacy="on")
    with ExitStack() as stack:
        opened = stack.enter_context(place.reach(machine))
        assert isinstance(opened.transport, PciLegacyTransport)
        queue_line, config_line = vectors_of(opened, 2)
        opened.transport.queue_vectors, opened.transport.config_vector = {0: 0}, 1
        disk = stack.enter_context(VirtioBlk(opened.transport, opened.hal))
        assert disk.capacity() == 2048
        disk.virtqueues[0].use_interrupt(queue_line)
        token = disk.submit_read(0, 512)
        assert queue_line.wait(30)
        assert disk.complete(token) == CONTENT
        machine.qmp.execute("block_resize", {"node-name": "disk0"}, size=2 << 20)
        assert config_line.wait(30)
        assert opened.transport.read_config_space(0, 8) == 4096


def test_a_vector_that_was_closed_is_silent_and_can_be_opened_again(start: Start) -> None:
    place, machine = start()
    with ExitStack() as stack:
        opened = stack.enter_context(place.reach(machine))
        [line] = vectors_of(opened, 1)
        with pytest.raises(AlreadyUsed):
            opened.hal.interrupt(0)
        opened.transport.queue_vectors = {0: 0}
        disk = stack.enter_context(VirtioBlk(opened.transport, opened.hal))
        disk.virtqueues[0].set_dev_notify(True)
        line.close()
        line.close()
        assert disk.read(0, 512) == CONTENT
        assert not line.wait(0.01)
        again = cast(Interrupt, opened.hal.interrupt(0))
        # The function remembered the message while the vector was masked (PCI 3.0, 6.8.3.4).
        assert again.wait(30)
        disk.read(0, 512)
        assert again.wait(30)


def test_a_vector_that_the_function_does_not_have_is_refused(start: Start) -> None:
    place, machine = start()
    with place.reach(machine) as opened:
        for vector in (-1, 2, 2048):
            with pytest.raises(InvalidParam, match="vector"):
                opened.hal.interrupt(vector)


def test_an_mmio_device_has_no_vectors(start: Start) -> None:
    place, machine = start(machine="microvm")
    with place.reach(machine) as opened:
        assert opened.hal.interrupt(0) is None


# --- As a target says -------------------------------------------------------------------------------------------------

WAYS = [
    ({}, "msix"),
    ({"legacy": "on"}, "msix"),
    ({"machine": "microvm"}, "mmio"),
    ({"machine": "microvm", "mmio_version": "1"}, "mmio"),
    ({"machine": "virt-pci", "num_queues": "4"}, "msix"),
]


@pytest.mark.fault(11)
@pytest.mark.parametrize("wait", ["irq", "adaptive"])
@pytest.mark.parametrize(("options", "kind"), WAYS, ids=str)
def test_a_disk_has_the_best_interrupts_that_there_are_and_hears_that_it_grows(
    start: Start, options: dict[str, str], kind: str, wait: str
) -> None:
    place, machine = start(**options)
    opened = place.reach(machine)
    with opened, VirtioBlk(opened.transport, opened.hal, wait=wait) as disk:
        assert (disk.lines.kind, disk.lines.why) == (kind, "") or kind == "mmio"
        told: list[int] = []
        disk.on_config_change(lambda: told.append(disk.capacity()))
        slow_down(machine)
        read_until_interrupted(disk)
        machine.qmp.execute("block_resize", {"node-name": "disk0"}, size=2 << 20)
        wait_until(lambda: bool(disk.check_events() or told), "the new capacity", 30)
        assert told == [4096]
        assert len(disk.read(4095, 512)) == 512


def test_a_queue_that_is_polled_sends_no_messages(start: Start) -> None:
    place, machine = start()
    opened = place.reach(machine)
    with opened, VirtioBlk(opened.transport, opened.hal, wait="irq") as disk:
        line = disk.lines.queues[0]
        disk.virtqueues[0].use_interrupt(None)
        disk.read(0, 512)  # with EVENT_IDX, QEMU sends one for the first completion of a queue, whatever it was asked
        line.take()
        for _ in range(50):
            disk.read(0, 512)
        assert not line.take()
        disk.virtqueues[0].use_interrupt(line)
        disk.read(0, 512)
        wait_until(lambda: line.take() or disk.virtqueues[0].interrupts > 0, "the interrupt", 30)
