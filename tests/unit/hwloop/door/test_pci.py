"""How a PCI function is reached: what is chosen, why, and what is refused before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

import hwloop
from hwloop import session
from hwloop.door.pci import Choice, PciPlace
from hwloop.errors import InvalidParam, SetupError, Unsupported
from hwloop.hal import iommufd, uio, vfio, vfio_noiommu
from hwloop.inventory import virtio_functions
from hwloop.spec import BlkFeature, Feature
from hwloop.transport.pci_capability import CfgType
from pci import BarInfo
from tests.unit.hwloop.machine import DISK, Machine, NewMachine, VfioOnPaper
from udev import Sysfs, bind_device, read_pci
from udev.fake import FakeSysfs

IO, MEMORY = "0xc000 0xc07f 0x40101\n", "0xfe000000 0xfe003fff 0x14220c\n"
NONE = "0x0 0x0 0x0\n"
CAPTURES = Path(__file__).parents[2] / "pci/captures"
LEGACY_BARS = IO + NONE * 6


def capture(name: str) -> bytes:
    """The configuration space of one of QEMU's functions: rows of an offset and 16 bytes."""
    config = bytearray(256)
    for line in (CAPTURES / name).read_text().splitlines():
        offset, colon, row = line.partition(": ")
        if colon and not line.startswith("#"):
            config[int(offset, 16) : int(offset, 16) + 16] = bytes.fromhex(row)
    return bytes(config)


@pytest.fixture
def tree(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path / "machine")


def place(tree: FakeSysfs, options: str = "") -> PciPlace:
    found = session.find(f"{DISK}{options}", tree.sysfs)
    assert isinstance(found, PciPlace)
    return found


def modern_disk(tree: FakeSysfs, **more: Any) -> None:
    tree.add_pci(DISK, 0x1AF4, 0x1042, driver="virtio-pci", block="vda", **more)


def transitional_disk(tree: FakeSysfs, **more: Any) -> None:
    config = capture("virtio-blk-transitional.txt")
    bars = IO + NONE * 3 + MEMORY + NONE * 2
    tree.add_pci(DISK, 0x1AF4, 0x1001, driver="virtio-pci", block="vda", config=config, resource=bars, **more)


def legacy_disk(tree: FakeSysfs, **more: Any) -> None:
    more = {"resource": LEGACY_BARS, **more}
    tree.add_pci(DISK, 0x1AF4, 0x1001, driver="virtio-pci", block="vda", **more)


def set_group_type(tree: FakeSysfs, group: int, kind: str) -> None:
    (tree.root / "kernel/iommu_groups" / str(group) / "type").write_text(f"{kind}\n")


# --- The Hal ----------------------------------------------------------------------------------------------------------


def test_vfio_is_chosen_where_a_group_confines_the_function(tree: FakeSysfs) -> None:
    modern_disk(tree, iommu_group=7)
    assert place(tree).choice == Choice("vfio", "modern", "IOMMU group 7 confines it")


def test_uio_is_chosen_where_there_is_no_group(tree: FakeSysfs) -> None:
    modern_disk(tree)
    assert place(tree).choice == Choice("uio", "modern", f"{DISK} has no IOMMU group")


@pytest.mark.parametrize(("kind", "hal"), [("identity", "uio"), ("DMA", "vfio"), ("DMA-FQ", "vfio")])
def test_a_group_that_vfio_cannot_have_is_left_for_uio_only_where_nothing_translates(
    tree: FakeSysfs, kind: str, hal: str
) -> None:
    modern_disk(tree, iommu_group=7)
    tree.add_pci("0000:00:05.1", 0x8086, 0x100E, driver="e1000", iommu_group=7)
    set_group_type(tree, 7, kind)
    choice = place(tree).choice
    assert choice.hal == hal
    assert choice.why == f"IOMMU group 7 of {DISK} also holds 0000:00:05.1 (e1000)"
    (record,) = virtio_functions(tree.sysfs)
    assert record.can_take == (hal == "uio")


def test_iommufd_is_chosen_where_the_kernel_has_it(tree: FakeSysfs) -> None:
    tree.add_iommufd()
    modern_disk(tree, iommu_group=7)
    why = "IOMMU group 7 confines it, and the kernel has iommufd"
    assert place(tree).choice == Choice("iommufd", "modern", why)
    assert tree.writes == []


