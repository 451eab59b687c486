"""The command line over `qemu:` targets, as a user who is not root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.qemu.conftest import CONTENT

ROOT = Path(__file__).parents[2]
NOBODY = 65534


class User:
    """Runs commands as somebody who may do nothing in particular, in a folder of his own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = folder / "disk.img"
        self.image.write_bytes(CONTENT * 2048)
        self._prefix: list[str] = []
        if os.geteuid() == 0:
            for path in (folder, self.image):
                os.chown(path, NOBODY, NOBODY)
            self._prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        # The interpreter may be in root's home, and its byte code cannot be written anyway.
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [*self._prefix, *command], cwd=self.folder, env=environment, capture_output=True, timeout=60, check=False
        )

    def hwloop(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return self.run(sys.executable, "-P", "-m", "hwloop", *arguments)


@pytest.fixture
def user() -> Iterator[User]:
    import tempfile

    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("setpriv (util-linux) is not installed, so nobody else can be")
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory(prefix="hwloop-user-") as folder:
        user = User(Path(folder))
        if user.run(sys.executable, "-c", "import hwloop.cli.main").returncode:
            pytest.skip(f"others may not use {sys.executable}")
        yield user


def test_a_user_who_is_not_root_reads_the_first_block(user: User) -> None:
    """How long that takes is for `python -m bench.first_block` to say."""
    result = user.hwloop("read", "qemu:disk.img", "0", "512")
    assert (result.returncode, result.stderr, result.stdout) == (0, b"", CONTENT)


def test_a_user_writes_and_reads_back_and_asks_for_the_serial(user: User) -> None:
    (user.folder / "data").write_bytes(b"D" * 1000)
    assert user.hwloop("write", "qemu:disk.img", "100", "-i", "data").returncode == 0
    assert user.hwloop("read", "qemu:disk.img?machine=microvm", "100", "1000").stdout == b"D" * 1000
    assert user.hwloop("flush", "qemu:disk.img?legacy=on").returncode == 0
    assert user.hwloop("id", "qemu:disk.img?serial=MINE").stdout == b"MINE\n"
    assert user.image.read_bytes()[100:1100] == b"D" * 1000


def test_an_image_that_a_user_may_not_write_can_be_opened_read_only(user: User) -> None:
    os.chmod(user.image, 0o444)
    if os.geteuid() == 0:
        os.chown(user.image, 0, 0)
    result = user.hwloop("read", "qemu:disk.img", "0", "512")
    assert result.returncode == 6
    assert b"disk.img: Permission denied; make it writable, or add read-only=on" in result.stderr
    assert user.hwloop("read", "qemu:disk.img?read-only=on", "0", "512").stdout == CONTENT
    os.chmod(user.image, 0)
    result = user.hwloop("read", "qemu:disk.img?read-only=on", "0", "512")
    assert b"Permission denied; make it readable" in result.stderr
