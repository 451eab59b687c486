"""Every command of the help on QEMU's own devices, through its qtest server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import verbs
from tests.verbs import REFUSED, VERBS, Case

NO_KERNEL = "the kernel of this machine has no part in"
HERE = {
    "list": (Case("list", ""),),
    "bind": (Case("bind {disk} --driver vfio-pci", NO_KERNEL, REFUSED),),
    "unbind": (Case("unbind {disk}", NO_KERNEL, REFUSED),),
    "restore": (Case("restore {disk}", NO_KERNEL, REFUSED),),
    "vm": (Case("vm run --disk {folder}/none.img -- true", "none.img does not exist", 6),),
}


def test_each_command_of_the_help_has_a_row() -> None:
    verbs.check_complete(HERE)


@pytest.mark.parametrize("verb", [*VERBS, *HERE])
def test_verb(verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    verbs.make_image(tmp_path)
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4 * verbs.MIB))
    values = {
        "disk": f"qemu:{disk}?serial=HWLOOP0",
        "rng": "qemu:none?device=rng",
        "console": "qemu:none?device=console",
        "folder": str(tmp_path),
    }
    verbs.run_all({**VERBS, **HERE}[verb], values, capfd, more=True)
