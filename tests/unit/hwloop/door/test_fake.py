"""The fake disk as a target."""

from __future__ import annotations

from dataclasses import fields

import pytest

import hwloop
from hwloop import session
from hwloop.cli.main import run
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import BlkFaults
from hwloop.errors import DeviceLost, FeaturesRefused, InvalidParam, IoError, ReadOnlyDisk
from hwloop.hal.fake import FakeHal
from hwloop.transport.fake_device import Faults


def opened(target: str) -> VirtioBlk:
    disk = hwloop.open(target)
    assert isinstance(disk, VirtioBlk)
    return disk


def test_a_fake_disk_is_read_and_written_like_any_other() -> None:
    with opened("fake:16M?serial=MINE") as disk:
        assert (disk.size(), disk.device_id()) == (16 << 20, "MINE")
        disk.write(8, b"x" * 512)
        disk.flush()
        assert disk.read(8, 512) == b"x" * 512


def test_its_shape_can_be_chosen() -> None:
    with opened("fake:1M?block-size=4096&queue-size=8&read-only=on&flush=off") as disk:
        assert (disk.block_size(), disk.virtqueues[0].size, disk.readonly()) == (4096, 8, True)
        with pytest.raises(ReadOnlyDisk):
            disk.write(0, bytes(4096))


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("4096", 4096), ("4k", 4096), ("64k", 65536)])
def test_a_block_size_is_spelled_like_any_size(text: str, size: int) -> None:
    with opened(f"fake:1M?block-size={text}") as disk:
        assert disk.block_size() == size


def test_every_switch_of_the_device_is_an_option() -> None:
    switches = [*fields(Faults), *fields(BlkFaults)]
    assert switches
    for field in switches:
        key, value = field.name.replace("_", "-"), "on" if field.type == "bool" else "3"
        place = session.find(f"fake:1M?{key}={value}")
        device = place.make_device(FakeHal())  # type: ignore[attr-defined]
        found = getattr(device.faults, field.name, None) or getattr(device.blk_faults, field.name, None)
        assert found == (True if value == "on" else 3), key


@pytest.mark.parametrize(
    ("switch", "kind"),
    [("io-error=1", IoError), ("refuse-features=on", FeaturesRefused), ("ignore-driver-ok=on", DeviceLost)],
)
def test_a_switch_has_its_effect(switch: str, kind: type[OSError]) -> None:
    with pytest.raises(kind), opened(f"fake:1M?{switch}") as disk:
        disk.read(0, 512)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("fake:", "nothing behind fake:"),
        ("fake:lots", "lots"),
        ("fake:1000", "cannot have 1000 bytes; give a multiple of its block size 512"),
        ("fake:2G", "up to 1024M"),
        ("fake:1M?colour=red", "no option is called 'colour'; there is: block-size"),
        ("fake:1M?drop=maybe", "option drop cannot be 'maybe'; choose one of: on, off"),
        ("fake:1M?io-error=some", "option io-error cannot be 'some'; give a number"),
        ("fake:1M?queue-size=-1", "option queue-size cannot be -1; give 0 to 65535"),
        ("fake:1M?queue-size=65536", "option queue-size cannot be 65536; give 0 to 65535"),
        ("fake:1M?io-error=-2", "option io-error cannot be -2"),
        ("fake:1M?block-size=100", "option block-size cannot be '100'"),
        ("fake:1M?drop=on&drop=off", "given twice"),
    ],
)
def test_what_cannot_be_is_said(target: str, words: str) -> None:
    with pytest.raises(InvalidParam, match=words):
        session.find(target)


def test_the_command_line_reads_it(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["read", "fake:1M", "512", "4"]) == 0
    assert capfdbinary.readouterr().out == bytes(4)
    assert run(["read", "fake:1M?io-error=1", "512", "4"]) == 4


def test_the_kernel_has_no_part_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["unbind", "fake:1M"]) == 2
    assert "the kernel of this machine has no part in fake:1M" in capsys.readouterr().err
