"""Fault 47: a disk that holds data is not written over QEMU's own device either, unless somebody says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hwloop.cli.main import run


@pytest.mark.fault(47)
def test_a_disk_with_a_file_system_is_not_written_without_a_promise(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image, data = tmp_path / "ext4.img", tmp_path / "data"
    with open(image, "wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=60)
    data.write_bytes(b"d" * 4096)
    before = image.read_bytes()
    assert run(["write", f"qemu:{image}", "0", "-i", str(data)]) == 3
    assert "--yes-destroy-data" in capfd.readouterr().err
    assert image.read_bytes() == before
    assert run(["write", f"qemu:{image}", "0", "-i", str(data), "--yes-destroy-data"]) == 0
    assert image.read_bytes()[:4096] == b"d" * 4096
