"""Patterns that are written to a disk and found again: bytes, stamps that say where they belong, random numbers."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod

from hwloop.errors import InvalidParam
from hwloop.spec import SECTOR_SIZE

_STAMP = b"hwloop:%08x:%016x\n"
_A_STAMP = re.compile(rb"hwloop:([0-9a-f]{8}):([0-9a-f]{16})\n")
_RANDOM_BYTES = 4096


class Pattern(ABC):
    """What should be at each place of a disk."""

    @abstractmethod
    def content(self, offset: int, length: int) -> bytes:
        """The bytes of a range."""

    def explain(self, found: bytes) -> str:
        """What the sector `found` that differs seems to be, or "" when nothing is known of it."""
        return ""


class BytePattern(Pattern):
    """The same bytes over and over, counted from offset 0."""

    def __init__(self, unit: bytes) -> None:
        self._unit = unit

    def content(self, offset: int, length: int) -> bytes:
        start = offset % len(self._unit)
        return (self._unit * ((start + length) // len(self._unit) + 1))[start : start + length]


class SectorPattern(Pattern):
    """Made anew for each stretch of `stride` bytes."""

    stride = SECTOR_SIZE

    @abstractmethod
    def unit(self, number: int) -> bytes:
        """The bytes of stretch `number`, `stride` of them."""

    def content(self, offset: int, length: int) -> bytes:
        first, end = offset // self.stride, -(-(offset + length) // self.stride)
        start = offset - first * self.stride
        return b"".join(self.unit(number) for number in range(first, end))[start : start + length]


class StampPattern(SectorPattern):
    """Each sector says its number, so that one in a wrong place tells where it belongs. `seed` tells runs apart."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def unit(self, number: int) -> bytes:
        stamp = _STAMP % (self._seed, number)
        return (stamp * (SECTOR_SIZE // len(stamp) + 1))[:SECTOR_SIZE]

    def explain(self, found: bytes) -> str:
        stamp = _A_STAMP.match(found)
        if stamp is None:
            return ""
        seed, sector = int(stamp[1], 16), int(stamp[2], 16)
        run = "" if seed == self._seed else f", with seed {seed}"
        return f"it holds what belongs at sector {sector}{run}"


class RandomPattern(SectorPattern):
    """Numbers that look random and are the same each time; `seed` chooses them."""

    stride = _RANDOM_BYTES

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def unit(self, number: int) -> bytes:
        return random.Random(f"{self._seed}:{number}").randbytes(_RANDOM_BYTES)


def parse_pattern(text: str) -> Pattern:
    """`0xaa`, `170` or `0xdeadbeef` (bytes), `stamp`, `random`; the latter two with `:SEED`. Raises InvalidParam."""
    name, _, seed = text.partition(":")
    try:
        if name in ("stamp", "random"):
            number = int(seed or "0", 0)
            if 0 <= number < 1 << 32:
                return (StampPattern if name == "stamp" else RandomPattern)(number)
        elif text[:2].lower() == "0x":
            digits = text[2:]
            return BytePattern(bytes.fromhex(digits if len(digits) % 2 == 0 else f"0{digits}") or _none())
        elif text.isascii() and text.isdecimal() and int(text) < 256:
            return BytePattern(bytes([int(text)]))
    except ValueError:
        pass
    raise InvalidParam(f"{text!r} is no pattern", remedy="give bytes (0xaa, 0xdeadbeef), stamp, random, or random:SEED")


def _none() -> bytes:
    raise ValueError("no digits")
