"""Sizes as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwloop.errors import InvalidParam
from hwloop.size import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("512", 512), ("010", 10), ("4k", 4096), ("4K", 4096), ("1M", 1 << 20), ("2g", 2 << 30),
        ("1T", 1 << 40), ("0x200", 512), ("0X1F", 31), ("0x10k", 16384), ("7b", 7), (" 8 ", 8), ("0x1b", 27),
        ("99999999999999999999", 99999999999999999999), ("4KiB", 4096), ("4kib", 4096), ("1MiB", 1 << 20),
        ("2GiB", 2 << 30), ("1TiB", 1 << 40), ("4kB", 4000), ("4KB", 4000), ("3MB", 3_000_000), ("1GB", 10**9),
        ("1tb", 10**12), ("1.5k", 1536), ("1.5G", 3 << 29), ("0.5kB", 500), ("1.0", 1), ("0x10KiB", 16384),
    ],
)  # fmt: skip
def test_a_size_is_a_number_with_a_suffix(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "k", "-1", "+1", "1.5", "1.0001k", ".5k", "1.k", "0x1.8k", "1e3", "0x", "4kk", "4 k", "4ik", "4iB", "0o17",
     "1_000", "٣", "KiB", "1PiB", "9" * 5000],
)  # fmt: skip
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidParam, match="4k, 1M"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"),
        (100 * 1024 + 300, "100 KiB"), (3 << 40, "3 TiB"), (5 << 50, "5120 TiB"), ((1 << 20) - 1, "1024 KiB"),
    ],
)  # fmt: skip
def test_a_size_is_shown_with_two_or_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 1 << 80))
def test_what_is_shown_is_the_size_within_a_twentieth(size: int) -> None:
    value, unit = format_size(size).split()
    factor = 1 << 10 * ("B", "KiB", "MiB", "GiB", "TiB").index(unit)
    assert abs(float(value) * factor - size) <= size / 20
