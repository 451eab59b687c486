"""Requests of every kind to one disk, and what it must hold. What a failed write may have changed is unknown."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress

from cython_ring import DmaBuffer, RingUsageError
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_queue import Batch
from hwloop.errors import HwloopError

BLOCK = 4096
SECTORS = BLOCK // 512
AT_ONCE = 8
QUEUE_SECONDS = 2.0


class Load:
    """`believes` is False for a device that stores nothing. `counts` is what was done, added up over all disks."""

    def __init__(self, disk: VirtioBlk, choose: random.Random, counts: Counter[str], *, believes: bool = True) -> None:
        self.disk = disk
        self.counts = counts
        self._choose = choose
        self._believes = believes
        self._known: dict[int, bytes] = {}
        self._left: list[DmaBuffer] = []

    def some(self) -> None:
        """A few requests. Raises what they fail with, and AssertionError for what is read wrongly."""
        self._choose.choice([self._one, self._many, self._bytes, self._flush, self._batch])()
        self.counts["turns"] += 1

    def forget(self, first: int = 0) -> None:
        """Blocks from there on hold anything now, such as after the disk has shrunk."""
        self._known = {block: data for block, data in self._known.items() if block < first}

    def settle(self) -> None:
        """The disk was recovered or closed: memory of requests that failed can be given back."""
        while self._left:
            self._left.pop().close()

    def _place(self) -> int:
        return self._choose.randrange(self.disk.size() // BLOCK)

    def _data(self) -> bytes:
        return self._choose.randbytes(16) * (BLOCK // 16)

    def _check(self, block: int, data: bytes) -> None:
        if self._believes and block in self._known:
            assert data == self._known[block], f"block {block} does not hold what was written"

    def _one(self) -> None:
        block, data = self._place(), self._data()
        self._known.pop(block, None)
        self.disk.write(block * SECTORS, data)
        self._known[block] = data
        self._check(block, self.disk.read(block * SECTORS, BLOCK))
        self.counts["requests"] += 2

    def _many(self) -> None:
        blocks = {self._place() for _ in range(AT_ONCE)}
        tokens: dict[int, tuple[int, bytes]] = {}
        try:
            for block in blocks:
                data = self._data()
                self._known.pop(block, None)
                tokens[self.disk.submit_write(block * SECTORS, data)] = block, data
            for token in list(tokens):
                self.disk.wait(token)
                block, data = tokens.pop(token)
                self._known[block] = data
                self.counts["requests"] += 1
        finally:
            for token in tokens:
                self.disk.abandon(token)

    def _bytes(self) -> None:
        """Part of a block, which is read, changed and written."""
        block, offset = self._place(), self._choose.randrange(BLOCK - 100)
        known = self._known.pop(block, None)
        self.disk.pwrite(b"p" * 100, block * BLOCK + offset)
        if known is not None:
            self._known[block] = known[:offset] + b"p" * 100 + known[offset + 100 :]
        self._check(block, self.disk.pread(BLOCK, block * BLOCK))
        self.counts["requests"] += 3

    def _flush(self) -> None:
        self.disk.flush()
        self.counts["requests"] += 1

    def _batch(self) -> None:
        """The last queue by itself, with memory that the device reads in place."""
        queue = self.disk.queues[-1]
        blocks = sorted({self._place() for _ in range(AT_ONCE)})
        batch = Batch(AT_ONCE)
        buffer = self.disk.alloc(BLOCK * AT_ONCE)
        self._left.append(buffer)
        for at, block in enumerate(blocks):
            batch.read(block * SECTORS, buffer, at * BLOCK, BLOCK, tag=at)
        sent = queue.submit(batch)
        found: list[int] = []
        while len(found) < sent:
            completed = queue.reap(1)
            completed.raise_first()
            found += completed.tags
        for at in found:
            self._check(blocks[at], bytes(buffer)[at * BLOCK : (at + 1) * BLOCK])
        self._left.remove(buffer)
        buffer.close()
        self.counts["requests"] += len(found)

    def drain(self) -> None:
        """What a failed batch has left in its queue, so that requests of the disk may use that again."""
        queue = self.disk.queues[-1]
        with suppress(HwloopError):
            while queue.outstanding:
                queue.reap(1, deadline=QUEUE_SECONDS)
        for buffer in list(self._left):
            with suppress(RingUsageError):
                buffer.close()
                self._left.remove(buffer)
