"""These tests start QEMU with its qtest server: a few hundred milliseconds each, and no root."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hwloop.door.qemu import QemuPlace
from hwloop.qtest.qemu import QemuMachine
from hwloop.target import Target
from tests.contract.qtest_doors import running_qemus

HERE = Path(__file__).parent
CONTENT = bytes(range(256)) * 2
"""Each sector of the image."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.qemu)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENT * 2048)
    return path


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert running_qemus() == []


@pytest.fixture
def start(image: Path) -> Iterator[Callable[..., tuple[QemuPlace, QemuMachine]]]:
    """Starts a machine with the image as its disk; options are those of the target, `_` for `-`."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: str) -> tuple[QemuPlace, QemuMachine]:
            named = {key.replace("_", "-"): value for key, value in options.items()}
            place = QemuPlace(Target("qemu", str(image), named))
            return place, stack.enter_context(place.open_machine(arguments))

        yield start
