"""The test device: a process that serves a disk, and goes when it should."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import hwloop
from hwloop import testdev
from hwloop.cli.main import run
from hwloop.deadline import Deadline
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_formats import ZonedModel
from hwloop.device.blk_protocol import BlkConfig
from hwloop.errors import AlreadyUsed, HwloopError, InvalidParam, SetupError
from hwloop.hal.fake import FakeHal
from hwloop.spec import BlkFeature
from hwloop.vhost.messages import Request

MIB = 1 << 20


def opened(target: str) -> VirtioBlk:
    disk = hwloop.open(target)
    assert isinstance(disk, VirtioBlk)
    return disk


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = Deadline(30)
    while not condition() and not deadline.expired():
        time.sleep(0.01)
    return condition()


def gone(pid: int) -> bool:
    """Ended, whether or not its parent has looked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# --- What is served ---------------------------------------------------------------------------------------------------


def test_a_disk_of_zeros_is_served_to_one_driver_after_the_other() -> None:
    with testdev.start("fake:16M?serial=TESTDEV&block-size=4096") as device:
        with opened(device.target) as disk:
            assert (disk.size(), disk.block_size(), disk.device_id()) == (16 * MIB, 4096, "TESTDEV")
            disk.write(8, b"x" * 4096)
            disk.flush()
        with opened(device.target) as disk:
            assert disk.read(8, 4096) == b"x" * 4096
    assert gone(device.pid)
    assert not device.path.exists()


def test_a_file_is_served_and_has_what_was_written(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"old!" * 256)
    with testdev.start(str(image)) as device, opened(device.target) as disk:
        assert disk.read(0, 512) == b"old!" * 128
        disk.write(1, b"new!" * 128)
        disk.flush()
        assert image.read_bytes() == b"old!" * 128 + b"new!" * 128
    assert image.read_bytes() == b"old!" * 128 + b"new!" * 128


def test_a_file_has_one_writer_at_a_time(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    with testdev.make_disk(str(image)), pytest.raises(AlreadyUsed, match="in use by another device"):
        testdev.make_disk(str(image))
    with testdev.make_disk(f"{image}?read-only=on"), testdev.make_disk(f"{image}?read-only=on"):
        pass


@pytest.mark.parametrize(
    ("options", "feature", "field", "value"),
    [
        ("size-max=4k", BlkFeature.SIZE_MAX, "size_max", 4096),
        ("seg-max=7", BlkFeature.SEG_MAX, "seg_max", 7),
        ("geometry=100/16/63", BlkFeature.GEOMETRY, "sectors", 63),
        ("block-size=128k", None, None, None),
        ("block-size=64k", BlkFeature.BLK_SIZE, "blk_size", 65536),
        ("read-only=on", BlkFeature.RO, None, None),
        ("physical-block-size=4k", BlkFeature.TOPOLOGY, "physical_block_exp", 3),
        ("min-io=4k&opt-io=64k", BlkFeature.TOPOLOGY, "opt_io_size", 128),
        ("write-cache=writethrough", BlkFeature.CONFIG_WCE, "writeback", 0),
        ("queues=4", BlkFeature.MQ, "num_queues", 4),
        ("discard=on&discard-max=1M", BlkFeature.DISCARD, "max_discard_sectors", 2048),
        ("discard=on&discard-segments=9", BlkFeature.DISCARD, "max_discard_seg", 9),
        ("write-zeroes=on&write-zeroes-may-unmap=off", BlkFeature.WRITE_ZEROES, "write_zeroes_may_unmap", 0),
        ("secure-erase=on&secure-erase-alignment=4k", BlkFeature.SECURE_ERASE, "secure_erase_sector_alignment", 8),
        ("lifetime=1,2,3", BlkFeature.LIFETIME, None, None),
        ("zoned=host-aware&zone-size=2M", BlkFeature.ZONED, "zone_sectors", 4096),
        ("zoned=host-managed&max-open-zones=3", BlkFeature.ZONED, "max_open_zones", 3),
        ("zoned=host-managed", BlkFeature.ZONED, "zoned_model", ZonedModel.HOST_MANAGED),
    ],
)
def test_options_are_features_and_configuration(
    options: str, feature: BlkFeature | None, field: str | None, value: int | None
) -> None:
    if feature is None:
        with pytest.raises(InvalidParam, match="block-size"):
            testdev.make_disk(f"fake:1M?{options}")
        return
    with testdev.make_disk(f"fake:1M?{options}") as device:
        usual = testdev.OFFERED | BlkFeature.FLUSH | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX
        assert device.features == usual | feature
        assert field is None or device.field(getattr(BlkConfig, field)) == value


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        ("fake:0", "cannot have 0 bytes"),
        ("fake:1000", "multiple of its block size 512"),
        ("fake:1M?block-size=128k", "block-size"),
        ("fake:1M?colour=red", "no option is called 'colour'"),
        ("fake:1M?lifetime=4,0,0", "give three numbers"),
        ("fake:1M?lifetime=1,2", "give three numbers"),
        ("fake:1M?geometry=1/2", "cylinders/heads/sectors"),
        ("fake:1M?geometry=1/256/1", "at most 65535 cylinders"),
        ("fake:1M?physical-block-size=1536", "a power of two"),
        ("fake:1M?discard-max=100", "a multiple of 512"),
        ("fake:1M?size-max=8G", "fits 32 bits"),
        ("fake:1M?zoned=host-managed&zone-size=1M&zone-capacity=2M", "capacity"),
        ("fake:1M?zoned=host-managed&write-granularity=768", "number of sectors"),
        ("fake:1M?zoned=drive", "choose one of: host-managed, host-aware, none"),
        ("/nowhere/disk.img", "cannot serve /nowhere/disk.img"),
        ("/dev/null", "no regular file"),
    ],
)
def test_what_cannot_be_served_is_said(disk: str, words: str) -> None:
    with pytest.raises(HwloopError, match=words):
        testdev.make_disk(disk)


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize(("start", "end"), [(1000, MIB - 5000), (10, 20), (0, MIB), (4096, 8192), (5000, 9000)])
def test_cleared_ranges_are_zeros_and_nothing_else_is(tmp_path: Path, on_disk: bool, start: int, end: int) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(MIB))
    with testdev.make_disk(str(image) if on_disk else "fake:1M") as device:
        device.data[:] = b"x" * MIB
        device._clear(start, end)
        assert device.data[:] == b"x" * start + bytes(end - start) + b"x" * (MIB - end)


