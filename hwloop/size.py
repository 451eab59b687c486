"""Sizes as people write them: `4k`, `1M`, `1.5G`, `64KiB`, `4kB`, `0x200`."""

from __future__ import annotations

import re

from hwloop.errors import InvalidParam

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DECIMAL = {"k": 1000, "m": 1_000_000, "g": 1_000_000_000, "t": 1_000_000_000_000}
_SIZE = re.compile(
    r"(?:(0[xX][0-9a-fA-F]{1,32})|([0-9]{1,40})(?:\.([0-9]{1,40}))?)(?:([kKmMgGtT])(i?[bB])?|[bB])?", re.ASCII
)


def parse_size(text: str) -> int:
    """Bytes. A number, decimal or 0x..., with a suffix in either case: k, M, G, T and KiB, MiB, GiB, TiB are powers of
    1024; kB, MB, GB, TB are powers of 1000. `1.5G` is one too, where that is a whole number of bytes.

    Raises InvalidParam; a negative size is one.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise _not_a_size(text)
    hexadecimal, whole, fraction, prefix, unit = match.groups()
    factor = _factor(prefix, unit)
    if hexadecimal:
        return int(hexadecimal, 16) * factor
    digits, scale = whole + (fraction or ""), 10 ** len(fraction or "")
    size, rest = divmod(int(digits) * factor, int(scale))
    if rest:
        raise _not_a_size(text)
    return size


def _factor(prefix: str | None, unit: str | None) -> int:
    if prefix is None:
        return 1
    table = _DECIMAL if unit is not None and len(unit) == 1 else _BINARY
    return table[prefix.lower()]


def _not_a_size(text: str) -> InvalidParam:
    return InvalidParam(
        f"{text!r} is not a size",
        remedy="write a number of bytes, or with k, M, G or T: 4k, 1M (kB, MB: powers of 1000)",
    )


def format_size(size: int) -> str:
    """`64 MiB` where that is exact or has three digits, else with one decimal: `1.5 GiB`."""
    power = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    value, unit = size / 1024**power, _UNITS[power]
    return f"{value:.0f} {unit}" if value == int(value) or value >= 100 else f"{value:.1f} {unit}"
