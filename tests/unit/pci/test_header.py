from __future__ import annotations

import errno
import pickle

import pytest

from pci import BytesConfigAccess, Command, ConfigAccessError, ConfigSpace, HeaderType, Status, new_function


def test_command_has_the_bits_of_the_specification() -> None:
    assert {bit.name: bit.value for bit in Command} == {
        "IO_SPACE": 0x001,
        "MEMORY_SPACE": 0x002,
        "BUS_MASTER": 0x004,
        "SPECIAL_CYCLES": 0x008,
        "MEMORY_WRITE_AND_INVALIDATE_ENABLE": 0x010,
        "VGA_PALETTE_SNOOP": 0x020,
        "PARITY_ERROR_RESPONSE": 0x040,
        "SERR_ENABLE": 0x100,
        "FAST_BACK_TO_BACK_ENABLE": 0x200,
        "INTERRUPT_DISABLE": 0x400,
    }


def test_status_has_the_bits_of_the_specification() -> None:
    assert {bit.name: bit.value for bit in Status} == {
        "IMMEDIATE_READINESS": 0x0001,
        "INTERRUPT_STATUS": 0x0008,
        "CAPABILITIES_LIST": 0x0010,
        "MHZ_66_CAPABLE": 0x0020,
        "FAST_BACK_TO_BACK_CAPABLE": 0x0080,
        "MASTER_DATA_PARITY_ERROR": 0x0100,
        "SIGNALED_TARGET_ABORT": 0x0800,
        "RECEIVED_TARGET_ABORT": 0x1000,
        "RECEIVED_MASTER_ABORT": 0x2000,
        "SIGNALED_SYSTEM_ERROR": 0x4000,
        "DETECTED_PARITY_ERROR": 0x8000,
    }


def test_reserved_bits_of_the_command_register_are_kept() -> None:
    assert Command(0x8406).without(Command.BUS_MASTER) == 0x8402


def test_the_three_header_types_have_their_names() -> None:
    assert [HeaderType(value).name for value in (0, 1, 2)] == ["Standard", "PciPciBridge", "PciCardbusBridge"]
    assert HeaderType(1) is HeaderType.PciPciBridge
    assert HeaderType(1).recognised


@pytest.mark.parametrize("value", [3, 0x55, 0x7F])
def test_an_unrecognised_header_type_keeps_its_value(value: int) -> None:
    kind = HeaderType(value)

    assert (kind.name, kind.value, int(kind)) == ("Unrecognised", value, value)
    assert not kind.recognised
    assert kind == HeaderType(value)
    assert kind not in (HeaderType(0), HeaderType(4))
    assert pickle.loads(pickle.dumps(kind)) == kind


@pytest.mark.parametrize("value", [-1, 0x80, "1"])
def test_a_header_type_is_seven_bits(value: object) -> None:
    with pytest.raises(ValueError, match="not a valid HeaderType"):
        HeaderType(value)  # type: ignore[arg-type]


def test_the_info_of_a_standard_function_has_every_field() -> None:
    fake = new_function(0x1234, 0x5678)
    fake.poke(0x08, bytes([0x03, 0x02, 0x80, 0x01]))
    fake.poke(0x0E, b"\x80")
    fake.poke(0x2C, bytes.fromhex("bc9a f0de"))

    info = ConfigSpace(fake).read_info()

    assert (info.vendor_id, info.device_id) == (0x1234, 0x5678)
    assert (info.class_code, info.subclass, info.prog_if, info.revision) == (0x01, 0x80, 0x02, 0x03)
    assert (info.subsystem_vendor_id, info.subsystem_id) == (0x9ABC, 0xDEF0)
    assert (info.header_type, info.multifunction) == (HeaderType.Standard, True)


def test_the_info_reads_as_a_person_would_write_it() -> None:
    fake = new_function(0x1AF4, 0x1042)
    fake.poke(0x08, bytes([0x01, 0x00, 0x80, 0x01]))

    assert str(ConfigSpace(fake).read_info()) == "1af4:1042 (class 01.80.00, revision 0x01)"


@pytest.mark.parametrize("kind", [1, 2, 3, 0x7F])
def test_only_a_standard_header_has_subsystem_ids_at_that_place(kind: int) -> None:
    fake = new_function(0x1234, 0x5678)
    fake.poke(0x0E, bytes([kind]))
    fake.poke(0x2C, b"\x11\x22\x33\x44")

    info = ConfigSpace(fake).read_info()

    assert (info.subsystem_vendor_id, info.subsystem_id, info.multifunction) == (0, 0, False)
    assert info.header_type == HeaderType(kind)


def test_all_ones_means_that_no_function_answers() -> None:
    config = ConfigSpace(BytesConfigAccess(b"\xff" * 256, {}, name="0000:00:09.0"))

    with pytest.raises(ConfigAccessError, match=r"0000:00:09\.0: no function answers") as caught:
        config.read_info()
    assert caught.value.errno == errno.ENODEV