def test_a_file_that_was_cleared_is_shorter_on_the_disk_where_it_can_be() -> None:
    file = os.memfd_create("a file system with holes")
    os.write(file, b"x" * MIB)
    with testdev.StoredBlk(FakeHal(), MIB, path=Path(f"/proc/self/fd/{file}")) as device:
        device._clear(0, MIB // 2)
        assert os.fstat(file).st_blocks * 512 <= MIB // 2
    os.close(file)


# --- The socket, and its end ------------------------------------------------------------------------------------------


def test_a_socket_that_nobody_listens_at_is_replaced_and_another_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "disk.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(path))
    assert run(["testdev", str(path), "fake:1M", "--seconds", "0"]) == 0
    assert not path.exists()
    path.write_text("mine")
    assert run(["testdev", str(path), "fake:1M", "--seconds", "0"]) == 3
    assert path.read_text() == "mine"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))
        other.listen()
        assert run(["testdev", str(path), "fake:1M", "--seconds", "0"]) == 3


def test_a_path_that_is_too_long_is_no_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["testdev", str(tmp_path / ("x" * 120)), "fake:1M", "--seconds", "0"]) == 6
    assert "cannot listen at" in capsys.readouterr().err


def test_it_ends_after_so_many_connections() -> None:
    with testdev.start("fake:1M") as device:
        command = [sys.executable, "-m", "hwloop", "testdev", f"{device.path}2", "fake:1M", "--connections", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == f"listening at {device.path}2\n".encode()
            for _ in range(2):
                with opened(f"vhost-user:{device.path}2") as disk:
                    assert disk.read(0, 512) == bytes(512)
            assert other.wait(30) == 0


def test_it_ends_with_the_process_that_it_was_told_to_watch(tmp_path: Path) -> None:
    script = "from hwloop import testdev; d = testdev.start('fake:1M'); print(d.pid, d.path, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, path = parent.stdout.readline().split()
        assert not gone(int(pid))
        parent.kill()
    assert wait_for(lambda: gone(int(pid)))
    assert wait_for(lambda: not Path(path).exists())


def test_a_device_that_cannot_start_says_why() -> None:
    with pytest.raises(SetupError, match="a test device cannot have 1000 bytes"):
        testdev.start("fake:1000")


# --- Strict -----------------------------------------------------------------------------------------------------------


def test_a_driver_that_breaks_a_rule_is_hung_up_on_and_told() -> None:
    with testdev.start("fake:1M", tolerant=True) as device:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(os.fspath(device.path))
            sock.sendall(int(Request.GET_QUEUE_NUM).to_bytes(4, "little") + bytes([1, 0, 0, 0]) + bytes(4))
            sock.settimeout(30)
            assert sock.recv(1) == b""
        assert wait_for(lambda: "RuleBroken" in device.said())
        device.process.terminate()
        assert device.process.wait(30) == 4


def test_whoever_starts_one_hears_of_broken_rules_at_the_end() -> None:
    device = testdev.start("fake:1M")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(device.path))
        sock.sendall(bytes([99, 0, 0, 0, 1, 0, 0, 0]) + bytes(4))
        sock.settimeout(30)
        assert sock.recv(1) == b""
    assert wait_for(lambda: "99" in device.said())
    with pytest.raises(AssertionError, match="99"):
        device.close()
    assert gone(device.pid)
