"""docs/reference/ is what the code says, and the code says something of everything."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import hwloop
from hwloop.cli.main import COMMANDS
from hwloop.door import DOORS
from hwloop.door.fake_shape import FAULTS, SHAPE
from hwloop.filter import FILTERS
from hwloop.target import KINDS
from tests.documents import reference
from tests.documents.reference import api, commands, targets


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    assert name not in reference.stale(), "run: make docs"


def test_a_page_that_was_changed_is_stale(tmp_path: Path) -> None:
    reference.write(tmp_path)
    assert reference.stale(tmp_path) == []
    with open(tmp_path / "python.md", "a") as file:
        file.write("more")
    assert reference.stale(tmp_path) == ["python.md"]


def test_every_command_and_every_option_of_it_is_there() -> None:
    text = commands.page()
    assert all(f"\n## hwloop {name}\n" in text for name in COMMANDS)
    assert "### hwloop serve nbd" in text
    assert "| `--bs` SIZE | Bytes of a request. (default: 4k) |" in text


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    published = api.published()
    values = [value for value in published.values() if value.__hash__]
    assert [name for name in hwloop.__all__ if getattr(hwloop, name) not in values] == []
    callables = {
        path: value for path, value in published.items() if inspect.isclass(value) or inspect.isfunction(value)
    }
    assert [path for path, value in callables.items() if not (value.__doc__ or "").strip()] == []


def test_every_public_method_says_what_it_does() -> None:
    silent = [
        f"{kind.__name__}.{name}"
        for kind in api.published().values()
        if inspect.isclass(kind)
        for name, home in api._members(kind)
        if inspect.isroutine(vars(home)[name]) and not api.documentation(kind, name)
    ]
    assert silent == []


def test_every_option_of_every_target_is_there() -> None:
    for _, options in targets.KINDS.values():
        assert set(options) <= set(targets.MEANINGS)
    assert set(targets.MEANINGS) == {key for _, options in targets.KINDS.values() for key in options}
    assert set(SHAPE) == set(targets.SHAPES)
    assert set(FAULTS) == set(targets.MISBEHAVIOUR)
    assert set(FILTERS) == set(targets.FILTER_MEANINGS)
    text = " ".join(targets.KINDS)
    assert all(f"`{kind}:" in text for kind in set(KINDS) - {"block"})
    assert set(DOORS) == set(KINDS)
