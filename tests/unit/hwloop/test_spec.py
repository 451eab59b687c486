"""The tables of the specification, and the words for them (seeds 000, 001 and 003)."""

from __future__ import annotations

from enum import IntFlag

import pytest

from hwloop import spec
from hwloop.spec import (
    DEVICE_FEATURES,
    BlkFeature,
    DeviceStatus,
    DeviceType,
    DeviceTypeError,
    Feature,
    InterruptStatus,
    bit_numbers,
    device_type_of_pci_id,
    feature_name,
    feature_names,
    is_transitional_pci_id,
)


def test_the_status_bits_are_those_of_the_specification() -> None:
    assert {bit.name: int(bit) for bit in DeviceStatus} == {
        "ACKNOWLEDGE": 1,
        "DRIVER": 2,
        "DRIVER_OK": 4,
        "FEATURES_OK": 8,
        "SUSPEND": 16,
        "DEVICE_NEEDS_RESET": 64,
        "FAILED": 128,
    }


def test_the_interrupt_bits_are_those_of_the_specification() -> None:
    assert {bit.name: int(bit) for bit in InterruptStatus} == {
        "QUEUE_INTERRUPT": 1,
        "DEVICE_CONFIGURATION_INTERRUPT": 2,
    }


def test_a_status_prints_as_in_the_seeds_own_test() -> None:
    """Seed 001, debug_device_status, verbatim."""
    assert repr(DeviceStatus(0x23)) == "DeviceStatus(ACKNOWLEDGE | DRIVER | 0x20)"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "DeviceStatus(0x0)"),
        (4, "DeviceStatus(DRIVER_OK)"),
        (0x20, "DeviceStatus(0x20)"),
        (0x4F, "DeviceStatus(ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | DEVICE_NEEDS_RESET)"),
        (0x8A0, "DeviceStatus(FAILED | 0x820)"),
    ],
)
def test_known_bits_print_by_name_and_the_others_as_one_number(status: int, text: str) -> None:
    assert repr(DeviceStatus(status)) == text
    assert str(DeviceStatus(status)) == text[len("DeviceStatus(") : -1]


def test_a_status_is_a_number_and_unknown_bits_stay() -> None:
    assert DeviceStatus(0x23) == 0x23
    assert int(DeviceStatus(0x20) | DeviceStatus.DRIVER) == 0x22
    assert not DeviceStatus(0)
    assert hash(DeviceStatus(3)) == hash(DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER)


def test_the_opposite_of_a_flag_has_all_other_bits() -> None:
    """Python's own has those of the class only, and `offered & ~BlkFeature.RO` would drop VERSION_1."""
    assert (1 << 64) - 1 & ~BlkFeature.RO == (1 << 64) - 1 - 32
    assert (Feature.VERSION_1 | BlkFeature.RO) & ~BlkFeature.RO == Feature.VERSION_1
    assert isinstance(DeviceStatus(15) & ~DeviceStatus.DRIVER_OK, DeviceStatus)
    assert ~DeviceStatus.DRIVER_OK & DeviceStatus(15) == 11


def test_no_interrupt_is_false_as_the_bool_of_seed_000() -> None:
    assert not InterruptStatus(0)
    assert InterruptStatus(3)


SEED_TYPES = {
    "Network": 1, "Block": 2, "Console": 3, "EntropySource": 4, "MemoryBallooning": 5, "IoMemory": 6, "Rpmsg": 7,
    "ScsiHost": 8, "_9P": 9, "Mac80211": 10, "RprocSerial": 11, "VirtioCAIF": 12, "MemoryBalloon": 13, "GPU": 16,
    "Timer": 17, "Input": 18, "Socket": 19, "Crypto": 20, "SignalDistributionModule": 21, "Pstore": 22, "IOMMU": 23,
    "Memory": 24, "Sound": 25,
}  # fmt: skip


def test_the_device_types_have_the_seeds_names_and_numbers() -> None:
    assert {kind.name: int(kind) for kind in DeviceType if kind <= 25} == SEED_TYPES


@pytest.mark.parametrize("number", [0, 14, 15, 37, 50, 255, 0xFFFF, 0xFFFF_FFFF, -1])
def test_a_number_that_is_no_device_type_is_an_error_with_the_seeds_text(number: int) -> None:
    with pytest.raises(DeviceTypeError, match=f"^Invalid or unknown virtio device type {number}$"):
        DeviceType.from_id(number)


def test_every_type_is_found_by_its_number() -> None:
    assert all(DeviceType.from_id(int(kind)) is kind for kind in DeviceType)


def test_both_names_for_a_balloon_are_there() -> None:
    """The seeds disagree on what 5 is called; docs/adr/0002."""
    assert DeviceType.from_id(5) is DeviceType.MemoryBallooning
    assert DeviceType.from_id(13) is DeviceType.MemoryBalloon


def test_types_are_ordered_and_their_labels_are_distinct_words() -> None:
    assert DeviceType.Network < DeviceType.Block
    labels = [kind.label for kind in DeviceType]
    assert len(set(labels)) == len(labels)
    assert all(label == label.lower() and " " not in label for label in labels)
    assert DeviceType.Block.label == "block"


