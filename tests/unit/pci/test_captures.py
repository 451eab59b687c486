"""What real device models show: bytes captured from QEMU, with sizes measured by writing ones to its BARs."""

from __future__ import annotations

from collections.abc import Callable

from pci import (
    BytesConfigAccess,
    CapabilityInfo,
    ConfigSpace,
    DeviceFunctionInfo,
    ExtendedCapabilityInfo,
    HeaderType,
    IoBar,
    MemoryBar,
    MemoryBarType,
    MsixInfo,
    Status,
)

Capture = Callable[[str, int], bytes]


def test_a_modern_disk_says_who_it_is(blk: ConfigSpace) -> None:
    assert blk.read_info() == DeviceFunctionInfo(
        vendor_id=0x1AF4,
        device_id=0x1042,
        class_code=0x01,
        subclass=0x00,
        prog_if=0x00,
        revision=0x01,
        header_type=HeaderType.Standard,
        subsystem_vendor_id=0x1AF4,
        subsystem_id=0x1100,
        multifunction=False,
    )
    assert blk.read_status() == Status.CAPABILITIES_LIST


def test_the_capabilities_of_a_modern_disk(blk: ConfigSpace) -> None:
    assert list(blk.capabilities()) == [
        CapabilityInfo(0x98, 0x11, 0x0004),
        CapabilityInfo(0x84, 0x09, 0x0514),
        CapabilityInfo(0x70, 0x09, 0x0214),
        CapabilityInfo(0x60, 0x09, 0x0410),
        CapabilityInfo(0x50, 0x09, 0x0310),
        CapabilityInfo(0x40, 0x09, 0x0110),
    ]
    assert list(blk.extended_capabilities()) == []


def test_the_vectors_of_a_modern_disk(blk: ConfigSpace) -> None:
    assert blk.read_msix() == MsixInfo(0x98, 5, 1, 0, 1, 0x800, enabled=False, masked=False)


def test_the_bars_of_a_modern_disk_with_the_masks_that_qemu_has(capture: Capture) -> None:
    fake = _with_masks(capture("virtio-blk-modern", 0x100), {1: 0xFFFF_F000, 4: 0xFFFF_C000, 5: 0xFFFF_FFFF})

    assert ConfigSpace(fake).read_bars() == {
        1: MemoryBar(1, MemoryBarType.Width32, False, 0, 0x1000),
        4: MemoryBar(4, MemoryBarType.Width64, True, 0, 0x4000),
    }


def test_the_bars_of_a_transitional_disk_with_the_masks_that_qemu_has(capture: Capture) -> None:
    masks = {0: 0xFFFF_FF80, 1: 0xFFFF_F000, 4: 0xFFFF_C000, 5: 0xFFFF_FFFF}
    fake = _with_masks(capture("virtio-blk-transitional", 0x100), masks)
    config = ConfigSpace(fake)

    assert config.read_bars() == {
        0: IoBar(0, 0, 128),
        1: MemoryBar(1, MemoryBarType.Width32, False, 0, 0x1000),
        4: MemoryBar(4, MemoryBarType.Width64, True, 0, 0x4000),
    }
    assert (config.read_info().device_id, config.read_info().revision) == (0x1001, 0)


def test_a_root_port_is_a_bridge_with_extended_capabilities(capture: Capture) -> None:
    config = ConfigSpace(BytesConfigAccess(capture("pcie-root-port", 0x1000)))

    assert config.read_info().header_type is HeaderType.PciPciBridge
    assert (config.read_info().class_code, config.read_info().subclass) == (0x06, 0x04)
    assert [found.name for found in config.capabilities()] == ["PCI Express", "MSI-X", "Bridge Subsystem Vendor ID"]
    assert list(config.extended_capabilities()) == [
        ExtendedCapabilityInfo(0x100, 0x0001, 2),
        ExtendedCapabilityInfo(0x148, 0x000D, 1),
    ]
    assert config.read_bars() == {}


def test_a_function_behind_a_port_has_its_capabilities_in_another_order(capture: Capture) -> None:
    config = ConfigSpace(BytesConfigAccess(capture("virtio-rng-behind-port", 0x1000)))

    assert [found.offset for found in config.capabilities()] == [0xDC, 0xC8, 0xB4, 0xA4, 0x94, 0x84, 0x7C, 0x40]
    assert [found.id for found in config.capabilities()] == [0x11, 9, 9, 9, 9, 9, 0x01, 0x10]
    assert config.find_extended_capability(0x0F) == ExtendedCapabilityInfo(0x100, 0x0F, 1)


def test_the_bytes_come_out_as_they_went_in(capture: Capture) -> None:
    data = capture("pcie-root-port", 0x1000)

    assert ConfigSpace(BytesConfigAccess(data)).read_raw() == data


def _with_masks(data: bytes, masks: dict[int, int]) -> BytesConfigAccess:
    """`masks`: BAR index to the bits that a write of ones set."""
    fake = BytesConfigAccess(data)
    for index, mask in masks.items():
        fake.write_masks[0x10 + 4 * index : 0x14 + 4 * index] = mask.to_bytes(4, "little")
    return fake
