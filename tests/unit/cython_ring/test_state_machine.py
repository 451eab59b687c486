"""A driver and an honest device, in any interleaving, against a model of plain Python lists."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cython_ring import Chain, Loopback, RingFull, RingUsageError

PARTS = st.lists(st.tuples(st.integers(0, (1 << 64) - 1 - 0xFFFF), st.integers(1, 0xFFFF)), max_size=5)
Parts = list[tuple[int, int]]


class RingMachine(RuleBasedStateMachine):
    @initialize(
        power=st.integers(0, 6),
        event_idx=st.booleans(),
        platform_order=st.booleans(),
        first_index=st.one_of(st.integers(65400, 65535), st.integers(0, 65535)),
    )
    def begin(self, power: int, event_idx: bool, platform_order: bool, first_index: int) -> None:
        self.size = 1 << power
        self.loop = Loopback(self.size, event_idx=event_idx, platform_order=platform_order, first_index=first_index)
        self.next_token = 0
        self.chains: dict[int, tuple[Parts, Parts]] = {}  # by token, outstanding
        self.added: list[int] = []  # tokens, oldest first, in each stage
        self.available: list[int] = []
        self.with_device: list[tuple[int, Chain]] = []
        self.used: list[tuple[int, int]] = []

    def model_free(self) -> int:
        return self.size - sum(len(readable) + len(writable) for readable, writable in self.chains.values())

    @rule(readable=PARTS, writable=PARTS)
    def add(self, readable: Parts, writable: Parts) -> None:
        count = len(readable) + len(writable)
        try:
            self.loop.driver.add(readable, writable, self.next_token)
        except RingUsageError:
            assert count == 0 or count > self.size
        except RingFull:
            assert self.model_free() < count <= self.size
        else:
            assert 0 < count <= self.model_free()
            self.chains[self.next_token] = (readable, writable)
            self.added.append(self.next_token)
            self.next_token += 1

    @rule(times=st.integers(1, 20))
    def go_round(self, times: int) -> None:
        """Move the indices on while nothing else is in the ring."""
        if self.chains:
            return
        for _ in range(times):
            self.loop.driver.add([(0x1000, 1)], [], "round")
            self.loop.driver.publish()
            assert self.loop.device.serve(1, 0) == 1
            assert self.loop.driver.pop() == ("round", 0)

    @rule()
    def publish(self) -> None:
        assert self.loop.driver.publish() == len(self.added)
        self.available += self.added
        self.added = []

    @rule()
    def fetch(self) -> None:
        chain = self.loop.device.fetch()
        if not self.available:
            assert chain is None
            return
        token = self.available.pop(0)
        assert chain is not None
        assert (chain.readable, chain.writable) == self.chains[token]
        self.with_device.append((token, chain))

    @precondition(lambda self: self.with_device)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        token, chain = self.with_device.pop(data.draw(st.integers(0, len(self.with_device) - 1)))
        written = data.draw(st.integers(0, chain.writable_bytes))
        self.loop.device.complete(chain.head, written)
        self.used.append((token, written))

    @rule()
    def pop(self) -> None:
        assert self.loop.driver.can_pop() is bool(self.used)
        expected = self.used.pop(0) if self.used else None
        assert self.loop.driver.pop() == expected
        if expected:
            del self.chains[expected[0]]

    @rule(enabled=st.booleans())
    def set_used_notifications(self, enabled: bool) -> None:
        self.loop.driver.set_used_notifications(enabled)

    @invariant()
    def the_ring_agrees_with_the_model(self) -> None:
        assert self.loop.driver.free == self.model_free()
        assert self.loop.driver.outstanding == len(self.chains)
        assert self.loop.driver.tokens() == list(self.chains)
        assert self.loop.device.available() == len(self.available)

    def teardown(self) -> None:
        assert self.loop.guards_intact()


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
