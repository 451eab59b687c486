"""Opening a device by name: everything but VFIO is the real code."""

from __future__ import annotations

import atexit
import errno
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import hwloop
from hwloop import session
from hwloop.device.blk import VirtioBlk
from hwloop.errors import (
    DeviceError,
    FeaturesRefused,
    InvalidParam,
    RefusedError,
    SetupError,
    Unsupported,
    exit_code_of,
)
from hwloop.signals import Interrupted, unwind_on_signals
from hwloop.spec import DeviceType
from tests.unit.hwloop.machine import DISK, Machine, NewMachine
from udev import DeviceNotFound


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    return new_machine()


@pytest.mark.parametrize("name", [DISK, "00:05.0", f"pci:{DISK}", "vda", "/dev/vda", f"{DISK}?hal=vfio"])
def test_a_disk_is_opened_by_any_of_its_names_and_given_back(machine: Machine, name: str) -> None:
    with hwloop.open(name) as disk:
        assert isinstance(disk, VirtioBlk)
        disk.write(0, b"x" * 512)
        assert machine.driver() == "vfio-pci"
    assert machine.given_back()
    assert machine.disk.data[:512] == b"x" * 512


def test_a_target_may_be_parsed_already(machine: Machine) -> None:
    with hwloop.open(hwloop.Target.parse("vda")) as disk:
        assert disk.device_name() == "virtio-blk"


def test_finding_a_device_changes_nothing(machine: Machine) -> None:
    found = session.find("vda")
    assert (found.name, found.device_type) == (DISK, DeviceType.Block)
    assert machine.tree.writes == []


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        ("0000:00:1f.0", DeviceNotFound, "0000:00:1f.0"),
        ("vdz", DeviceNotFound, "vdz"),
        (f"{DISK}?hal=magic", InvalidParam, "option hal cannot be 'magic'; choose one of: vfio"),
        (f"{DISK}?speed=1", InvalidParam, "no option is called 'speed'; there is: hal"),
        ("not a device", InvalidParam, "names no device"),
        ("loop0", Unsupported, "loop0 is not on a PCI function"),
        ("0000:00:06.0", Unsupported, "8086:100e. is not a virtio device"),
        ("0000:00:07.0", Unsupported, "1af4:107f. is a virtio device of no known type"),
    ],
)
def test_what_cannot_be_opened_is_said_in_a_sentence(
    machine: Machine, target: str, kind: type[OSError], words: str
) -> None:
    machine.tree.add_pci("0000:00:06.0", 0x8086, 0x100E, driver="e1000")
    machine.tree.add_pci("0000:00:07.0", 0x1AF4, 0x107F)
    machine.tree.add_loop("loop0", "/tmp/file")
    with pytest.raises(kind, match=words):
        hwloop.open(target)
    assert machine.tree.writes == []


def test_a_device_without_a_driver_of_ours_is_not_taken(machine: Machine) -> None:
    machine.tree.add_pci("0000:00:08.0", 0x1AF4, 0x1041, driver="virtio-pci", iommu_group=8)
    with pytest.raises(Unsupported, match="no driver for network devices") as caught:
        hwloop.open("0000:00:08.0")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert machine.tree.writes == []


def test_a_disk_in_use_is_refused(machine: Machine) -> None:
    machine.tree.add_mount("vda", "/")
    with pytest.raises(RefusedError) as caught:
        hwloop.open("vda")
    assert exit_code_of(caught.value) == 3
    assert machine.given_back()


def test_a_second_open_in_the_same_process_is_refused(machine: Machine) -> None:
    with hwloop.open(DISK), pytest.raises(RefusedError, match="another hwloop"):
        hwloop.open(DISK)
    assert machine.given_back()


def test_a_device_that_fails_to_initialise_is_given_back(machine: Machine) -> None:
    machine.disk.faults.refuse_features = True
    with pytest.raises(FeaturesRefused):
        hwloop.open(DISK)
    assert machine.given_back()


def test_a_function_that_is_no_usable_virtio_device_is_given_back(machine: Machine) -> None:
    machine.function.config.poke(0x34, b"\0")
    with pytest.raises(DeviceError, match="COMMON_CFG"):
        hwloop.open(DISK)
    assert machine.given_back()


def test_a_machine_without_vfio_is_left_as_it_was(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise SetupError("no VFIO")

    monkeypatch.setattr("hwloop.hal.vfio.VfioHal", refuse)
    with pytest.raises(SetupError, match="no VFIO"):
        hwloop.open(DISK)
    assert machine.given_back()


def test_a_device_that_is_gone_at_the_end_is_given_back_all_the_same(machine: Machine) -> None:
    with hwloop.open(DISK):
        machine.disk.faults.gone = True
    assert machine.given_back()


def test_the_registers_can_be_had_without_initialising_the_device(machine: Machine) -> None:
    machine.disk.status_writes.clear()
    opened = session.find(DISK).open_transport()
    with opened.resources:
        assert opened.transport.max_queue_size(0) == 64
    assert machine.disk.status_writes == []
    assert machine.given_back()


def test_a_program_that_forgets_to_close_gives_back_at_its_exit(machine: Machine) -> None:
    registered: list[Any] = []
    original = atexit.register
    try:
        atexit.register = registered.append  # type: ignore[assignment]
        disk = hwloop.open(DISK)
    finally:
        atexit.register = original
    assert registered[-1] == disk.close, "it runs before the claim's own, which cannot unbind what we have open"
    registered[-1]()
    assert machine.given_back()


@pytest.fixture
def unwinding() -> Iterator[None]:
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    unwind_on_signals()
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("unwinding")
@pytest.mark.parametrize("moment", ["unbind", "reset", "driver ok"])
def test_a_signal_while_a_device_is_taken_gives_it_back(machine: Machine, moment: str) -> None:
    if moment == "unbind":
        probe = machine.tree._probe
        armed = [True]

        def interrupted_probe(device: Any) -> None:
            if armed:
                armed.pop()
                signal.raise_signal(signal.SIGTERM)
            probe(device)

        machine.tree._probe = interrupted_probe  # type: ignore[method-assign]
    else:
        write = machine.disk.write_status
        at = 0 if moment == "reset" else 15
        fired: list[int] = []

        def interrupted_write(value: int) -> None:
            if value == at and not fired:
                fired.append(value)
                signal.raise_signal(signal.SIGINT)
            write(value)

        machine.disk.write_status = interrupted_write  # type: ignore[method-assign]
        machine.function = type(machine.function)(machine.disk)
    with pytest.raises(Interrupted):
        hwloop.open(DISK)
    assert machine.given_back()