def test_a_function_without_a_group_goes_past_iommufd(tree: FakeSysfs) -> None:
    tree.add_iommufd()
    modern_disk(tree)
    assert place(tree).choice.hal == "uio"


def test_a_function_that_vfio_holds_without_an_iommu_is_no_confined_one(tree: FakeSysfs) -> None:
    tree.set_noiommu_mode("Y")
    tree.add_driver("vfio-pci")
    modern_disk(tree)
    bind_device(tree.sysfs, DISK, "vfio-pci")
    assert place(tree).choice == Choice("uio", "modern", f"{DISK} has no IOMMU group")
    with pytest.raises(SetupError, match="has no IOMMU group; turn the IOMMU on"):
        place(tree, "?hal=vfio").open_transport()


def test_vfio_without_an_iommu_is_taken_on_demand_only_and_says_what_that_means(tree: FakeSysfs) -> None:
    tree.set_noiommu_mode("Y")
    modern_disk(tree)
    assert place(tree).choice.hal == "uio"
    choice = place(tree, "?hal=vfio-noiommu").choice
    assert choice == Choice("vfio-noiommu", "modern", "hal=vfio-noiommu was asked for, and nothing confines it")


@pytest.mark.parametrize(
    ("mode", "group", "words"),
    [
        (None, None, r"no mode for .* without an IOMMU \(CONFIG_VFIO_NOIOMMU\); use hal=uio"),
        ("N", None, "its unsafe mode is off; use hal=uio, or: echo 1 > .*enable_unsafe_noiommu_mode"),
        ("Y", 7, "is in IOMMU group 7, so VFIO does not hand it out without one; use hal=vfio"),
    ],
)
def test_vfio_without_an_iommu_is_refused_before_anything_is_touched(
    tree: FakeSysfs, mode: str | None, group: int | None, words: str
) -> None:
    if mode is not None:
        tree.set_noiommu_mode(mode)
    tree.add_driver("vfio-pci")
    modern_disk(tree, iommu_group=group)
    with pytest.raises(SetupError, match=words):
        place(tree, "?hal=vfio-noiommu").open_transport()
    assert tree.writes == []


@pytest.mark.parametrize("hal", ["vfio", "uio"])
def test_what_the_user_asks_for_is_taken(tree: FakeSysfs, hal: str) -> None:
    modern_disk(tree, iommu_group=7)
    assert place(tree, f"?hal={hal}").choice == Choice(hal, "modern", f"hal={hal} was asked for")


def test_a_function_without_a_group_can_be_taken(tree: FakeSysfs) -> None:
    modern_disk(tree)
    (record,) = virtio_functions(tree.sysfs)
    assert (record.can_take, record.why_not) == (True, "")


def test_a_function_without_a_group_is_refused_where_vfio_is_asked_for(tree: FakeSysfs) -> None:
    modern_disk(tree)
    with pytest.raises(SetupError, match="has no IOMMU group; turn the IOMMU on"):
        place(tree, "?hal=vfio").open_transport()
    assert tree.writes == []


# --- The interface ----------------------------------------------------------------------------------------------------


def test_a_transitional_function_is_reached_by_its_modern_interface(tree: FakeSysfs) -> None:
    transitional_disk(tree)
    assert place(tree).choice.mode == "modern"
    assert place(tree, "?mode=modern").choice.mode == "modern"


def test_a_transitional_function_is_reached_by_its_legacy_interface_on_demand(tree: FakeSysfs) -> None:
    transitional_disk(tree)
    choice = place(tree, "?mode=legacy").choice
    assert choice == Choice("uio", "legacy", f"{DISK} has no IOMMU group; mode=legacy was asked for")


def test_the_capability_that_makes_an_interface_modern_is_the_common_configuration(tree: FakeSysfs) -> None:
    config = bytearray(capture("virtio-blk-transitional.txt"))
    for offset in range(0x40, 0x100, 4):
        if config[offset] == 0x09 and config[offset + 3] == CfgType.COMMON_CFG:
            config[offset + 3] = CfgType.VENDOR_CFG
    tree.add_pci(DISK, 0x1AF4, 0x1001, config=bytes(config), resource=LEGACY_BARS)
    assert place(tree).choice.mode == "legacy"


