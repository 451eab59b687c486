"""A list of calls, made of bytes: a driver's calls to an engine, and a device that stores anything anywhere.

After each call the engine must have told nothing that is not so, and must be usable or say that its ring is broken;
at the end the queue is reset and carries requests as a new one does.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from cython_ring import COMPLETION_BYTES, Engine, Loopback, PackedLoopback, RingBroken, RingFull

DATA, LENGTH = 0x7000_0000, 512
CALL_TAGS = 0xFFFFFFFF << 32
ROOM = 16
# Not less than a request has parts: no chain is longer than the queue, in a table either (VIRTIO 1.4, 2.7.5.3.1).
SIZES = {False: (4, 8, 16), True: (3, 5, 8)}
WORDS = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x80000000, 0xFFFFFFFF)
MOST_CALLS = 64


class Bytes:
    """Numbers out of an input; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def more(self) -> bool:
        return self.at < len(self.data)

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at].ljust(count, b"\0")

    def word(self) -> int:
        """A small number, one at an edge, or any."""
        kind = self.byte()
        if kind < 160:
            return kind & 15
        return WORDS[kind & 7] if kind < 224 else int.from_bytes(self.take(4), "little")


class Target:
    """One execution. `seen` is what happened, for those who look for inputs that do something new."""

    def __init__(self, data: bytes) -> None:
        self.input = Bytes(data)
        first, second = self.input.byte(), self.input.byte()
        self.packed, self.indirect = bool(first & 1), bool(first & 2)
        self.size = SIZES[self.packed][second % 3]
        make: Any = PackedLoopback if self.packed else Loopback
        options: dict[str, Any] = {} if self.packed else {"first_index": 65530 if second & 64 else 0}
        self.loop = make(
            self.size, slots=True, event_idx=bool(first & 4), in_order=bool(first & 8),
            clamp_used_length=bool(first & 16), table_parts=4 if first & 64 else 0, **options,
        )  # fmt: skip
        self.engine = Engine(
            self.loop.driver, self.loop.slot_memory(), indirect=self.indirect, whole=bool(first & 32),
            publish_every=1 + (second >> 4 & 3), owner=self.loop.memory,
        )  # fmt: skip
        self.rooms: dict[int, int] = {}  # of each request in flight, by tag: the bytes that the device may write
        self.tag = 0
        self.foul = False
        self.broken = ""
        self.seen: set[tuple[str, ...]] = {(f"{first:#x}", str(self.size))}
        self.out = array("Q", bytes(COMPLETION_BYTES * ROOM))
        shared = ["desc", "driver", "device"] if self.packed else ["desc", "avail", "used"]
        self.areas = [*shared, "slots", "tails", *(["tables"] if first & 64 else [])]

    def run(self) -> set[tuple[str, ...]]:
        """Raises AssertionError, or whatever an engine should not have raised."""
        last = ""
        for _ in range(MOST_CALLS):
            if not self.input.more():
                break
            call = CALLS[self.input.byte() % len(CALLS)]
            said = self.attempt(call)
            self.seen.add((last, call.__name__, said))
            last = call.__name__ + said
            self.check()
        self.recover()
        return self.seen

    def attempt(self, call: Callable[[Target], str]) -> str:
        try:
            said = call(self)
        except RingBroken as error:
            said, text = error.kind, str(error)
        else:
            return said
        assert self.broken in ("", text)
        self.broken = text
        return said

    def check(self) -> None:
        driver = self.loop.driver
        tags = [tag for tag in self.engine.tags() if tag < CALL_TAGS]
        # Those that a call found in passing are not in flight and were not told yet.
        left = iter(self.rooms)
        assert all(tag in left for tag in tags), (tags, self.rooms)
        assert 0 <= driver.free <= self.size
        assert driver.outstanding <= self.size
        assert driver.free + driver.outstanding <= self.size

    # --- The driver's calls ---

    def new_tag(self, room: int) -> int:
        self.tag += 1
        self.rooms[self.tag] = room
        return self.tag

    def submit(self) -> str:
        words: list[int] = []
        count = 1 + self.input.byte() % (self.size + 1)
        kinds = self.input.byte()
        for i in range(count):
            length, writable = LENGTH * (kinds >> i % 4 & 1), kinds >> (4 + i % 4) & 1
            tag = self.new_tag(1 + length * writable)
            words += [writable ^ 1, 8 * tag, DATA, tag, length | writable << 32]
        first = self.tag - count + 1
        done = 0
        try:
            done = self.engine.submit(array("Q", words))
        finally:
            for tag in range(first + done, first + count):
                del self.rooms[tag]
        return "all" if done == count else "some" if done else "none"

    def put(self) -> str:
        kind = self.input.byte()
        count, writable = 1 + kind % (self.size - 2), bool(kind & 64)
        answers = kind >> 7 if not writable and count > 1 else 0
        parts = [(DATA + LENGTH * i, LENGTH) for i in range(count)]
        done = False
        tag = self.new_tag(1 + LENGTH * (count if writable else answers))
        try:
            done = self.engine.put(0, 8, parts, writable, tag, answers)
        finally:
            if not done:
                del self.rooms[tag]
        return "put" if done else "full"

    def call(self) -> str:
        try:
            got = self.engine.call(0, 0, DATA, LENGTH, bool(self.input.byte() & 1), 0)
        except RingFull:
            return "full"
        if got is None:
            return "no end"
        assert got[0] <= LENGTH + 1
        return "end"

    def reap(self) -> str:
        room = self.input.byte() % (ROOM + 1)
        view = memoryview(self.out)[: 2 * room]
        count = self.engine.reap(view)
        assert count <= room
        bad = 0
        for i in range(count):
            tag, written, tail = self.out[2 * i], self.out[2 * i + 1] & 0xFFFFFFFF, self.out[2 * i + 1] >> 32
            assert tag in self.rooms, f"{tag:#x} is not in flight"
            assert written <= self.rooms.pop(tag)
            bad += tail != 0
        assert bad == self.engine.failed
        return f"{min(count, 2)} {min(bad, 2)}"

    def mute(self) -> str:
        self.loop.driver.set_used_notifications(bool(self.input.byte() & 1))
        return ""

    def ask(self) -> str:
        driver = self.loop.driver
        return f"{driver.needs_notification():d}{driver.can_pop():d}"

    def look(self) -> str:
        """What is for looking only."""
        self.loop.driver.dump()
        self.engine.uses(DATA, 1)
        for request in self.engine.requests():
            assert request[3] >= CALL_TAGS or request[3] in self.rooms
        return ""

    def reset(self) -> str:
        told = self.engine.reset()
        assert all(tag in self.rooms for tag in told)
        # Others were completed before, and a call keeps them.
        for tag in told:
            del self.rooms[tag]
        self.loop.renew_device()
        self.foul, self.broken = False, ""
        return ""

    # --- The device's ---

    def serve(self) -> str:
        """As a good device; not when the memory may lead it anywhere."""
        if self.foul or self.broken:
            return "foul"
        return str(min(2, self.loop.device.serve(1 + self.input.byte() % 4, 0, self.input.byte() & 1)))

    def scribble(self) -> str:
        """Anything anywhere."""
        area = self.areas[self.input.byte() % len(self.areas)]
        view = self.loop.view(area)
        data = self.input.take(1 + self.input.byte() % 32)
        at = self.input.word() % max(1, len(view) - len(data))
        view[at : at + len(data)] = data[: len(view) - at]
        self.foul |= area != "tails"
        return area

    def use(self) -> str:
        """A used element, where it will be looked at or near; most of them are nearly right."""
        self.foul = True
        dump = self.loop.driver.dump()
        where, kind = self.input.word(), self.input.byte()
        used, length = self.input.word(), (LENGTH + 1, 1, 0, LENGTH)[kind & 3]
        if kind & 4 and dump["outstanding"]:
            used = dump["outstanding"][used % len(dump["outstanding"])]["head"]
        if kind & 24 == 24:
            length = self.input.word()
        self.loop.view("tails")[64 * (used % self.size)] = kind >> 5 & 1
        if self.packed:
            position, wrap = dump["next_used"]
            flags = (0x8080 if wrap else 0) | 2 * (kind >> 7)
            place = (position + (where & 1)) % self.size
            self.loop.device.put_used(place, used & 0xFFFF, length, flags ^ (0x8000 if kind & 64 else 0))
        else:
            index = dump["popped_idx"]
            self.loop.device.put_used((index + (where & 1)) % self.size, used, length)
            self.loop.device.set_used_idx(index + 1 + (where >> 1 & 3 if kind & 64 else 0) & 0xFFFF)
        return ""

    # --- The end ---

    def recover(self) -> None:
        """A reset, and then all is well; completions from before may still be there to take."""
        self.reset()
        for _ in range(3):
            count = min(self.size if self.indirect else self.size // 3, ROOM // 2)
            tags = [self.new_tag(LENGTH + 1) for _ in range(count)]
            words = [word for tag in tags for word in (0, 8, DATA, tag, LENGTH | 1 << 32)]
            done = self.engine.submit(array("Q", words))
            if done < count:
                assert len(self.rooms) > count, "no room, and nothing kept"
                for tag in tags[done:]:
                    del self.rooms[tag]
            assert self.loop.device.serve(done, 0, 0) == done
            while self.rooms:
                before = len(self.rooms)
                self.input = Bytes(bytes([ROOM]))
                self.reap()
                assert len(self.rooms) < before, "a request never ended"
        assert self.loop.driver.free == self.size
        assert self.loop.guards_intact()
        self.loop.driver.close()


CALLS: list[Callable[[Target], str]] = [
    Target.submit,
    Target.put,
    Target.call,
    Target.reap,
    Target.reap,
    Target.mute,
    Target.ask,
    Target.look,
    Target.reset,
    Target.serve,
    Target.serve,
    Target.scribble,
    Target.use,
    Target.use,
]


def execute(data: bytes) -> set[tuple[str, ...]]:
    return Target(data).run()
