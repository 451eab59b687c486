"""An entropy device in process: the meaning of a `FakeDevice`'s requests. Its bytes are the same in every run."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cython_ring import Chain, DeviceSideSplit
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceType
from hwloop.transport.fake_device import MODERN, FakeDevice, RuleBroken


@dataclass
class RngFaults:
    """One switch for each way in which requests may go wrong; each names how many further requests it spoils.

    Requests that are never answered are `Faults.drop`.
    """

    short: int = 0
    """The device writes one byte."""
    zero: int = 0
    """The device writes nothing (5.4.6.2 forbids it)."""
    too_long: int = 0
    """The device claims one byte more than there was room for (2.7.8.2 forbids it)."""


class FakeRng(FakeDevice):
    """An entropy device. `given` is everything that it wrote, in the order of its writing."""

    def __init__(
        self, hal: FakeHal, *, features: int = MODERN, queue_size: int = 8, most: int = 1 << 32, seed: int = 0
    ) -> None:
        super().__init__(hal, DeviceType.EntropySource, features, [queue_size], b"")
        self.rng_faults = RngFaults()
        self.most = most
        """Bytes that it writes into one buffer at most."""
        self.given = bytearray()
        self.asked: list[int] = []
        self._random = random.Random(seed)
        self._served = 0

    def serve(self, chain: Chain) -> int:
        if chain.readable_bytes:
            raise RuleBroken("a device-readable buffer was put into the queue of an entropy device (5.4.6.1)")
        self._served += 1
        room = chain.writable_bytes
        self.asked.append(room)
        data = self._random.randbytes(min(room, self.most, self._limit()))
        self.given += data
        chain.write(data)
        return len(data)

    def _limit(self) -> int:
        if self.rng_faults.zero:
            self.rng_faults.zero -= 1
            return 0
        if self.rng_faults.short:
            self.rng_faults.short -= 1
            return 1
        return 1 << 32

    def release(self, index: int = 0, count: int | None = None, *, backwards: bool = False) -> None:
        queue = self.queues[index]
        if self.rng_faults.too_long and queue.held and queue.ring is not None:
            self.rng_faults.too_long -= 1
            chain = queue.held.pop(0)
            assert isinstance(queue.ring, DeviceSideSplit), "the switch is for split rings"
            # The mock of the ring refuses such a length, so it is written past it, as the next used element.
            queue.ring.put_used(self._served % queue.size, chain.head, chain.writable_bytes + 1)
            queue.ring.set_used_idx(self._served + 1 & 0xFFFF)
            return
        super().release(index, count, backwards=backwards)

    def _reset(self) -> None:
        super()._reset()
        self._served = 0
