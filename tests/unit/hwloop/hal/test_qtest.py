"""The qtest HAL: memory of a machine, and the messages of MSI-X that land in it, with a machine that is all memory."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hwloop.errors import AlreadyUsed, DmaError, InvalidParam
from hwloop.hal.base import BufferDirection
from hwloop.hal.interrupt import Interrupt
from hwloop.hal.qtest import QtestHal
from hwloop.hal.qtest_interrupt import Wiring
from hwloop.qtest.client import QtestClient
from hwloop.qtest.ram import RESERVED, GuestRam
from pci import BytesConfigAccess, ConfigSpace, MemoryBar, MemoryBarType, MsixTable, new_function
from tests.timing import SLACK
from tests.unit.hwloop.qtest.peer import Peer
from tests.unit.hwloop.qtest.test_client import Memory

RAM_SIZE = 64 << 20
BAR = MemoryBar(1, MemoryBarType.Width32, False, 0xE000_0000, 0x1000)
MSIX = 0x40
VECTORS = 3
TABLE = 0x800


@dataclass
class Paper:
    hal: QtestHal
    client: QtestClient
    peer: Peer
    ram: GuestRam
    function: BytesConfigAccess

    def entry(self, vector: int) -> tuple[int, int, bool]:
        """(address, data, masked) as the function has them."""
        entry = MsixTable(self.hal.mmio_phys_to_virt(BAR.address + TABLE, 16 * VECTORS), VECTORS).read(vector)
        return entry.address, entry.data, entry.masked

    def fire(self, vector: int) -> None:
        """Do what the function does: write the data of a vector to its address."""
        address, data, masked = self.entry(vector)
        assert not masked
        ctypes.c_uint32.from_address(self.ram.address + address).value = data

    def enabled(self) -> bool:
        return bool(self.function.data[MSIX + 3] & 0x80)


@pytest.fixture
def paper() -> Iterator[Paper]:
    function = new_function(0x1AF4, 0x1042)
    function.declare_bar(BAR)
    control = (VECTORS - 1).to_bytes(2, "little")
    function.declare_capability(
        MSIX, 0x11, control + (TABLE | 1).to_bytes(4, "little") + (0xC00 | 1).to_bytes(4, "little")
    )
    function.write_masks[MSIX + 3] = 0xC0
    with Peer(Memory()) as peer, GuestRam(0, RAM_SIZE) as ram, QtestClient(peer.client) as client:
        wiring = Wiring("intx", lambda: "ioapic", frozenset({21}))
        with QtestHal(client, ram, wiring) as hal:
            hal.use_function(ConfigSpace(function), {1: BAR})
            yield Paper(hal, client, peer, ram, function)


def vector(paper: Paper, number: int) -> Interrupt:
    line = paper.hal.interrupt(number)
    assert line is not None
    return line


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_device_addresses_are_places_in_the_memory_of_the_machine(paper: Paper) -> None:
    for direction in BufferDirection:
        paddr, vaddr = paper.hal.dma_alloc(2, direction)
        assert paddr >= RESERVED
        assert vaddr == paper.ram.address + paddr
        assert paper.hal.dma_dealloc(paddr, vaddr, 2) == 0


def test_a_shared_buffer_is_a_copy_in_that_memory(paper: Paper) -> None:
    data = bytearray(b"driver" * 100)
    paddr = paper.hal.share(data, BufferDirection.Both)
    assert ctypes.string_at(paper.ram.address + paddr, 600) == b"driver" * 100
    ctypes.memmove(paper.ram.address + paddr, b"device", 6)
    paper.hal.unshare(paddr, data, BufferDirection.Both)
    assert bytes(data[:12]) == b"devicedriver"


def test_memory_that_is_used_up_is_an_error(paper: Paper) -> None:
    with pytest.raises(DmaError, match="64 MiB of guest RAM"):
        paper.hal.dma_alloc(RAM_SIZE // 4096, BufferDirection.Both)


def test_what_one_driver_gave_back_the_next_one_gets(paper: Paper) -> None:
    for _ in range(20):
        with QtestHal(paper.client, paper.ram) as hal:
            hal.dma_alloc((RAM_SIZE - RESERVED) // 4096 // 2, BufferDirection.Both)


def test_memory_in_quarantine_is_never_used_again(paper: Paper) -> None:
    hal = QtestHal(paper.client, paper.ram)
    paddr, _ = hal.dma_alloc(1, BufferDirection.Both)
    hal.quarantine()
    hal.close()
    taken = range(paddr, paddr + 4096)
    with QtestHal(paper.client, paper.ram) as other:
        for _ in range(10):
            again, _ = other.dma_alloc(256, BufferDirection.Both)
            assert taken.stop <= again or again + (256 << 12) <= taken.start


def test_registers_and_ports_are_where_they_were_asked_for(paper: Paper) -> None:
    paper.hal.mmio_phys_to_virt(0xFEB0_0000, 0x200).write32(0x70, 1)
    paper.hal.port_region(0xC000, 0x20).write8(0x12, 1)
    paper.client.settle()
    assert paper.peer.lines == ["writel 0xfeb00070 0x1", "outb 0xc012 0x1"]


def test_ports_of_a_machine_whose_processor_has_none_are_memory(paper: Paper) -> None:
    with QtestHal(paper.client, paper.ram, ports_at=0x3EFF_0000) as hal:
        hal.port_region(0x1000, 0x20).write16(0x10, 1)
    paper.client.settle()
    assert paper.peer.lines == ["writew 0x3eff1010 0x1"]


# --- Interrupts -------------------------------------------------------------------------------------------------------


def test_a_vector_is_aimed_at_a_word_of_its_own_and_let_through(paper: Paper) -> None:
    lines = [vector(paper, number) for number in range(VECTORS)]
    assert paper.enabled()
    entries = [paper.entry(number) for number in range(VECTORS)]
    assert len({address for address, _, _ in entries}) == VECTORS
    for address, data, masked in entries:
        assert (data != 0, masked) == (True, False)
        assert RESERVED <= address < RAM_SIZE
    assert not any(line.needs_ack for line in lines)


def test_a_message_is_seen_once_by_the_line_of_its_vector(paper: Paper) -> None:
    lines = [vector(paper, number) for number in range(VECTORS)]
    assert [line.wait(0) for line in lines] == [False] * VECTORS
    paper.fire(1)
    assert [line.wait(0) for line in lines] == [False, True, False]
    assert not lines[1].wait(0.01)
    paper.fire(1)
    lines[1].rearm()
    assert lines[1].wait(0)


def test_a_message_that_comes_while_somebody_waits_ends_the_wait(paper: Paper) -> None:
    line = vector(paper, 0)
    threading.Timer(0.05, paper.fire, [0]).start()
    before = time.monotonic()
    assert line.wait(60)
    assert time.monotonic() - before < SLACK


def test_a_closed_vector_is_masked_and_can_be_had_again(paper: Paper) -> None:
    line = vector(paper, 2)
    with pytest.raises(AlreadyUsed, match="vector 2"):
        paper.hal.interrupt(2)
    line.close()
    line.close()
    assert paper.entry(2)[2]
    assert not line.wait(0.01)
    vector(paper, 2)
    paper.fire(2)


@pytest.mark.parametrize("number", [-1, VECTORS, 2048])
def test_a_vector_that_is_not_there_is_refused(paper: Paper, number: int) -> None:
    with pytest.raises(InvalidParam, match="it has 0 to 2"):
        paper.hal.interrupt(number)
    assert not paper.enabled()


def test_a_line_is_heard_from_the_controller_it_goes_to(paper: Paper) -> None:
    line = vector_free_line(paper)
    assert (line.kind, line.needs_ack) == ("intx", True)
    assert paper.peer.lines == ["irq_intercept_in ioapic"]
    assert not line.wait(0)
    paper.peer.say(b"IRQ raise 20\nIRQ raise 21\n")
    assert line.wait(30)
    line.rearm()
    paper.peer.say(b"IRQ lower 21\n")
    time.sleep(0.05)
    assert not line.wait(0.01)
    line.close()


def vector_free_line(paper: Paper) -> Interrupt:
    line = paper.hal.interrupt()
    assert line is not None
    return line


def test_a_machine_without_wiring_or_function_has_no_interrupts(paper: Paper) -> None:
    with QtestHal(paper.client, paper.ram) as hal:
        assert hal.interrupt() is None
        assert hal.interrupt(0) is None


def test_closing_masks_the_vectors_and_gives_their_memory_back(paper: Paper) -> None:
    line = vector(paper, 0)
    paper.hal.close()
    paper.hal.close()
    assert paper.entry(0)[2]
    assert not line.wait(0)
    assert paper.ram.allocate(RAM_SIZE - RESERVED).iova == RESERVED
