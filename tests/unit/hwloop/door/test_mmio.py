"""Memory-mapped devices as targets: everything but /dev/mem is the real code."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import hwloop
from hwloop import claim, session
from hwloop.cli.main import run
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.door import mmio as mmio_door
from hwloop.errors import InvalidParam, RefusedError, SetupError, Unsupported, exit_code_of
from hwloop.hal.fake import FakeHal
from hwloop.inventory_mmio import MmioRecord, mmio_devices
from hwloop.lock import DeviceLock
from hwloop.spec import DeviceType
from hwloop.transport.fake_mmio import ADDRESS, FakeMmioDevice
from hwloop.transport.mmio import BadMagic, InvalidDeviceID
from udev import DeviceNotFound
from udev.fake import FakeSysfs

NODE = "LNRO0005:00"


class Machine:
    """A machine with one virtio-mmio slot, which has a disk; the kernel knows it in the way that `node` says."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int = 2) -> None:
        self.disk = FakeBlk(FakeHal(), 1 << 20)
        self.bank = FakeMmioDevice(self.disk, version)
        self.tree = FakeSysfs(tmp_path / "machine")
        self.run_dir = tmp_path / "run"
        self.hals: list[FakeHal] = []
        self.line: Path | None = None
        monkeypatch.setattr(session, "Sysfs", lambda: self.tree.sysfs)
        monkeypatch.setattr(mmio_door, "DevMemHal", self._new_hal)
        monkeypatch.setattr(mmio_door, "Claim", partial(claim.Claim, run_dir=self.run_dir))
        monkeypatch.setattr(mmio_door, "DeviceLock", partial(DeviceLock, run_dir=self.run_dir))

    def _new_hal(self, path: Path, sysfs: Any, line: Path | None) -> FakeHal:
        assert (path, sysfs) == (self.tree.dev / "mem", self.tree.sysfs)
        self.line = line
        hal = FakeHal({ADDRESS: self.bank.region})
        self.disk.hal = hal
        self.hals.append(hal)
        return hal

    def held(self) -> Machine:
        self.tree.add_mmio(NODE, driver="virtio-mmio", address=ADDRESS, block="vda")
        return self

    def free(self) -> Machine:
        self.tree.add_mmio(NODE, address=ADDRESS)
        return self

    def driver(self) -> str | None:
        return self.tree.sysfs.read_link(self.tree.sysfs.device(NODE, "platform") / "driver")

    def given_back(self, driver: str | None) -> bool:
        """Whether everything is as if nobody had been here."""
        override = self.tree.sysfs.read(self.tree.sysfs.device(NODE, "platform") / "driver_override")
        return (self.driver(), override, self.left()) == (driver, "(null)", [])

    def left(self) -> list[object]:
        """Locks, journals and memory that were not given up."""
        leaks = [leak for hal in self.hals for leak in hal.leaks()]
        return [*leaks, *self.run_dir.glob("*")]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


# --- What opens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"mmio:{ADDRESS:#x}", f"mmio:{ADDRESS}", f"mmio:{NODE}", f"mmio:{NODE}?size=0x200"])
def test_a_node_without_a_driver_is_opened_by_any_of_its_names_and_given_back(machine: Machine, name: str) -> None:
    machine.free()
    with hwloop.open(name) as disk:
        assert isinstance(disk, VirtioBlk)
        disk.write(0, b"m" * 512)
        assert (machine.run_dir / f"{NODE}.lock").exists()
    assert machine.disk.data[:512] == b"m" * 512
    assert machine.given_back(None)


@pytest.mark.parametrize("name", [f"mmio:{ADDRESS:#x}?unbind=on", f"mmio:{NODE}?unbind=on", "vda?unbind=on"])
def test_a_node_is_taken_from_its_driver_when_that_is_asked_for_and_given_back(machine: Machine, name: str) -> None:
    machine.held()
    with hwloop.open(name) as disk:
        assert isinstance(disk, VirtioBlk)
        assert machine.driver() is None
        assert disk.size() == 1 << 20
    assert machine.given_back("virtio-mmio")


