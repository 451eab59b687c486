"""The door to a vDPA device: by the path of its node, and nothing left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import cast

import pytest

import hwloop
from hwloop import session
from hwloop.device.blk import VirtioBlk
from hwloop.door.vhost_vdpa import VhostVdpaPlace
from hwloop.errors import AlreadyUsed, InvalidParam, SetupError, TransportError, Unsupported
from hwloop.hal import vhost_vdpa_ioctl as vdpa
from hwloop.spec import DeviceType
from hwloop.transport.fake_device import FakeDevice
from tests.unit.hwloop.transport.vdpa_kernel import MODERN_DISK, VdpaKernel, disk_kernel


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VdpaKernel:
    return disk_kernel(tmp_path, monkeypatch)


def test_finding_it_opens_nothing_and_knows_no_type(kernel: VdpaKernel) -> None:
    place = session.find(f"vhost-vdpa:{kernel.path}")
    assert isinstance(place, VhostVdpaPlace)
    assert (place.name, place.device_type) == (f"vhost-vdpa:{kernel.path}", None)
    assert (kernel.calls, kernel.nodes) == ([], set())


@pytest.mark.parametrize("options", ["", "?wait=poll", "?wait=irq"])
def test_a_disk_is_opened_by_the_path_of_its_node(kernel: VdpaKernel, options: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with hwloop.open(f"vhost-vdpa:{kernel.path}{options}") as disk:
        assert isinstance(disk, VirtioBlk)
        disk.write(0, b"d" * 4096)
        assert bytes(disk.read(0, 4096)) == b"d" * 4096
    assert kernel.nodes == set()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_registers_can_be_had_without_initialising_the_device(kernel: VdpaKernel) -> None:
    with session.find(f"vhost-vdpa:{kernel.path}").open_transport() as opened:
        assert opened.transport.device_type() == DeviceType.Block
        assert opened.hal.name == "vhost-vdpa"
        assert kernel.device.status_writes == []
    assert kernel.nodes == set()


def test_a_node_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot open .*/vhost-vdpa-3: No such file.*modprobe vhost_vdpa"):
        hwloop.open(f"vhost-vdpa:{tmp_path}/vhost-vdpa-3")


def test_a_file_that_is_no_node_is_explained(tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()
    with pytest.raises(SetupError, match=r"disk\.img is no vhost-vdpa node, or its kernel is too old"):
        hwloop.open(f"vhost-vdpa:{tmp_path}/disk.img")


def test_a_second_open_is_refused(kernel: VdpaKernel) -> None:
    with hwloop.open(f"vhost-vdpa:{kernel.path}"), pytest.raises(AlreadyUsed, match="in use by another process"):
        hwloop.open(f"vhost-vdpa:{kernel.path}")


@pytest.mark.parametrize("request_number", [vdpa.GET_DEVICE_ID, vdpa.SET_VRING_ADDR, vdpa.SET_FEATURES])
def test_a_device_that_fails_on_the_way_in_is_closed(kernel: VdpaKernel, request_number: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    kernel.fail[request_number] = errno.EINVAL
    with pytest.raises(TransportError, match="Invalid argument"):
        hwloop.open(f"vhost-vdpa:{kernel.path}")
    assert (kernel.nodes, kernel.mapped) == (set(), {})
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_device_without_a_driver_of_ours_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = VdpaKernel(tmp_path, monkeypatch, lambda hal: FakeDevice(hal, DeviceType.Network, MODERN_DISK, [8], b""))
    with pytest.raises(Unsupported, match="no driver for network devices"):
        hwloop.open(f"vhost-vdpa:{kernel.path}")
    assert kernel.nodes == set()


def test_an_option_that_is_unknown_is_explained(kernel: VdpaKernel) -> None:
    with pytest.raises(InvalidParam, match="no option is called 'hal'; there is: wait"):
        session.find(f"vhost-vdpa:{kernel.path}?hal=vfio")


def test_a_device_that_stops_answering_is_given_up_and_closed(kernel: VdpaKernel) -> None:
    disk = cast(VirtioBlk, hwloop.open(f"vhost-vdpa:{kernel.path}"))
    kernel.fail[vdpa.SET_STATUS] = kernel.fail[vdpa.GET_STATUS] = errno.EIO
    kernel.device.reset_itself()
    disk.close()
    assert (kernel.nodes, kernel.mapped) == (set(), {})
