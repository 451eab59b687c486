"""The blocks of docs/disk.md do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/disk.md").read_text(encoding="utf-8"), re.S | re.M)


def test_there_are_blocks() -> None:
    assert len(BLOCKS) > 4


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import hwloop

    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {"hwloop": hwloop}
    exec(compile(block, "docs/disk.md", "exec"), names)  # noqa: S102
