"""A driver and an honest device, in any interleaving, against a model of plain Python lists."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cython_ring import Chain, Loopback, PackedLoopback, RingFull, RingUsageError

PARTS = st.lists(st.tuples(st.integers(0, (1 << 64) - 1 - 0xFFFF), st.integers(1, 0xFFFF)), max_size=5)
Parts = list[tuple[int, int]]


class RingMachine(RuleBasedStateMachine):
    loop: Loopback | PackedLoopback

    def begin(self, in_order: bool) -> None:
        self.size = self.loop.driver.size
        self.in_order = in_order
        self.next_token = 0
        self.chains: dict[int, tuple[Parts, Parts]] = {}  # by token, outstanding
        self.added: list[int] = []  # tokens, oldest first, in each stage
        self.available: list[int] = []
        self.with_device: list[tuple[int, Chain]] = []
        self.used: list[tuple[int, int]] = []

    def needs(self, count: int) -> int:
        return 1 if 1 < count <= self.loop.driver.table_parts else count

    def model_free(self) -> int:
        return self.size - sum(self.needs(len(readable) + len(writable)) for readable, writable in self.chains.values())

    @rule(readable=PARTS, writable=PARTS)
    def add(self, readable: Parts, writable: Parts) -> None:
        count = len(readable) + len(writable)
        try:
            self.loop.driver.add(readable, writable, self.next_token)
        except RingUsageError:
            assert count == 0 or count > self.size
        except RingFull:
            assert self.model_free() < self.needs(count) <= self.size
        else:
            assert 0 < self.needs(count) <= self.model_free()
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
        which = data.draw(st.integers(0, len(self.with_device) - 1))
        if self.in_order:
            # What came before is completed along with it, and counts as written completely.
            self.used += [(token, chain.writable_bytes) for token, chain in self.with_device[:which]]
            del self.with_device[:which]
            which = 0
        token, chain = self.with_device.pop(which)
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
        assert bool(self.loop.device.available()) is bool(self.available)

    @rule()
    def reset(self) -> None:
        """The queue is reset and enabled again, which happens seldom."""
        if self.next_token % 8 != 7:
            return
        assert self.loop.driver.reset() == list(self.chains)
        self.loop.renew_device()
        self.begin(self.in_order)

    def teardown(self) -> None:
        assert self.loop.guards_intact()


class SplitMachine(RingMachine):
    @initialize(
        power=st.integers(0, 6),
        event_idx=st.booleans(),
        platform_order=st.booleans(),
        first_index=st.one_of(st.integers(65400, 65535), st.integers(0, 65535)),
        in_order=st.booleans(),
        table_parts=st.sampled_from([0, 0, 2, 5, 16]),
    )
    def begin_split(
        self, power: int, event_idx: bool, platform_order: bool, first_index: int, in_order: bool, table_parts: int
    ) -> None:
        self.loop = Loopback(
            1 << power,
            event_idx=event_idx,
            platform_order=platform_order,
            first_index=first_index,
            in_order=in_order,
            table_parts=table_parts,
        )
        self.begin(in_order)


class PackedMachine(RingMachine):
    @initialize(
        size=st.one_of(st.integers(1, 9), st.integers(1, 70)),
        event_idx=st.booleans(),
        platform_order=st.booleans(),
        in_order=st.booleans(),
        table_parts=st.sampled_from([0, 0, 2, 5, 16]),
    )
    def begin_packed(self, size: int, event_idx: bool, platform_order: bool, in_order: bool, table_parts: int) -> None:
        self.loop = PackedLoopback(
            size, event_idx=event_idx, platform_order=platform_order, in_order=in_order, table_parts=table_parts
        )
        self.begin(in_order)


TestSplitRing = SplitMachine.TestCase
TestSplitRing.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestPackedRing = PackedMachine.TestCase
TestPackedRing.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
