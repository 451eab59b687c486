"""The layout of `hexdump -C`, compared with the program itself where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwloop.hexdump import hexdump

PROGRAM = shutil.which("hexdump")


def dumped(data: bytes, offset: int = 0) -> str:
    return "".join(f"{line}\n" for line in hexdump([data], offset))


def test_a_line_has_sixteen_bytes_and_their_text() -> None:
    assert dumped(b"The quick\x00brown\n\xff", 0x1F0) == (
        "000001f0  54 68 65 20 71 75 69 63  6b 00 62 72 6f 77 6e 0a  |The quick.brown.|\n"
        "00000200  ff                                                |.|\n"
        "00000201\n"
    )


def test_equal_lines_are_left_out() -> None:
    assert dumped(bytes(64) + b"x") == (
        "00000000  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|\n"
        "*\n"
        "00000040  78                                                |x|\n"
        "00000041\n"
    )


def test_an_end_in_equal_lines_shows_where_it_is() -> None:
    assert dumped(bytes(48)).splitlines()[1:] == ["*", "00000030"]


def test_nothing_is_shown_of_nothing() -> None:
    assert dumped(b"") == ""


def test_offsets_grow_beyond_eight_digits() -> None:
    assert dumped(b"a", 1 << 32).splitlines()[0].startswith("100000000  61")


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(0, 1 << 34))
def test_how_the_bytes_come_in_pieces_does_not_matter(chunks: list[bytes], offset: int) -> None:
    assert list(hexdump(chunks, offset)) == list(hexdump([b"".join(chunks)], offset))


_repetitive = st.lists(st.sampled_from([bytes(16), b"A" * 16, bytes(range(16)), b"short"]), max_size=12).map(b"".join)


@pytest.mark.skipif(PROGRAM is None, reason="hexdump is not installed (package bsdextrautils)")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=100), _repetitive))
def test_it_is_what_the_program_prints(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "data"
    file.write_bytes(data)
    assert PROGRAM is not None
    printed = subprocess.run([PROGRAM, "-C", file], capture_output=True, text=True, check=True).stdout
    assert dumped(data) == printed


@given(st.binary(max_size=200), st.integers(0, 1 << 33))
def test_offsets_are_those_of_the_lines(data: bytes, offset: int) -> None:
    lines = [line for line in hexdump([data], offset) if line != "*"]
    offsets = [int(line.split()[0], 16) for line in lines]
    assert all(later > earlier for earlier, later in pairwise(offsets))
    assert (offsets[-1] if offsets else offset) == offset + len(data)
