"""Sizes as people write them: `4k`, `1M`, `0x200`."""

from __future__ import annotations

import re

from hwloop.errors import InvalidParam

_FACTORS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SIZE = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)([bBkKmMgGtT]?)")


def parse_size(text: str) -> int:
    """Bytes. A number, decimal or 0x..., with a suffix k, M, G or T in either case: powers of 1024.

    Raises InvalidParam; a negative size is one.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidParam(f"{text!r} is not a size", remedy="write a number of bytes, or with k, M, G or T: 4k, 1M")
    return int(match[1], 0 if match[1][:2].lower() == "0x" else 10) * _FACTORS[match[2].lower()]


def format_size(size: int) -> str:
    """`64 MiB` where that is exact or has three digits, else with one decimal: `1.5 GiB`."""
    power = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    value, unit = size / 1024**power, _UNITS[power]
    return f"{value:.0f} {unit}" if value == int(value) or value >= 100 else f"{value:.1f} {unit}"
