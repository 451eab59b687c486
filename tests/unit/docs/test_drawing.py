"""docs/architecture.svg is true: what it shows exists, and stands on the step that it is drawn on."""

from __future__ import annotations

from importlib.util import find_spec
from xml.etree import ElementTree

import pytest

from tests.documents.block import ROOT
from tests.unit.test_staircase import STEPS

DRAWING = ROOT / "docs" / "architecture.svg"
_GROUPS = ElementTree.parse(DRAWING).iter("{http://www.w3.org/2000/svg}g")
SHOWN = [(name, int(group.attrib["data-step"])) for group in _GROUPS for name in group.get("data-modules", "").split()]


def test_something_is_shown() -> None:
    assert {step for _, step in SHOWN} == {0, 2, 3, 4, 5, 6, 7}


@pytest.mark.parametrize(("module", "step"), SHOWN, ids=[name for name, _ in SHOWN])
def test_a_module_is_on_its_step(module: str, step: int) -> None:
    assert find_spec(module) is not None
    parts = module.split(".")
    prefixes = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    assert next(STEPS[prefix] for prefix in prefixes if prefix in STEPS) == step


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_it_is_shown(page: str) -> None:
    assert "architecture.svg)" in (ROOT / page).read_text(encoding="utf-8")
