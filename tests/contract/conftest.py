"""Each test of the suite runs once for each door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.door import Door
from tests.contract.doors import DOORS, FakeDoor


@pytest.fixture(params=sorted(DOORS))
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    door = DOORS[request.param]()
    yield door
    door.close()


@pytest.fixture(params=["fake", "pci"])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeDoor]:
    """A door whose device does what a test tells it."""
    door = DOORS[request.param]()
    assert isinstance(door, FakeDoor)
    yield door
    door.close()
