"""Pieces of one stretch of memory."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hwloop.errors import DmaError
from hwloop.hal.arena import Arena
from hwloop.hal.memory import HUGE_PAGE, AnonymousMemory

PAGE = 4096
PAGES = 16


def new_arena(pages: int = PAGES) -> Arena:
    memory = AnonymousMemory(pages * PAGE)
    return Arena(memory.address, 0x4000_0000, pages * PAGE, memory)


def content(arena: Arena, offset: int, size: int) -> bytes:
    return ctypes.string_at(arena.vaddr + offset, size)


def paint(arena: Arena, offset: int, size: int, byte: int) -> None:
    ctypes.memset(arena.vaddr + offset, byte, size)


class Allocations(RuleBasedStateMachine):
    """Any order of allocating and releasing, against the pieces that are known to be out."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = new_arena()
        self.out: dict[int, int] = {}

    @rule(pages=st.integers(1, PAGES + 1))
    def allocate(self, pages: int) -> None:
        size = pages * PAGE
        offset = self.arena.allocate(size)
        if offset is None:
            assert self.longest_run() < size
            return
        assert offset % PAGE == 0
        assert offset + size <= self.arena.size
        assert all(offset + size <= start or start + length <= offset for start, length in self.out.items())
        assert content(self.arena, offset, size) == bytes(size), "what an earlier owner wrote does not show"
        paint(self.arena, offset, size, 0xEE)
        self.out[offset] = size

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.out)))
        self.arena.release(offset)
        del self.out[offset]

    @invariant()
    def the_account_is_right(self) -> None:
        expected = [(self.arena.iova + offset, size) for offset, size in sorted(self.out.items())]
        assert self.arena.outstanding() == expected

    @invariant()
    def neighbours_are_merged(self) -> None:
        if not self.out:
            assert self.arena._free == [(0, self.arena.size)]

    def longest_run(self) -> int:
        edges = [0, *(edge for start in sorted(self.out) for edge in (start, start + self.out[start]))]
        edges.append(self.arena.size)
        return max(end - start for start, end in zip(edges[::2], edges[1::2], strict=True))


TestAllocations = Allocations.TestCase


@pytest.mark.parametrize("offset", [PAGE, 1, -PAGE, PAGES * PAGE])
def test_what_was_not_allocated_cannot_be_released(offset: int) -> None:
    arena = new_arena()
    arena.allocate(PAGE)
    with pytest.raises(DmaError, match="nothing is allocated at device address"):
        arena.release(offset)


def test_releasing_twice_is_an_error() -> None:
    arena = new_arena()
    arena.allocate(PAGE)
    arena.release(0)
    with pytest.raises(DmaError):
        arena.release(0)


def test_copying_in_fills_the_start_of_an_allocation_and_the_rest_is_zero() -> None:
    arena = new_arena()
    arena.allocate(PAGE)
    paint(arena, 0, PAGE, 0x55)
    arena.release(0)
    arena.allocate(2 * PAGE)
    arena.copy_in(0, memoryview(b"abc"))
    assert content(arena, 0, 2 * PAGE) == b"abc".ljust(2 * PAGE, b"\0")


def test_copying_out_takes_the_start_of_an_allocation() -> None:
    arena = new_arena()
    arena.allocate(PAGE)
    paint(arena, 0, PAGE, 0x41)
    into = bytearray(5)
    arena.copy_out(0, memoryview(into))
    assert into == b"AAAAA"


def test_anonymous_memory_is_zeroed_page_aligned_and_closed_twice() -> None:
    memory = AnonymousMemory(PAGE)
    assert memory.address % PAGE == 0
    assert memory.size == (HUGE_PAGE if memory.huge else PAGE)
    assert ctypes.string_at(memory.address, PAGE) == bytes(PAGE)
    memory.close()
    memory.close()


def test_a_child_process_does_not_inherit_the_memory() -> None:
    """Otherwise a fork would share DMA memory with somebody who knows nothing of the device."""
    memory = AnonymousMemory(PAGE)
    with open("/proc/self/smaps") as smaps:
        sections = smaps.read().split("VmFlags:")
    mapping = next(index for index, text in enumerate(sections) if f"{memory.address:x}-" in text)
    assert "dc" in sections[mapping + 1].splitlines()[0].split(), "MADV_DONTFORK"
