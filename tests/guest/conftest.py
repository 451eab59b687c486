"""These tests run as root inside the test VM; tests/vm boots it and calls them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.guest)
        if not os.environ.get("HWLOOP_GUEST"):
            item.add_marker(pytest.mark.skip(reason="runs inside the test VM: make test"))
