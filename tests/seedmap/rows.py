"""Reads docs/seed-map.md: which symbol has each item of the seeds, and which test proves it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MAP = ROOT / "docs" / "seed-map.md"
COUNTS = {"S0": 83, "S1": 81, "S2": 55, "S3": 67, "S4": 31}
"""How many items each seed has."""

_ROW = re.compile(r"^\| (S\d-\d{3}) \| (.*?) \| (.*?) \| (.*?) \|$", re.MULTILINE)
_QUOTED = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Row:
    """One item. `symbols` are `module:attribute.path` or a file of the project; `tests` are ids of pytest."""

    id: str
    what: str
    symbols: tuple[str, ...]
    tests: tuple[str, ...]


def every_id() -> list[str]:
    return [f"{seed}-{number:03}" for seed, count in COUNTS.items() for number in range(1, count + 1)]


def read_rows() -> list[Row]:
    text = MAP.read_text(encoding="utf-8")
    return [
        Row(found[1], found[2], tuple(_QUOTED.findall(found[3])), tuple(_QUOTED.findall(found[4])))
        for found in _ROW.finditer(text)
    ]


def resolve(symbol: str) -> Any:
    """The object that a symbol names. Raises ImportError or AttributeError."""
    module, _, path = symbol.partition(":")
    found: Any = import_module(module)
    for name in filter(None, path.split(".")):
        found = _member(found, name)
    return found


def _member(owner: Any, name: str) -> Any:
    if name in getattr(owner, "__dataclass_fields__", {}) or name in getattr(owner, "__annotations__", {}):
        return getattr(owner, name, owner.__annotations__.get(name))
    return getattr(owner, name)
