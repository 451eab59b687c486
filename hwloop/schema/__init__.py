"""The JSON Schemas of what `--json` prints, a file a command. Output may gain keys; what is here stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwloop.errors import InvalidParam

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """What there is a schema of, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    """The schema of a command's JSON. Raises InvalidParam for a name that there is none of."""
    if name not in names():
        raise InvalidParam(f"there is no schema {name!r}", remedy=f"there is: {', '.join(names())}")
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found