def test_the_interrupt_comes_through_uio_where_the_kernel_has_a_driver_for_that(machine: Machine) -> None:
    """The fake Hal has no interrupt, and adaptive waiting then polls."""
    machine.tree.add_driver("uio_pdrv_genirq", bus="platform")
    machine.held()
    with hwloop.open(f"mmio:{NODE}?unbind=on&wait=adaptive") as disk:
        assert isinstance(disk, VirtioBlk)
        assert machine.driver() == "uio_pdrv_genirq"
        assert machine.line == machine.tree.dev / "uio0"
        disk.write(0, b"i" * 512)
    assert machine.given_back("virtio-mmio")


@pytest.mark.parametrize("options", ["", "&wait=poll", "&wait=adaptive"])
def test_without_one_nothing_is_bound_and_one_polls(machine: Machine, options: str) -> None:
    machine.held()
    with hwloop.open(f"mmio:{NODE}?unbind=on{options}") as disk:
        assert isinstance(disk, VirtioBlk)
        assert machine.driver() is None
        assert machine.line is None
        disk.write(0, b"i" * 512)
    assert machine.given_back("virtio-mmio")


def test_an_address_that_no_node_has_is_believed_and_locked(machine: Machine) -> None:
    with hwloop.open(f"mmio:{ADDRESS:#x}") as disk:
        assert isinstance(disk, VirtioBlk)
        assert [path.name for path in machine.run_dir.glob("*")] == [f"mmio:{ADDRESS:#x}.lock"]
    assert machine.left() == []
    assert machine.tree.writes == []


def test_a_slot_of_the_command_line_is_opened_though_the_kernel_made_no_device_of_it(machine: Machine) -> None:
    machine.tree.set_cmdline(f"virtio_mmio.device=512@{ADDRESS:#x}:12")
    for name in (f"mmio:{ADDRESS:#x}", "mmio:virtio-mmio.0"):
        with hwloop.open(name) as disk:
            assert isinstance(disk, VirtioBlk)
    assert machine.left() == []


def test_a_node_of_the_device_tree_is_opened(machine: Machine) -> None:
    name = f"{ADDRESS:x}.virtio_mmio"
    machine.tree.add_mmio(name)
    machine.tree.add_device_tree(name, ADDRESS.to_bytes(8, "big") + (0x200).to_bytes(8, "big"))
    with hwloop.open(f"mmio:{name}") as disk:
        assert isinstance(disk, VirtioBlk)


def test_finding_a_device_opens_and_changes_nothing(machine: Machine) -> None:
    place = session.find_in_kernel(f"mmio:{machine.held() and NODE}")
    assert (place.name, place.bus, place.address) == (NODE, "platform", NODE)
    assert (machine.hals, machine.tree.writes) == ([], [])


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"mmio:{ADDRESS:#x}", f"mmio:{NODE}", "vda", "vda?unbind=off"])
def test_a_node_that_a_driver_holds_is_refused_with_what_would_take_it(machine: Machine, name: str) -> None:
    machine.held()
    with pytest.raises(RefusedError, match=f"{NODE} is held by the kernel's driver virtio-mmio.*unbind=on") as caught:
        hwloop.open(name)
    assert exit_code_of(caught.value) == 3
    assert (machine.hals, machine.tree.writes) == ([], [])


def test_the_remedy_of_a_refusal_works_as_it_is_written(machine: Machine) -> None:
    machine.held()
    with pytest.raises(RefusedError) as caught:
        hwloop.open(f"mmio:{ADDRESS:#x}?version=2")
    remedy = caught.value.remedy.removeprefix("take it for the time being: ")
    assert remedy == f"mmio:{ADDRESS:#x}?version=2&unbind=on"
    hwloop.open(remedy).close()


def test_a_disk_in_use_is_refused_all_the_same(machine: Machine) -> None:
    machine.held().tree.add_mount("vda", "/mnt")
    with pytest.raises(RefusedError, match="mount@vda:/mnt"):
        hwloop.open(f"mmio:{NODE}?unbind=on")
    assert machine.given_back("virtio-mmio")
    assert machine.tree.writes == []


