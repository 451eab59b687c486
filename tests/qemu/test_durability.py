"""Faults 56 and 57: what was flushed is there whenever the power fails, and the checker of that can fail."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_cache import CacheMode
from hwloop.door.qemu import QemuPlace
from hwloop.qtest.machine import MACHINES
from hwloop.qtest.qemu import QemuMachine
from hwloop.target import Target
from tests.durability.check import lost
from tests.durability.history import SECTOR, Flush, History, Write
from tests.durability.write_log import Entry, read_log

SECTORS = 2048
ROUNDS = 40


class Rig:
    """A disk whose writes are logged, and the driver that keeps a history of what it did."""

    def __init__(self, disk: VirtioBlk, log: Path) -> None:
        self.disk = disk
        self.history = History()
        self._log = log
        self._flying: dict[int, Write] = {}
        self._choose = random.Random(57)

    def write_some(self, count: int) -> None:
        """Writes of one to eight sectors, several at a time, half of them where something was written already."""
        for _ in range(count):
            length = self._choose.randint(1, 8)
            sector = self._choose.randrange(SECTORS // (8 if self._choose.random() < 0.5 else 1) - length)
            data = self._choose.randbytes(length * SECTOR)
            write = self.history.begin_write(sector, data)
            self._flying[self.disk.submit_write(sector, data)] = write
            while len(self._flying) >= 8:
                self.finish_one()

    def finish_one(self) -> None:
        token = self._choose.choice(sorted(self._flying))
        self.disk.wait(token)
        self.history.end_write(self._flying.pop(token))

    def flush(self, *, really: bool = True) -> None:
        """Ask for a flush while some writes are still on their way; they are not covered by it."""
        began = self.history.now()
        if really:
            self.disk.flush()
        self.history.flushes.append(Flush(began, len(read_log(self._log))))

    def switch(self) -> None:
        """Switch the cache while writes are on their way. To switch to writing through is a flush too, of what had
        completed before."""
        began = self.history.now()
        mode = self._choose.choice(list(CacheMode))
        self.disk.set_cache_mode(mode)
        if mode is CacheMode.WRITETHROUGH:
            self.history.flushes.append(Flush(began, len(read_log(self._log))))

    def run(self, *, really: bool = True) -> list[Entry]:
        for _ in range(ROUNDS):
            self.write_some(self._choose.randint(1, 12))
            self.flush(really=really)
        while self._flying:
            self.finish_one()
        self.flush(really=really)
        return read_log(self._log)


@contextmanager
def logged(folder: Path, *, flushes: bool = True, packed: bool = False) -> Iterator[Rig]:
    """A disk of QEMU's; without `flushes` its back end ignores them."""
    image, log = folder / "disk.img", folder / "writes.log"
    for path in (image, log):
        path.touch()
    with open(image, "r+b") as file:
        file.truncate(SECTORS * SECTOR)
    arguments = [
        "-blockdev", f"driver=file,node-name=image,filename={image}",
        "-blockdev", f"driver=file,node-name=logfile,filename={log}",
        "-blockdev",
        "driver=blklogwrites,node-name=logged,file=image,log=logfile,log-sector-size=512"
        f",cache.no-flush={'off' if flushes else 'on'}",
        "-blockdev", "driver=raw,node-name=disk0,file=logged",
        "-device", f"virtio-blk-pci,drive=disk0,disable-legacy=on,packed={'on' if packed else 'off'}",
    ]  # fmt: skip
    with QemuMachine(MACHINES["q35"], arguments) as machine:
        opened = QemuPlace(Target("qemu", str(image))).reach(machine)
        with opened, VirtioBlk(opened.transport, opened.hal) as disk:
            yield Rig(disk, log)


@pytest.mark.fault(57)
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_faults_57_what_was_flushed_is_there_whenever_the_power_fails(packed: bool, tmp_path: Path) -> None:
    with logged(tmp_path, packed=packed) as rig:
        log = rig.run()
        assert lost(rig.history, log) == []
        assert sum(entry.is_flush for entry in log) >= ROUNDS // 2
        assert len(rig.history.writes) > ROUNDS


@pytest.mark.fault(58)
def test_faults_58_writes_are_volatile_until_the_next_flush_whatever_the_cache_was_when_they_were_sent(
    tmp_path: Path,
) -> None:
    with logged(tmp_path) as rig:
        for _ in range(ROUNDS):
            rig.write_some(rig._choose.randint(1, 12))
            rig.switch()
            rig.write_some(rig._choose.randint(1, 12))
            rig.flush()
        log = rig.run()
        assert lost(rig.history, log) == []


@pytest.mark.fault(56)
def test_faults_56_what_was_not_flushed_may_be_lost(tmp_path: Path) -> None:
    """The last writes are behind the last flush, and a flush that covered them would not have been kept."""
    with logged(tmp_path) as rig:
        rig.run()
        rig.write_some(1)
        while rig._flying:
            rig.finish_one()
        log = read_log(tmp_path / "writes.log")
        assert not log[-1].is_flush
        rig.history.flushes.append(Flush(rig.history.now(), len(log)))
        assert lost(rig.history, log) != []


def test_a_back_end_that_ignores_flushes_is_found(tmp_path: Path) -> None:
    with logged(tmp_path, flushes=False) as rig:
        log = rig.run()
        assert not any(entry.is_flush for entry in log)
        assert lost(rig.history, log) != []


def test_a_driver_that_does_not_send_its_flushes_is_found(tmp_path: Path) -> None:
    with logged(tmp_path) as rig:
        assert lost(rig.history, rig.run(really=False)) != []


def test_a_write_that_never_reached_the_image_is_found(tmp_path: Path) -> None:
    with logged(tmp_path) as rig:
        log = rig.run()
        last = max(n for n, entry in enumerate(log) if entry.data)
        # Its place in the log stays, so that only what it held is missing.
        gone = [Entry(entry.flags, entry.sector, b"") if n == last else entry for n, entry in enumerate(log)]
        assert lost(rig.history, gone) != []


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"disk" * 1024)
    with pytest.raises(ValueError, match="no log of writes"):
        read_log(tmp_path / "log")
