"""What is installed: an installation that is not editable has only the packages that pyproject.toml names."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = ("cython_ring", "pci", "mmio", "udev", "hwloop")


def test_every_package_is_named() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = settings["tool"]["setuptools"]["packages"]
    there = {path.parent.relative_to(ROOT) for top in TOP for path in (ROOT / top).rglob("__init__.py")}
    assert sorted(named) == sorted(".".join(path.parts) for path in there)