@pytest.mark.parametrize("known", [True, False])
def test_registers_that_another_process_has_are_refused(machine: Machine, known: bool) -> None:
    if known:
        machine.free()
    name = NODE if known else f"mmio:{ADDRESS:#x}"
    with (
        DeviceLock(name, machine.run_dir),
        pytest.raises(RefusedError, match=rf"in use by another hwloop, process {os.getpid()}"),
    ):
        hwloop.open(f"mmio:{ADDRESS:#x}")
    assert machine.left() == []


@pytest.mark.parametrize("kind", ["held", "free", "bare"])
@pytest.mark.parametrize(("register", "value", "error"), [("magic", 0, BadMagic), ("device_id", 0, InvalidDeviceID)])
def test_what_is_no_device_is_given_back_as_it_was(
    machine: Machine, kind: str, register: str, value: int, error: type[OSError]
) -> None:
    if kind != "bare":
        getattr(machine, kind)()
    setattr(machine.bank, register, value)
    for _ in range(2):
        with pytest.raises(error, match=f"{ADDRESS:#x}"):
            hwloop.open(f"mmio:{ADDRESS:#x}?unbind=on")
    assert machine.left() == []
    if kind != "bare":
        assert machine.given_back("virtio-mmio" if kind == "held" else None)


@pytest.mark.parametrize("version", [1, 2])
def test_registers_of_another_version_than_asked_for_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    machine = Machine(tmp_path, monkeypatch, version)
    hwloop.open(f"mmio:{ADDRESS:#x}?version={version}").close()
    with pytest.raises(Unsupported, match=f"have version {version}, not {3 - version}"):
        hwloop.open(f"mmio:{ADDRESS:#x}?version={3 - version}")
    assert machine.left() == []


