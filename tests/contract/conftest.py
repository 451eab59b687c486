"""Each test of the suite runs once for each door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.door import Door
from tests.contract.doors import DOORS, STARTS_QEMU, FakeDoor

_PARAMS = [pytest.param(name, marks=[pytest.mark.qemu] * (name in STARTS_QEMU)) for name in sorted(DOORS)]


@pytest.fixture(params=_PARAMS)
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    door = DOORS[request.param]()
    yield door
    door.close()


def _opened_door(name: str) -> Iterator[FakeDoor]:
    door = DOORS[name]()
    assert isinstance(door, FakeDoor)
    yield door
    door.close()


@pytest.fixture(params=["fake", "mmio-1", "mmio-2", "pci", "pci-legacy", "pci-transitional-legacy"])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeDoor]:
    """A door whose device does what a test tells it."""
    yield from _opened_door(request.param)


@pytest.fixture(params=["fake", "mmio-2", "pci"])
def modern_fake(request: pytest.FixtureRequest) -> Iterator[FakeDoor]:
    """The same, for what a legacy interface does not have."""
    yield from _opened_door(request.param)


@pytest.fixture(params=["mmio-1", "pci-legacy", "pci-transitional-legacy"])
def legacy_fake(request: pytest.FixtureRequest) -> Iterator[FakeDoor]:
    """The same, through a legacy interface."""
    yield from _opened_door(request.param)


@pytest.fixture(params=["pci-legacy", "pci-transitional-legacy"])
def fixed_size_fake(request: pytest.FixtureRequest) -> Iterator[FakeDoor]:
    """The same, where the device fixes the size of its queues."""
    yield from _opened_door(request.param)
