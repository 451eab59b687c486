"""qemu-storage-daemon as a disk of ours, also killed and started again: it keeps no notes of what was in flight."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwloop
from hwloop.cli.main import run
from hwloop.device.blk import VirtioBlk
from hwloop.errors import DeviceChanged, DeviceLost
from hwloop.qtest.process import QemuProcess
from tests import storage_daemon

SECTORS = 2048
SIZE = SECTORS * 512
SECONDS = 60
"""How long anything may take on a busy machine."""


class Daemon:
    """One that serves an image at a path, as often as it is started."""

    def __init__(self, folder: Path) -> None:
        self.path, self.image = folder / "disk.sock", folder / "disk.img"
        self.resize(SIZE)
        self.process: QemuProcess | None = None
        self.start()

    def resize(self, size: int) -> None:
        with open(self.image, "ab") as image:
            image.truncate(size)

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        node = f"driver=file,filename={self.image},discard=unmap"
        self.process = storage_daemon.start(self.path, node, "writable=on,num-queues=1")

    def kill(self) -> None:
        """It is gone when this returns, and the image is free for another one."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        assert self.process.explain(SECONDS)
        self.process.close()
        self.process = None

    def close(self) -> None:
        if self.process is not None:
            self.process.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory() as folder:
        daemon = Daemon(Path(folder))
        yield daemon
        daemon.close()


def opened(daemon: Daemon, options: str) -> VirtioBlk:
    disk = hwloop.open(f"vhost-user:{daemon.path}?{options}")
    assert isinstance(disk, VirtioBlk)
    return disk


@pytest.mark.fault(7, over="vhost-user")
@pytest.mark.parametrize("wait", ["poll", "irq"])
def test_verified_random_writes_survive_a_daemon_that_is_killed_again_and_again(daemon: Daemon, wait: str) -> None:
    rng = random.Random(wait)
    model = bytearray(SIZE)
    with opened(daemon, f"reconnect={SECONDS}&wait={wait}") as disk:
        for turn in range(60):
            tokens = {}
            for sector in rng.sample(range(SECTORS // 8), 24):
                start, length = sector * 8, rng.randint(1, 8) * 512
                if rng.random() < 0.7:
                    data = rng.randbytes(length)
                    tokens[disk.submit_write(start, data)] = b""
                    model[start * 512 : start * 512 + length] = data
                else:
                    tokens[disk.submit_read(start, length)] = bytes(model[start * 512 : start * 512 + length])
                if turn % 6 == 5 and len(tokens) == 12:
                    daemon.kill()
                    daemon.start()
            for token in rng.sample(list(tokens), len(tokens)):
                assert disk.wait(token) == tokens[token]
        disk.flush()
        assert disk.read(0, SIZE) == model
    assert daemon.image.read_bytes() == model


def test_one_that_is_not_started_again_is_lost_within_the_time_that_was_given(daemon: Daemon) -> None:
    with opened(daemon, "reconnect=0.5") as disk:
        daemon.kill()
        with pytest.raises(DeviceLost, match=r"did not come back within 0\.5 s"):
            disk.write(0, bytes(512))


def test_one_that_comes_back_with_another_image_is_refused(daemon: Daemon) -> None:
    with opened(daemon, f"reconnect={SECONDS}") as disk:
        daemon.kill()
        daemon.resize(2 * SIZE)
        daemon.start()
        with pytest.raises(DeviceChanged, match="came back with 4096 sectors"):
            disk.write(0, b"x" * 512)
    assert daemon.image.read_bytes() == bytes(2 * SIZE)


def test_zeros_that_are_copied_to_it_become_holes_of_its_image(daemon: Daemon, tmp_path: Path) -> None:
    daemon.image.write_bytes(b"\xff" * SIZE)
    source = tmp_path / "source.img"
    source.write_bytes(random.Random(1).randbytes(SIZE // 8))
    os.truncate(source, SIZE)
    assert run(["copy", str(source), f"vhost-user:{daemon.path}"]) == 0
    assert daemon.image.read_bytes() == source.read_bytes()
    assert daemon.image.stat().st_blocks * 512 <= SIZE // 4