def test_a_function_without_capabilities_is_a_legacy_one(tree: FakeSysfs) -> None:
    legacy_disk(tree)
    assert place(tree).choice.mode == "legacy"
    assert "no virtio capabilities" in place(tree).choice.why
    with pytest.raises(Unsupported, match="it is a legacy device; leave mode=modern out"):
        place(tree, "?mode=modern").choice  # noqa: B018


def test_a_modern_function_has_no_legacy_mode(tree: FakeSysfs) -> None:
    modern_disk(tree)
    with pytest.raises(Unsupported, match=r"\(1af4:1042\) has no legacy interface.*leave mode=legacy out"):
        place(tree, "?mode=legacy").open_transport()
    assert tree.writes == []


def test_a_legacy_interface_needs_its_ports(tree: FakeSysfs) -> None:
    legacy_disk(tree, resource=NONE * 7)
    with pytest.raises(Unsupported, match="BAR 0 is no I/O BAR"):
        place(tree).open_transport()
    assert tree.writes == []


def test_a_configuration_space_that_cannot_be_read_is_left_to_the_modern_transport(tree: FakeSysfs) -> None:
    legacy_disk(tree, config=b"\0" * 64)
    (tree.sysfs.pci_device(DISK) / "config").unlink()
    assert place(tree).choice.mode == "modern"


def test_choosing_changes_nothing(tree: FakeSysfs) -> None:
    transitional_disk(tree, iommu_group=7)
    assert place(tree).choice.hal == "vfio"
    assert tree.writes == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("?hal=magic", "option hal cannot be 'magic'; choose one of: vfio, uio, iommufd, vfio-noiommu"),
        ("?mode=old", "option mode cannot be 'old'; choose one of: modern, legacy"),
        ("?wait=long", "option wait cannot be 'long'; choose one of: poll, irq"),
        ("?speed=1", "no option is called 'speed'; there is: hal, mode, wait"),
    ],
)
def test_an_option_that_is_unknown_is_explained(tree: FakeSysfs, options: str, words: str) -> None:
    modern_disk(tree)
    with pytest.raises(InvalidParam, match=words):
        place(tree, options)


# --- Addresses and interrupts, with registers behind the function -----------------------------------------------------


class OnPaper(VfioOnPaper):
    """A Hal that notes when it was told to use physical addresses."""

    physical = False
    memory_keeper: object = None

    def descriptors(self) -> list[int]:
        return []

    def use_physical_addresses(self) -> None:
        self.physical = True


