"""`python -m tests.fuzz [--seconds S] [--seed N]`: inputs for `tests.fuzz.target`, and how many a second.

An input that makes something happen which none did before is kept and changed further. Each is noted in memory that two
processes share before it is run, so that one which ends the process, or never ends, is known too. What fails is added
to `corpus.txt`, which the unit tests run again each time; fix it, and leave it there.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.target import CALLS, execute

CORPUS = Path(__file__).with_name("corpus.txt")
LONGEST = 400
HUNG_SECONDS = 20.0
BLOCK = 64


def read_corpus() -> list[bytes]:
    lines = CORPUS.read_text().splitlines() if CORPUS.exists() else []
    return [bytes.fromhex(line) for line in lines if line and not line.startswith("#")]


def add_finding(data: bytes, why: str) -> None:
    with open(CORPUS, "a") as file:
        file.write(f"# {why}\n{data.hex()}\n")


class Inputs:
    """New inputs out of those that did something new."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pool = read_corpus()
        self.seen: set[tuple[str, ...]] = set()

    def next(self) -> bytes:
        if not self.pool or self.random.random() < 0.2:
            return self.random.randbytes(self.random.randrange(2, LONGEST))
        data = bytearray(self.random.choice(self.pool))
        for _ in range(1 + self.random.randrange(4)):
            self.change(data)
        return bytes(data[:LONGEST])

    def change(self, data: bytearray) -> None:
        at = self.random.randrange(len(data) + 1)
        kind = self.random.randrange(5)
        if kind == 0:
            data[at : at + 1] = self.random.randbytes(1)
        elif kind == 1:
            data[at:at] = bytes([self.random.randrange(len(CALLS)), *self.random.randbytes(self.random.randrange(6))])
        elif kind == 2:
            del data[at : at + self.random.randrange(1, 16)]
        elif kind == 3:
            other = self.random.choice(self.pool)
            data[at:] = other[self.random.randrange(len(other) + 1) :]
        elif at < len(data):
            data[at] ^= 1 << self.random.randrange(8)

    def learn(self, data: bytes, seen: set[tuple[str, ...]]) -> None:
        if not seen <= self.seen:
            self.seen |= seen
            self.pool.append(data)


class Note:
    """Shared by both processes: how many inputs were run, and which one is running."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 8 + 4 + LONGEST)

    def write(self, count: int, data: bytes) -> None:
        self.memory[:12] = count.to_bytes(8, "little") + len(data).to_bytes(4, "little")
        self.memory[12 : 12 + len(data)] = data

    def count(self) -> int:
        return int.from_bytes(self.memory[:8], "little")

    def data(self) -> bytes:
        return self.memory[12 : 12 + int.from_bytes(self.memory[8:12], "little")]


def work(note: Note, seed: int, seconds: float) -> int:
    """The child: until time is over, or an input fails; returns its exit status."""
    inputs = Inputs(seed)
    end = time.monotonic() + seconds
    count = 0
    while count % BLOCK or time.monotonic() < end:
        data = inputs.next()
        note.write(count, data)
        try:
            inputs.learn(data, execute(data))
        except BaseException:
            traceback.print_exc()
            return 1
        count += 1
    note.write(count, b"")
    print(f"{len(inputs.seen)} different things happened; {len(inputs.pool)} inputs kept", flush=True)
    return 0


def watch(child: int, note: Note) -> str:
    """Wait for the child; returns what was wrong with its last input."""
    last, since = -1, time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else "fails" if code > 0 else f"ends the process: {signal.Signals(-code).name}"
        if note.count() != last:
            last, since = note.count(), time.monotonic()
        elif time.monotonic() - since > HUNG_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "does not end"
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    note, began = Note(), time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(work(note, chosen.seed, chosen.seconds))
    wrong = watch(child, note)
    count = note.count()
    took, worked = time.monotonic() - began, os.times().children_user + os.times().children_system
    print(
        f"{count} executions, {count / took:.0f} a second, {count / max(worked, 0.01):.0f} a second of processor time"
    )
    if wrong:
        add_finding(note.data(), wrong)
        sys.exit(f"an input {wrong}; it is in {CORPUS}: {note.data().hex()}")


if __name__ == "__main__":
    main()
