"""The contract suite for block devices, over vhost-vdpa: Debian's 6.12 kernel, VDUSE, and qemu-storage-daemon."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

import hwloop
from hwloop.errors import AlreadyUsed
from tests.contract.door import Door, Wants
from tests.contract.test_block import *  # noqa: F403
from tests.guest import machine
from tests.guest.vdpa_door import VdpaDoor, VduseDisk

MIB = 1 << 20


@pytest.fixture
def door() -> Iterator[Door]:
    door = VdpaDoor()
    yield door
    door.close()


def test_the_node_is_one_processs_at_a_time_and_free_afterwards() -> None:
    own = VduseDisk(MIB, Wants())
    target = f"vhost-vdpa:{own.node}"
    with hwloop.open(target), pytest.raises(AlreadyUsed) as caught:
        hwloop.open(target)
    assert caught.value.errno == errno.EBUSY
    hwloop.open(target).close()
    own.close()


def test_the_command_drives_it_and_waits_for_its_calls() -> None:
    own = VduseDisk(MIB, Wants())
    target = f"vhost-vdpa:{own.node}?wait=irq"
    data = bytes(range(256)) * 16
    written = machine.hwloop("write", target, "4096", stdin=data)
    assert written.returncode == 0, written.stderr
    read = machine.hwloop("read", target, "4096", str(len(data)))
    assert (read.returncode, read.stdout) == (0, data)
    assert own.image.read_bytes()[4096 : 4096 + len(data)] == data
    own.close()