def test_a_node_whose_address_is_hidden_is_a_setup_error(machine: Machine) -> None:
    machine.tree.add_mmio(NODE)
    assert session.find_in_kernel(f"mmio:{NODE}").address == NODE
    with pytest.raises(SetupError, match=f"where the registers of {NODE} are; run as root"):
        hwloop.open(f"mmio:{NODE}")


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        ("mmio:0xfeb02e02", InvalidParam, "cannot be the start of registers"),
        ("mmio:0x10000000000000", InvalidParam, "is no physical address"),
        ("mmio:-1", InvalidParam, "-0x1 is no physical address"),
        ("mmio:0x", InvalidParam, "'0x' is not an address"),
        ("mmio:0xfeb02e00?size=0x80", InvalidParam, "option size cannot be '0x80'; give 0x100 bytes or more"),
        ("mmio:0xfeb02e00?size=-0x200", InvalidParam, "option size cannot be '-0x200'"),
        ("mmio:0xfeb02e00?size=0x10000000000000", InvalidParam, "0x10000000000000 bytes from 0xfeb02e00 on"),
        ("mmio:0xfeb02e00?size=big", InvalidParam, "option size cannot be 'big'"),
        ("mmio:0xfeb02e00?version=3", InvalidParam, "option version cannot be '3'; choose one of: 1, 2"),
        ("mmio:0xfeb02e00?unbind=yes", InvalidParam, "option unbind cannot be 'yes'"),
        ("mmio:0xfeb02e00?hal=uio", InvalidParam, "no option is called 'hal'; there is: size, unbind, version"),
        ("mmio:0xfeb02d00", InvalidParam, "reach into the registers of LNRO0005:00; name the node by its address"),
        ("mmio:0xfeb02f00?size=0x100", InvalidParam, "reach into the registers of LNRO0005:00"),
        ("mmio:LNRO0005:07", DeviceNotFound, "LNRO0005:07"),
        ("mmio:0xnonsense", InvalidParam, "'0xnonsense' is not an address; one looks like 0xfeb02e00"),
        ("mmio:../../etc", DeviceNotFound, "no virtio-mmio node"),
        ("loop0", Unsupported, "loop0 is not on a PCI function, nor on a virtio-mmio node"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_is_said_in_a_sentence(
    machine: Machine, target: str, kind: type[OSError], words: str
) -> None:
    machine.free().tree.add_loop("loop0", "/tmp/file")
    with pytest.raises(kind, match=words):
        hwloop.open(target)
    assert (machine.hals, machine.tree.writes) == ([], [])


@pytest.mark.parametrize("name", ["feb02e00", "FEB02E00"])
def test_an_address_without_its_0x_is_understood_as_a_mistake(
    machine: Machine, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.free()
    assert run(["read", f"mmio:{name}", "0", "1"]) == 6
    assert f"an address begins with 0x: mmio:0x{name}" in capsys.readouterr().err


# --- What is there ----------------------------------------------------------------------------------------------------


def with_modalias(machine: Machine, text: str) -> None:
    folder = machine.tree.sysfs.device(NODE, "platform") / "virtio0"
    (folder / "modalias").write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("text", "device_type"),
    [
        ("virtio:d00000002v554D4551", DeviceType.Block),
        ("virtio:d00000004v554D4551", DeviceType.EntropySource),
        ("virtio:d000000FFv554D4551", None),
        ("acpi:LNRO0005:", None),
        ("", None),
    ],
)
def test_the_kernel_says_what_it_found_behind_a_node_that_it_holds(
    machine: Machine, text: str, device_type: DeviceType | None
) -> None:
    with_modalias(machine.held(), text)
    assert session.find(f"mmio:{NODE}").device_type is device_type


def test_a_device_of_a_type_without_a_driver_of_ours_is_not_taken(machine: Machine) -> None:
    with_modalias(machine.held(), "virtio:d00000010v554D4551")
    with pytest.raises(Unsupported, match="no driver for gpu devices"):
        hwloop.open(f"mmio:{NODE}?unbind=on")
    assert machine.tree.writes == []


def test_a_node_that_is_held_is_listed_with_its_type_and_its_disk(machine: Machine) -> None:
    with_modalias(machine.held(), "virtio:d00000002v554D4551")
    [record] = mmio_devices(machine.tree.sysfs)
    assert record == MmioRecord(
        NODE, ADDRESS, 0x200, None, "virtio-mmio", "block", ("vda",), (), None, ""
    )  # fmt: skip
    assert record.target == f"mmio:{ADDRESS:#x}?unbind=on"
    assert record.as_json() == {
        "name": NODE,
        "address": f"{ADDRESS:#x}",
        "size": 512,
        "irq": None,
        "type": "block",
        "driver": "virtio-mmio",
        "block_devices": ["vda"],
        "in_use_by": [],
        "locked_by": None,
        "can_take": True,
        "why_not": None,
    }
    assert (machine.hals, machine.tree.writes) == ([], [])


def test_a_disk_in_use_is_listed_with_the_reason(machine: Machine) -> None:
    machine.held().tree.add_mount("vda", "/mnt")
    [record] = mmio_devices(machine.tree.sysfs)
    assert (record.can_take, record.why_not) == (False, "in use: mount@vda:/mnt")


def test_a_node_that_nobody_holds_has_no_type_since_no_register_is_read(machine: Machine) -> None:
    [record] = mmio_devices(machine.free().tree.sysfs)
    assert (record.type, record.driver, record.target) == (None, None, f"mmio:{ADDRESS:#x}")
    assert machine.bank.log == []


def test_a_slot_of_the_command_line_and_a_node_without_an_address_are_listed(machine: Machine) -> None:
    machine.tree.set_cmdline(f"virtio_mmio.device=512@{ADDRESS:#x}:12")
    machine.tree.add_mmio("LNRO0005:03")
    first, second = mmio_devices(machine.tree.sysfs)
    assert (first.name, first.irq, first.can_take) == ("virtio-mmio.0", 12, True)
    assert (second.name, second.address, second.target) == ("LNRO0005:03", None, "mmio:LNRO0005:03")
