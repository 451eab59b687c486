"""`hwloop bind`, `unbind` and `restore`."""

from __future__ import annotations

import os

import pytest

from hwloop.cli.main import run
from hwloop.journal import Entry, Journal
from hwloop.lock import DeviceLock
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

Output = pytest.CaptureFixture[str]


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    return new_machine()


def test_a_bind_lasts_says_how_to_undo_it_and_restore_does(machine: Machine, capfd: Output) -> None:
    assert run(["bind", "vda", "--driver", "vfio-pci"]) == 0
    assert machine.driver() == "vfio-pci"
    assert capfd.readouterr().out == f"{DISK}: vfio-pci; put it back with: hwloop restore {DISK}\n"
    assert run(["restore", DISK]) == 0
    assert capfd.readouterr().out == f"{DISK}: virtio-pci\n"
    assert machine.given_back()


def test_an_unbind_leaves_no_driver(machine: Machine, capfd: Output) -> None:
    assert run(["unbind", DISK]) == 0
    assert machine.driver() is None
    assert "no driver" in capfd.readouterr().out
    assert run(["restore"]) == 0
    assert capfd.readouterr().out == f"{DISK}: virtio-pci\n"
    assert machine.given_back()


def test_a_disk_that_is_bound_to_vfio_is_used_and_stays_bound(machine: Machine, capfd: Output) -> None:
    assert run(["bind", DISK, "--driver", "vfio-pci"]) == 0
    assert run(["flush", DISK]) == 0
    assert machine.driver() == "vfio-pci"
    assert run(["restore"]) == 0
    assert machine.given_back()


@pytest.mark.parametrize("command", [["bind", DISK, "--driver", "vfio-pci"], ["unbind", DISK]])
def test_a_disk_in_use_is_refused(machine: Machine, capfd: Output, command: list[str]) -> None:
    machine.tree.add_mount("vda", "/")
    assert run(command) == 3
    assert "mount@vda:/" in capfd.readouterr().err
    assert machine.tree.writes == []


def test_a_device_of_another_hwloop_is_refused(machine: Machine, capfd: Output) -> None:
    with DeviceLock(DISK, machine.run_dir):
        assert run(["restore", DISK]) == 3
        assert run(["unbind", DISK]) == 3
    assert str(os.getpid()) in capfd.readouterr().err


def test_restore_with_nothing_to_do_says_so_and_is_no_error(machine: Machine, capfd: Output) -> None:
    assert run(["restore"]) == 0
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "nothing to restore" in captured.err


def test_restore_goes_on_after_a_failure_and_reports_it(machine: Machine, capfd: Output) -> None:
    assert run(["unbind", DISK]) == 0
    Journal(machine.run_dir).write(Entry("0000:00:04.0", "virtio-pci", None))
    capfd.readouterr()
    assert run(["restore"]) == 6
    captured = capfd.readouterr()
    assert captured.out == f"{DISK}: virtio-pci\n"
    assert captured.err.count("0000:00:04.0") >= 1
    assert machine.driver() == "virtio-pci"


def test_the_driver_has_to_be_named(machine: Machine, capfd: Output) -> None:
    assert run(["bind", DISK]) == 2
    assert "--driver" in capfd.readouterr().err
    assert machine.tree.writes == []
