from __future__ import annotations

import pytest

from udev import DeviceNotFound, MmioNode, Sysfs, UdevError, list_mmio, mmio_node_of_block, read_mmio
from udev.fake import FakeSysfs
from udev.platform import parse_cmdline, parse_iomem, parse_reg


def test_a_node_of_the_device_tree_has_its_address_from_there(fake: FakeSysfs) -> None:
    fake.add_mmio("a003e00.virtio_mmio", driver="virtio-mmio")
    fake.add_device_tree("a003e00.virtio_mmio", bytes.fromhex("000000000a003e00 0000000000000200"))
    assert list_mmio(fake.sysfs) == [MmioNode("a003e00.virtio_mmio", "virtio-mmio", 0x0A003E00, 0x200, None)]


def test_the_name_wins_over_an_address_as_the_parent_bus_sees_it(fake: FakeSysfs) -> None:
    fake.add_mmio("1c130000.virtio_mmio")
    fake.add_device_tree("1c130000.virtio_mmio", bytes.fromhex("00130000 00000200"), 1, 1)
    assert read_mmio(fake.sysfs, "1c130000.virtio_mmio").address == 0x1C130000


def test_a_node_with_neither_tree_nor_resources_has_the_address_of_its_name_and_no_size(fake: FakeSysfs) -> None:
    fake.add_mmio("a003e00.virtio_mmio")
    assert read_mmio(fake.sysfs, "a003e00.virtio_mmio") == MmioNode("a003e00.virtio_mmio", None, 0xA003E00, None, None)


def test_an_acpi_node_has_its_address_from_iomem(fake: FakeSysfs) -> None:
    fake.add_mmio("LNRO0005:00", driver="virtio-mmio", address=0xFEB02E00)
    assert list_mmio(fake.sysfs) == [MmioNode("LNRO0005:00", "virtio-mmio", 0xFEB02E00, 0x200, None)]


def test_an_acpi_node_whose_address_is_hidden_is_listed_without_it(fake: FakeSysfs) -> None:
    fake.add_mmio("LNRO0005:00")
    (fake.proc / "iomem").write_text("00000000-00000000 : LNRO0005:00\n")
    assert list_mmio(fake.sysfs) == [MmioNode("LNRO0005:00", None, None, None, None)]


def test_a_node_of_the_command_line_is_listed_without_a_platform_device(fake: FakeSysfs) -> None:
    fake.set_cmdline("quiet virtio_mmio.device=512@0xfeb00e00:12")
    assert list_mmio(fake.sysfs) == [MmioNode("virtio-mmio.0", None, 0xFEB00E00, 512, 12)]


def test_a_node_of_the_command_line_with_a_platform_device_is_listed_once_with_its_driver(fake: FakeSysfs) -> None:
    fake.set_cmdline("virtio_mmio.device=512@0xfeb00e00:12")
    fake.add_mmio("virtio-mmio.0", driver="virtio-mmio")
    assert list_mmio(fake.sysfs) == [MmioNode("virtio-mmio.0", "virtio-mmio", 0xFEB00E00, 512, 12)]


def test_other_platform_devices_are_no_nodes(fake: FakeSysfs) -> None:
    for name in ("serial8250", "PNP0501:00", "a003e00.virtio_mmio_not"):
        fake.add_mmio(name)
    assert list_mmio(fake.sysfs) == []


def test_nodes_are_listed_by_address_with_unknown_ones_last(fake: FakeSysfs) -> None:
    fake.add_mmio("LNRO0005:07")
    fake.add_mmio("a003e00.virtio_mmio")
    fake.add_mmio("a000000.virtio_mmio")
    names = [node.name for node in list_mmio(fake.sysfs)]
    assert names == ["a000000.virtio_mmio", "a003e00.virtio_mmio", "LNRO0005:07"]


def test_an_absent_node_is_device_not_found(fake: FakeSysfs) -> None:
    with pytest.raises(DeviceNotFound, match="LNRO0005:09"):
        read_mmio(fake.sysfs, "LNRO0005:09")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("virtio_mmio.device=512@0xfeb00e00:12", {"virtio-mmio.0": (0xFEB00E00, 512, 12)}),
        ("virtio-mmio.device=4K@0x1001e000:74", {"virtio-mmio.0": (0x1001E000, 4096, 74)}),
        ("virtio_mmio.device=0x100@0x100b0000:48:7", {"virtio-mmio.7": (0x100B0000, 0x100, 48)}),
        (
            "a virtio_mmio.device=1@0x10:1:3 b virtio_mmio.device=1@0x20:2",
            {"virtio-mmio.3": (0x10, 1, 1), "virtio-mmio.4": (0x20, 1, 2)},
        ),
        ("virtio_mmio.device=512@0xfeb00e00", {}),
        ("virtio_mmio.device=@:", {}),
        ("init=/bin/sh -- virtio_mmio.device=512@0xfeb00e00:12", {}),
        ("", {}),
    ],
)
def test_the_command_line_is_read_as_the_kernel_reads_it(text: str, expected: dict[str, tuple[int, int, int]]) -> None:
    nodes = parse_cmdline(text)
    assert {name: (node.address, node.size, node.irq) for name, node in nodes.items()} == expected


def test_iomem_gives_the_outermost_line_of_a_name() -> None:
    text = "feb02e00-feb02fff : LNRO0005:00\n  feb02e00-feb02eff : LNRO0005:00\nnot a line\n"
    assert parse_iomem(text) == {"LNRO0005:00": (0xFEB02E00, 0x200)}


def test_a_reg_that_is_too_short_is_an_error() -> None:
    assert parse_reg(bytes.fromhex("000000000a000000 00000200")) == (0x0A000000, 0x200)
    with pytest.raises(UdevError, match="8 bytes, and 16 are needed"):
        parse_reg(bytes(8), 2, 2)


def test_the_node_behind_a_disk_or_a_partition_is_found(fake: FakeSysfs) -> None:
    fake.add_mmio("LNRO0005:0e", driver="virtio-mmio", block="vdx", partitions=[512])
    fake.add_pci("0000:00:1e.0", 0x1AF4, 0x1042, driver="virtio-pci", block="vdy")
    assert [mmio_node_of_block(fake.sysfs, name) for name in ("vdx", "vdx1", "vdy")] == ["LNRO0005:0e"] * 2 + [None]
    with pytest.raises(DeviceNotFound, match="vdz"):
        mmio_node_of_block(fake.sysfs, "vdz")


def test_the_real_machine_is_listed_without_error() -> None:
    assert all(node.name for node in list_mmio(Sysfs()))
