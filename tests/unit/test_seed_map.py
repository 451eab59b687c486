"""docs/seed-map.md is true: every item is there, every symbol exists, and every test that it names exercises it."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hwloop.device import DRIVERS
from hwloop.hal import HALS
from hwloop.transport import TRANSPORTS
from tests.seedmap.rows import ROOT, Row, every_id, read_rows, resolve

ELSEWHERE = ("tests/vm/", "tests/guest/", "tests/qemu/")
"""Tests that need a VM or QEMU: that they are collected is checked here, and what they call is not."""

ROWS = read_rows()


def is_file(symbol: str) -> bool:
    return "/" in symbol


def test_every_item_of_the_seeds_is_there_once_and_in_order() -> None:
    assert [row.id for row in ROWS] == every_id()


def test_every_item_has_a_symbol_and_a_test() -> None:
    assert [row.id for row in ROWS if not row.symbols or not row.tests] == []


def test_every_symbol_can_be_imported() -> None:
    missing = []
    for row in ROWS:
        for symbol in row.symbols:
            try:
                assert (ROOT / symbol).exists() if is_file(symbol) else resolve(symbol) is not None
            except (ImportError, AttributeError, AssertionError) as error:
                missing.append(f"{row.id}: {symbol}: {error!r}")
    assert missing == []


@cache
def collected() -> frozenset[str]:
    """The ids of all tests, those with parameters also without them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    ids = [line for line in found.splitlines() if "::" in line]
    return frozenset(ids) | {re.sub(r"\[.*\]$", "", test) for test in ids}


def test_every_named_test_is_collected() -> None:
    assert [f"{row.id}: {test}" for row in ROWS for test in row.tests if test not in collected()] == []


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What each test of the map calls: `file:qualified.name`; tests are run once, with a profiler."""
    path = tmp_path_factory.mktemp("map") / "called.jsonl"
    tests = sorted({test for row in ROWS for test in row.tests if not test.startswith(ELSEWHERE)})
    options = ["-q", "-p", "no:cacheprovider", "-p", "tests.seedmap.exercise", "-m", "not vm and not qemu"]
    environment = os.environ | {"HWLOOP_EXERCISED": str(path), "PYTHONPATH": str(ROOT)}
    environment.pop("HWLOOP_DOORS", None)
    command = [sys.executable, "-m", "pytest", *options, *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]
    notes: dict[str, set[str]] = defaultdict(set)
    for line in path.read_text(encoding="utf-8").splitlines():
        note = json.loads(line)
        notes[re.sub(r"\[.*\]$", "", note["test"])].update(note["called"])
        notes[note["test"]].update(note["called"])
    return notes


def names_of(symbol: Any) -> Iterator[tuple[str, str]]:
    """(file, qualified name) of the functions that stand for a symbol; a class stands for all of its own."""
    if isinstance(symbol, property):
        symbol = symbol.fget
    if isinstance(symbol, type):
        for member in vars(symbol).values():
            if inspect.isroutine(member) or isinstance(member, property | staticmethod | classmethod):
                yield from names_of(member)
        return
    code = getattr(inspect.unwrap(getattr(symbol, "__func__", symbol)), "__code__", None)
    # What a dataclass makes for itself is in no file.
    if code is not None and Path(code.co_filename).is_relative_to(ROOT):
        yield str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname


@cache
def load_tables() -> None:
    """What stands in a table is a subclass only once it is imported."""
    for table in (HALS, TRANSPORTS, DRIVERS):
        for name in table:
            table.get(name)


def overriders(symbol: Any, text: str) -> Iterator[Any]:
    """A method of a class, and what subclasses put in its place."""
    load_tables()
    yield symbol
    owner, _, name = text.partition(":")[2].rpartition(".")
    if not owner or not callable(symbol):
        return
    waiting = list(resolve(f"{text.partition(':')[0]}:{owner}").__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if name in vars(kind):
            yield vars(kind)[name]


def is_called(text: str, calls: set[str]) -> bool:
    symbol = resolve(text)
    if inspect.ismodule(symbol):
        path = Path(symbol.__file__ or "")
        folder = str((path.parent if path.name == "__init__.py" else path).relative_to(ROOT))
        return any(call.startswith(folder) for call in calls)
    kinds = [symbol]
    if isinstance(symbol, type):
        kinds = [symbol, *symbol.__subclasses__()]
    return any(
        f"{file}:{name}" in calls for kind in kinds for one in overriders(kind, text) for file, name in names_of(one)
    )


def is_named(text: str, test: str) -> bool:
    """Constants, fields and extension types are not called; the test, or its module, has to name them."""
    name = text.rpartition(":")[2].rpartition(".")[2]
    source = (ROOT / test.partition("::")[0]).read_text(encoding="utf-8")
    return re.search(rf"\b{re.escape(name)}\b", source) is not None


def exercised(row: Row, symbol: str, called: dict[str, set[str]]) -> bool:
    tests = [test for test in row.tests if not test.startswith(ELSEWHERE)]
    if is_file(symbol) or len(tests) < len(row.tests):
        return True
    return any(is_called(symbol, called[test]) or is_named(symbol, test) for test in tests)


def test_every_test_exercises_the_symbol_that_it_stands_for(called: dict[str, set[str]]) -> None:
    idle = [f"{row.id}: {symbol}" for row in ROWS for symbol in row.symbols if not exercised(row, symbol, called)]
    assert not idle, "\n".join(idle)
