"""SIGKILL of the front end at random moments of heavy writing: the device lives, and takes the next one. HWLOOP_KILLS
says how often."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

import hwloop
from hwloop import testdev
from hwloop.device.blk import VirtioBlk
from tests.durability.history import SECTOR
from tests.killed import start_writing

KILLS = int(os.environ.get("HWLOOP_KILLS", "5"))
SIZE = 1 << 20
OURS = SIZE // 2
"""Bytes that a killed process writes; what is behind them is the neighbour's."""


def kill_once(target: str, delay: float) -> None:
    child = start_writing(target, b"k" * 4096, OURS // SECTOR)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.fault(41)
@pytest.mark.parametrize("packed", ["on", "off"])
def test_faults_41_a_front_end_that_is_killed_harms_neither_the_device_nor_its_neighbour(
    packed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    choose = random.Random(41)
    neighbour = choose.randbytes(SIZE - OURS)
    took = []
    with testdev.start("fake:1M") as device:
        target = f"{device.target}?packed={packed}"
        with hwloop.open(target) as disk:
            assert isinstance(disk, VirtioBlk)
            disk.write(OURS // SECTOR, neighbour)
        for _ in range(KILLS):
            kill_once(target, choose.random() * 0.05)
            killed = time.monotonic()
            with hwloop.open(target) as disk:
                assert isinstance(disk, VirtioBlk)
                took.append(time.monotonic() - killed)
                assert disk.read(OURS // SECTOR, SIZE - OURS) == neighbour
                assert set(disk.read(0, OURS)) <= set(b"k\0")
        assert device.process.poll() is None
    with capsys.disabled():
        print(f"{len(took)} of {KILLS} kills over vhost-user: the next has the disk within {max(took):.2f} s")