def on_paper(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list[OnPaper]:
    """Put Hals on paper where the door makes real ones; they are in the list, the newest last."""
    made: list[OnPaper] = []

    def new(*arguments: Any) -> OnPaper:
        hal = OnPaper(machine.function)
        machine.disk.hal = hal
        made.append(hal)
        machine.hals.append(hal)
        return hal

    machine.tree.add_driver("uio_pci_generic")
    for module, name in (
        (vfio, "VfioHal"),
        (uio, "UioHal"),
        (iommufd, "IommufdHal"),
        (vfio_noiommu, "VfioNoIommuHal"),
    ):
        monkeypatch.setattr(module, name, new)
    return made


def test_a_device_that_goes_past_the_iommu_gets_physical_addresses(
    new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine(features=Feature.VERSION_1 | BlkFeature.FLUSH)
    hals = on_paper(machine, monkeypatch)
    with hwloop.open(f"{DISK}?hal=vfio"):
        assert hals[-1].physical
    assert machine.given_back()


def test_a_device_behind_the_iommu_gets_the_iommus_addresses(
    new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine()
    hals = on_paper(machine, monkeypatch)
    with hwloop.open(f"{DISK}?hal=vfio"):
        assert not hals[-1].physical
    assert machine.given_back()


def test_a_device_behind_an_iommu_that_translates_is_refused_for_uio_and_given_back(
    new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine()
    on_paper(machine, monkeypatch)
    with pytest.raises(SetupError, match="through IOMMU group 7, and UIO can map nothing there; use hal=vfio"):
        hwloop.open(f"{DISK}?hal=uio")
    assert machine.given_back()


def test_a_device_behind_an_iommu_that_lets_addresses_through_works_over_uio(
    new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine()
    set_group_type(machine.tree, 7, "identity")
    on_paper(machine, monkeypatch)
    with hwloop.open(f"{DISK}?hal=uio") as disk:
        assert machine.driver() == "uio_pci_generic"
        cast(Any, disk).write(0, b"u" * 512)
    assert machine.given_back()
    assert machine.disk.data[:512] == b"u" * 512


def test_a_hal_without_interrupts_is_refused_where_they_are_asked_for_and_the_device_given_back(
    new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine()
    on_paper(machine, monkeypatch)
    with pytest.raises(Unsupported, match="HAL brings no interrupt of this device; poll: leave wait=irq out"):
        hwloop.open(f"{DISK}?wait=irq")
    assert machine.given_back()


def test_the_hal_gets_the_bars_of_the_function_and_the_tree_it_was_found_in(
    new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine(features=Feature.VERSION_1)
    on_paper(machine, monkeypatch)
    inner = uio.UioHal

    def new(address: str, bars: Mapping[int, BarInfo], sysfs: Sysfs) -> Any:
        assert (address, bars, sysfs) == (DISK, machine.function.bars, machine.tree.sysfs)
        return inner(address, bars, sysfs)

    monkeypatch.setattr(uio, "UioHal", new)
    way = session.find(f"{DISK}?hal=uio").open_transport()
    with way:
        assert way.why == "hal=uio was asked for"
    assert machine.given_back()


# --- iommufd, and VFIO without an IOMMU -------------------------------------------------------------------------------


def test_a_function_is_opened_by_its_own_node_where_the_kernel_has_iommufd(
    new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine(features=Feature.VERSION_1)
    machine.tree.add_iommufd()
    hals = on_paper(machine, monkeypatch)
    inner = iommufd.IommufdHal

    def new(address: str, node: Path, bars: Mapping[int, BarInfo], dev: str) -> Any:
        assert (address, node) == (DISK, machine.tree.dev / "vfio/devices/vfio0")
        assert (bars, dev) == (machine.function.bars, str(machine.tree.dev))
        return inner(address, node, bars, dev)

    monkeypatch.setattr(iommufd, "IommufdHal", new)
    with session.find(DISK).open_transport() as way:
        assert way.why == "IOMMU group 7 confines it, and the kernel has iommufd"
        assert machine.driver() == "vfio-pci"
        assert hals[-1].physical, "it may go past the IOMMU, whichever way that is reached"
    assert machine.given_back()


def test_an_iommufd_that_gets_no_functions_is_left_for_groups(
    new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine()
    machine.tree.add_iommufd()
    machine.tree.vfio_nodes = False
    on_paper(machine, monkeypatch)
    monkeypatch.setattr(iommufd, "IommufdHal", None)
    with session.find(DISK).open_transport() as way:
        assert way.why.endswith(f"; the kernel gives {DISK} no device node of its own, which iommufd needs")
    with pytest.raises(SetupError, match="no device node of its own, which iommufd needs; use hal=vfio"):
        session.find(f"{DISK}?hal=iommufd").open_transport()
    assert machine.given_back()


def test_a_function_without_an_iommu_is_opened_by_the_group_that_vfio_made_up(
    new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine(features=Feature.VERSION_1, iommu_group=None)
    machine.tree.set_noiommu_mode("Y")
    on_paper(machine, monkeypatch)
    inner = vfio_noiommu.VfioNoIommuHal

    def new(address: str, group: int, bars: Mapping[int, BarInfo], dev: str) -> Any:
        assert group == read_pci(machine.tree.sysfs, DISK).iommu_group
        assert (machine.tree.dev / f"vfio/noiommu-{group}").exists()
        return inner(address, group, bars, dev)

    monkeypatch.setattr(vfio_noiommu, "VfioNoIommuHal", new)
    with hwloop.open(f"{DISK}?hal=vfio-noiommu") as disk:
        cast(Any, disk).write(0, b"n" * 512)
        assert machine.driver() == "vfio-pci"
    assert machine.given_back()
    assert machine.disk.data[:512] == b"n" * 512
