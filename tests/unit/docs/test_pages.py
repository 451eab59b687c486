"""Every code block of README.md and docs/ is run, or says why it is not (docs/README.md)."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest

from tests.documents import syntax
from tests.documents.block import NOT_RUN, QEMU, ROOT, UNIT, Block, Unrunnable, blocks, name_of, pages
from tests.documents.page import run_page

NOT_RUN_AT_MOST = 18
"""Blocks that no test runs. Lower it when there are fewer; think twice before it is raised."""


def _read(page: Path) -> list[Block]:
    """Of a page that cannot be read, none: it has a test of its own, and the others are collected."""
    with contextlib.suppress(Unrunnable):
        return blocks(page.read_text(encoding="utf-8"), name_of(page))
    return []


_READ = {name_of(page): _read(page) for page in pages()}


def _pages_with(how: str) -> list[str]:
    return [name for name, here in _READ.items() if any(block.how == how for block in here)]


@pytest.mark.parametrize("page", _READ)
def test_each_block_of_a_page_can_be_run_or_says_why_not(page: str) -> None:
    blocks((ROOT / page).read_text(encoding="utf-8"), page)


@pytest.mark.parametrize("page", _pages_with(UNIT))
def test_the_blocks_of_a_page_do_what_it_says(page: str, tmp_path: Path) -> None:
    assert run_page(_READ[page], tmp_path, {UNIT})


@pytest.mark.qemu
@pytest.mark.parametrize("page", _pages_with(QEMU))
def test_the_blocks_of_a_page_do_what_it_says_with_qemu(page: str, tmp_path: Path) -> None:
    assert run_page(_READ[page], tmp_path, {UNIT, QEMU})


def test_few_blocks_are_not_run_and_each_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = [block for block in itertools.chain(*_READ.values()) if block.how == NOT_RUN]
    with capsys.disabled():
        print(f"\n{len(found)} blocks of the documents are not run:")
        for block in found:
            print(f"  {block}: {block.reason}")
    assert all(block.reason for block in found)
    assert len(found) <= NOT_RUN_AT_MOST


def test_commands_that_are_not_run_here_are_commands_of_ours_with_options_that_there_are() -> None:
    elsewhere = [block for block in itertools.chain(*_READ.values()) if block.how != UNIT]
    assert list(itertools.chain(*map(syntax.mistakes, elsewhere))) == []