@pytest.mark.parametrize(
    ("device_id", "kind"),
    [
        (0x1000, DeviceType.Network),
        (0x1001, DeviceType.Block),
        (0x1002, DeviceType.MemoryBallooning),
        (0x1003, DeviceType.Console),
        (0x1004, DeviceType.ScsiHost),
        (0x1005, DeviceType.EntropySource),
        (0x1009, DeviceType._9P),
        (0x1042, DeviceType.Block),
        (0x1041, DeviceType.Network),
        (0x1071, DeviceType.UsbController),
        (0x1040, None),
        (0x1006, None),
        (0x103F, None),
        (0x107F, None),
        (0x1080, None),
        (0x0FFF, None),
    ],
)
def test_pci_ids_stand_for_types(device_id: int, kind: DeviceType | None) -> None:
    assert device_type_of_pci_id(0x1AF4, device_id) is kind
    assert device_type_of_pci_id(0x8086, device_id) is None


def test_the_constants_of_seed_003() -> None:
    assert spec.VIRTIO_VENDOR_ID == 0x1AF4
    assert spec.VIRTIO_BLK_DEVICE_ID_LEGACY == 0x1001
    assert spec.VIRTIO_BLK_DEVICE_ID_MODERN == 0x1042
    assert spec.PAGE_SIZE == 4096
    assert is_transitional_pci_id(spec.VIRTIO_BLK_DEVICE_ID_LEGACY)
    assert not is_transitional_pci_id(spec.VIRTIO_BLK_DEVICE_ID_MODERN)


def test_the_features_of_any_device_have_the_seeds_bits() -> None:
    bits = {
        "NOTIFY_ON_EMPTY": 24, "ANY_LAYOUT": 27, "RING_INDIRECT_DESC": 28, "RING_EVENT_IDX": 29, "UNUSED": 30,
        "VERSION_1": 32, "ACCESS_PLATFORM": 33, "RING_PACKED": 34, "IN_ORDER": 35, "ORDER_PLATFORM": 36, "SR_IOV": 37,
        "NOTIFICATION_DATA": 38,
    }  # fmt: skip
    assert {name: bit_numbers(Feature[name])[0] for name in bits} == bits


def test_the_block_features_have_the_specifications_bits() -> None:
    bits = {
        "BARRIER": 0, "SIZE_MAX": 1, "SEG_MAX": 2, "GEOMETRY": 4, "RO": 5, "BLK_SIZE": 6, "SCSI": 7, "FLUSH": 9,
        "TOPOLOGY": 10, "CONFIG_WCE": 11, "MQ": 12, "DISCARD": 13, "WRITE_ZEROES": 14, "LIFETIME": 15,
        "SECURE_ERASE": 16, "ZONED": 17,
    }  # fmt: skip
    assert {bit.name: bit_numbers(bit)[0] for bit in BlkFeature} == bits


def _tables() -> list[type[IntFlag]]:
    return [Feature, *(flags for _, flags in DEVICE_FEATURES.values())]


@pytest.mark.parametrize("table", _tables(), ids=lambda table: table.__name__)
def test_each_feature_is_one_bit(table: type[IntFlag]) -> None:
    assert all(int(bit).bit_count() == 1 for bit in table)


@pytest.mark.parametrize("kind", list(DeviceType), ids=lambda kind: kind.name)
def test_every_bit_of_every_device_type_has_a_name(kind: DeviceType) -> None:
    names = feature_names((1 << 128) - 1, kind)
    assert len(names) == 128
    assert len(set(names)) == 128
    assert names[32] == "VIRTIO_F_VERSION_1"
    prefix, flags = DEVICE_FEATURES.get(kind, ("", None))
    for bit in flags or ():
        assert f"{prefix}{bit.name}" in names


def test_a_bit_without_a_name_says_its_number() -> None:
    assert feature_name(31, DeviceType.Block) == "bit 31"
    assert feature_name(5, None) == "bit 5"
    assert feature_name(32, None) == "VIRTIO_F_VERSION_1"


def test_the_features_of_the_measured_device_read_as_expected() -> None:
    """What QEMU's virtio-blk-pci offers behind an IOMMU."""
    assert feature_names(0x10330007E54, DeviceType.Block) == [
        "VIRTIO_BLK_F_SEG_MAX",
        "VIRTIO_BLK_F_GEOMETRY",
        "VIRTIO_BLK_F_BLK_SIZE",
        "VIRTIO_BLK_F_FLUSH",
        "VIRTIO_BLK_F_TOPOLOGY",
        "VIRTIO_BLK_F_CONFIG_WCE",
        "VIRTIO_BLK_F_MQ",
        "VIRTIO_BLK_F_DISCARD",
        "VIRTIO_BLK_F_WRITE_ZEROES",
        "VIRTIO_F_INDIRECT_DESC",
        "VIRTIO_F_EVENT_IDX",
        "VIRTIO_F_VERSION_1",
        "VIRTIO_F_ACCESS_PLATFORM",
        "VIRTIO_F_RING_RESET",
    ]
