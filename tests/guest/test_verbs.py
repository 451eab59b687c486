"""Every command of the help on a disk of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import verbs
from tests.guest.machine import driver, given_back
from tests.verbs import VERBS, Case

DISK = "0000:00:05.0"
RNG, CONSOLE = "0000:00:08.0", "0000:00:09.0"
"""As tests/vm places them."""

HERE = {
    "list": (Case("list", DISK),),
    "bind": (Case("bind {disk} --driver vfio-pci"), Case("restore {disk}")),
    "unbind": (Case("unbind {disk}"), Case("restore {disk}")),
    "restore": (Case("restore"), Case("unbind {disk}"), Case("list", DISK), Case("restore", DISK)),
    "vm": (Case("vm run -- true", "not installed|is missing|mmdebstrap|qemu", 6),),
}


def test_each_command_of_the_help_has_a_row() -> None:
    verbs.check_complete(HERE)


@pytest.fixture(autouse=True)
def the_kernel_has_the_disk_back() -> Iterator[None]:
    yield
    given_back(DISK)
    assert [driver(address) for address in (RNG, CONSOLE)] == ["virtio-pci"] * 2


@pytest.mark.parametrize("verb", [*VERBS, *HERE])
def test_verb(verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    verbs.make_image(tmp_path)
    values = {"disk": DISK, "rng": RNG, "console": CONSOLE, "folder": str(tmp_path)}
    verbs.run_all({**VERBS, **HERE}[verb], values, capfd, more=False)
