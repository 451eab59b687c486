"""Tables of named members, imported when they are asked for."""

from __future__ import annotations

import sys

import pytest

from hwloop.errors import InvalidParam
from hwloop.registry import Registry

TABLE: Registry[object] = Registry("shape", {"round": "colorsys:rgb_to_hls", "none": "colorsys:no_such_name"})


def test_a_table_is_listed_without_importing_its_members() -> None:
    sys.modules.pop("colorsys", None)
    assert list(TABLE) == ["round", "none"]
    assert "round" in TABLE
    assert "square" not in TABLE
    assert "colorsys" not in sys.modules


def test_a_member_is_imported_when_it_is_asked_for() -> None:
    import colorsys

    assert TABLE.get("round") is colorsys.rgb_to_hls


def test_an_unknown_name_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(InvalidParam, match="no shape is called 'square'; choose one of: none, round"):
        TABLE.get("square")


def test_an_entry_that_leads_nowhere_is_our_mistake_and_loud() -> None:
    with pytest.raises(AttributeError):
        TABLE.get("none")


def test_the_table_keeps_its_own_copy() -> None:
    members = {"a": "os:sep"}
    table: Registry[str] = Registry("letter", members)
    members["b"] = "os:sep"
    assert "b" not in table
