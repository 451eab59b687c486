"""Capabilities as hostile devices write them (faults, rows 29 to 33)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwloop.errors import TransportError
from hwloop.transport.fake_pci import capability_body, with_multiplier
from hwloop.transport.pci_capability import (
    STRUCTURES,
    CfgType,
    VirtioCapability,
    choose,
    fault_of,
    require,
    virtio_capabilities,
)
from hwloop.transport.pci_modern import PciStructures
from pci import (
    BarInfo,
    BytesConfigAccess,
    CapabilityError,
    ConfigSpace,
    IoBar,
    MemoryBar,
    MemoryBarType,
    PciError,
    new_function,
)

VENDOR, MSIX = 0x09, 0x11
BARS: dict[int, BarInfo] = {
    0: IoBar(0, 0xC000, 0x80),
    2: MemoryBar(2, MemoryBarType.Width32, False, 0, 0x1000),
    3: MemoryBar(3, MemoryBarType.Width32, False, 0xFE00_0000, 0x20),
    4: MemoryBar(4, MemoryBarType.Width64, True, 0x38_0000_0000, 0x4000),
}


def function_with(*bodies: bytes) -> BytesConfigAccess:
    """A virtio function with these capabilities, one after the other from 0x40 on."""
    fake = new_function(0x1AF4, 0x1042)
    place = 0x40
    for body in bodies:
        fake.declare_capability(place, VENDOR, body)
        place += (2 + len(body) + 3) & ~3
    return fake


def found(fake: BytesConfigAccess) -> list[VirtioCapability]:
    return list(virtio_capabilities(ConfigSpace(fake)))


def common(bar: int = 4, offset: int = 0, length: int = 56, cap_len: int = 16, cfg_type: int = 1) -> bytes:
    return capability_body(cfg_type, bar, offset, length, cap_len=cap_len)


def notify(multiplier: int = 4, bar: int = 4, offset: int = 0x3000, length: int = 0x1000) -> bytes:
    return with_multiplier(capability_body(CfgType.NOTIFY_CFG, bar, offset, length), multiplier)


ISR = capability_body(CfgType.ISR_CFG, 4, 0x1000, 1)
DEVICE = capability_body(CfgType.DEVICE_CFG, 4, 0x2000, 60)


# --- What is read -----------------------------------------------------------------------------------------------------


def test_capabilities_are_decoded_in_the_order_of_the_list() -> None:
    assert found(function_with(common(), notify(8), ISR, DEVICE)) == [
        VirtioCapability(0x40, 1, 4, 0, 0, 56),
        VirtioCapability(0x50, 2, 4, 0, 0x3000, 0x1000, 8, 20),
        VirtioCapability(0x64, 3, 4, 0, 0x1000, 1),
        VirtioCapability(0x74, 4, 4, 0, 0x2000, 60),
    ]


def test_capabilities_of_others_are_passed_over() -> None:
    fake = new_function(0x1AF4, 0x1042)
    fake.declare_capability(0x40, MSIX, bytes(10))
    fake.declare_capability(0x50, VENDOR, common())
    assert [capability.position for capability in found(fake)] == [0x50]


def test_a_function_without_capabilities_has_none() -> None:
    assert found(new_function(0x1AF4, 0x1042)) == []


def test_shared_memory_has_offsets_of_64_bits() -> None:
    body = capability_body(CfgType.SHARED_MEMORY_CFG, 4, 0x1000, 0x2000, cap_len=24)
    body += (1).to_bytes(4, "little") + (2).to_bytes(4, "little")
    (capability,) = found(function_with(body))
    assert (capability.offset, capability.length) == (0x1_0000_1000, 0x2_0000_2000)


def test_a_vendor_capability_is_not_taken_apart() -> None:
    (capability,) = found(function_with(capability_body(CfgType.VENDOR_CFG, 4, 7, 7)))
    assert (capability.type_name, capability.offset) == ("VENDOR_CFG", 0)
    assert "no use for" in fault_of(capability, BARS)


@pytest.mark.parametrize("position", [0xF0, 0xF4, 0xF8, 0xFC])
@pytest.mark.parametrize("cfg_type", [1, 2, 8])
def test_a_capability_at_the_very_end_is_read_no_further_than_the_area_goes(position: int, cfg_type: int) -> None:
    for size in (0x100, 0x1000):
        fake = new_function(0x1AF4, 0x1042, size)
        room = 0x100 - position - 2
        fake.declare_capability(position, VENDOR, common(cfg_type=cfg_type, cap_len=24)[:room])
        (capability,) = found(fake)
        assert all(access.offset + access.width <= 0x100 for access in fake.accesses)
        if position > 0xF0 or cfg_type == CfgType.NOTIFY_CFG:
            assert fault_of(capability, BARS) != ""


# --- Lists that are broken --------------------------------------------------------------------------------------------


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    ("pointer", "words"),
    [(0x40, "leads back"), (0x10, "in front of 0x40"), (0x3C, "in front of 0x40"), (0x04, "in front of 0x40")],
)
def test_a_list_that_loops_or_leaves_its_area_is_an_error_of_the_device(pointer: int, words: str) -> None:
    fake = function_with(common(), notify(), ISR)
    fake.poke(0x65, bytes([pointer]))
    with pytest.raises(CapabilityError, match=words):
        found(fake)
    with pytest.raises(TransportError, match=words) as caught:
        PciStructures.find(ConfigSpace(fake), BARS)
    assert caught.value.exit_code == 4


def test_the_low_bits_of_a_pointer_are_reserved_and_not_believed() -> None:
    fake = function_with(common(), ISR)
    fake.poke(0x34, b"\x43")
    assert len(found(fake)) == 2


# --- What cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.fault(30, 31)
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (common(bar=6), "names BAR 6, which the function does not have"),
        (common(bar=255), "names BAR 255"),
        (common(bar=5), "names BAR 5, which the function does not have"),
        (common(bar=0), "names BAR 0, which is an I/O BAR"),
        (common(bar=2), "names BAR 2, which has no address"),
        (common(bar=3), "ends at 0x38, behind the end of BAR 3 (0x20)"),
        (common(length=0), "has length 0, less than 56"),
        (common(length=55), "has length 55, less than 56"),
        (common(offset=2), "has offset 0x2, which is not a multiple of 4"),
        (common(offset=0x4000), "ends at 0x4038, behind the end of BAR 4 (0x4000)"),
        (common(offset=0x3FCC), "ends at 0x4004, behind the end of BAR 4"),
        (common(offset=0xFFFF_F000, length=0x2000), "ends at 0x100001000, behind the end of BAR 4"),
        (common(offset=0xFFFF_FFFC, length=0xFFFF_FFFF), "ends at 0x1fffffffb, behind the end of BAR 4"),
        (common(length=0xFFFF_FFFF), "behind the end of BAR 4"),
        (common(cap_len=0), "is only 0 bytes long"),
        (common(cap_len=15), "is only 15 bytes long"),
        (notify(1), "notify_off_multiplier 1, which is not 0 or an even power of two"),
        (notify(3), "notify_off_multiplier 3,"),
        (notify(6), "notify_off_multiplier 6,"),
        (notify(0xFFFF_FFFF), "notify_off_multiplier 4294967295,"),
        (notify(offset=0x3001), "has offset 0x3001, which is not a multiple of 2"),
        (notify(length=1), "has length 1, less than 2"),
        (capability_body(2, 4, 0x3000, 0x1000), "is only 16 bytes long"),
        (common(cfg_type=0), "no use for"),
        (common(cfg_type=6), "no use for"),
        (common(cfg_type=255), "no use for"),
    ],
)
def test_what_cannot_be_used_is_skipped_and_the_reason_is_kept(body: bytes, words: str) -> None:
    (capability,) = found(function_with(body))
    assert words in fault_of(capability, BARS)
    usable = [name for name in STRUCTURES if choose_quietly(capability, name)]
    assert usable == []


def choose_quietly(capability: VirtioCapability, cfg_type: CfgType) -> bool:
    try:
        return choose([capability], BARS, cfg_type) is not None
    except TransportError:
        return False


@pytest.mark.fault(33)
@pytest.mark.parametrize("multiplier", [0, 2, 4, 4096, 1 << 31])
def test_a_multiplier_is_zero_or_an_even_power_of_two(multiplier: int) -> None:
    (capability,) = found(function_with(notify(multiplier)))
    assert fault_of(capability, BARS) == ""
    assert capability.multiplier == multiplier


@pytest.mark.parametrize("body", [common(cap_len=255), common(cap_len=20), common(length=0x4000), common(length=64)])
def test_longer_than_expected_is_accepted(body: bytes) -> None:
    (capability,) = found(function_with(body))
    assert fault_of(capability, BARS) == ""


@pytest.mark.fault(31)
def test_the_first_that_can_be_used_is_used() -> None:
    fake = function_with(common(bar=0), common(cfg_type=6), common(offset=0x100), common(offset=0x200))
    capability = require(found(fake), BARS, CfgType.COMMON_CFG)
    assert capability.offset == 0x100


def test_a_structure_that_is_missing_is_named() -> None:
    fake = function_with(common(), ISR)
    with pytest.raises(TransportError, match="has no NOTIFY_CFG capability"):
        PciStructures.find(ConfigSpace(fake), BARS)


def test_when_none_can_be_used_every_reason_is_given() -> None:
    fake = function_with(common(bar=0), common(length=8))
    with pytest.raises(TransportError) as caught:
        PciStructures.find(ConfigSpace(fake), BARS)
    assert "COMMON_CFG capability at 0x40 names BAR 0" in str(caught.value)
    assert "COMMON_CFG capability at 0x50 has length 8" in str(caught.value)


def test_a_device_needs_no_configuration_of_its_own() -> None:
    structures = PciStructures.find(ConfigSpace(function_with(common(), notify(), ISR)), BARS)
    assert structures.device is None


def test_a_device_configuration_that_cannot_be_used_is_no_missing_one() -> None:
    fake = function_with(common(), notify(), ISR, capability_body(CfgType.DEVICE_CFG, 0, 0, 60))
    with pytest.raises(TransportError, match=r"DEVICE_CFG capability .* is an I/O BAR"):
        PciStructures.find(ConfigSpace(fake), BARS)


def test_a_reserved_type_prints_as_one() -> None:
    (capability,) = found(function_with(common(cfg_type=6)))
    assert str(capability) == "reserved 0x6 capability at 0x40"


# --- Anything ---------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.binary(min_size=0xC0, max_size=0xC0), st.integers(0, 255))
def test_any_bytes_are_capabilities_or_an_error_and_nothing_unusable_is_chosen(area: bytes, first: int) -> None:
    fake = new_function(0x1AF4, 0x1042)
    fake.poke(0x40, area)
    fake.poke(0x34, bytes([first]))
    fake.poke(0x06, b"\x10")
    try:
        capabilities = found(fake)
    except PciError:
        return
    assert len(capabilities) <= 48
    for cfg_type in STRUCTURES:
        try:
            chosen = choose(capabilities, BARS, cfg_type)
        except TransportError:
            continue
        if chosen is not None:
            bar = BARS[chosen.bar]
            assert isinstance(bar, MemoryBar)
            assert bar.address
            assert STRUCTURES[cfg_type].length <= chosen.length
            assert chosen.offset + chosen.length <= bar.size


_bodies = st.builds(
    capability_body,
    st.integers(0, 10),
    st.integers(0, 7),
    st.sampled_from([0, 2, 4, 0x1000, 0x3FC8, 0x3FCC, 0x4000, 0xFFFF_F000, 0xFFFF_FFFF]),
    st.sampled_from([0, 1, 55, 56, 64, 0x1000, 0x4000, 0xFFFF_FFFF]),
    cap_len=st.sampled_from([0, 8, 15, 16, 20, 24, 255]),
)


@given(st.lists(_bodies, max_size=8))
def test_a_structure_that_is_mapped_lies_in_its_bar(bodies: list[bytes]) -> None:
    capabilities = found(function_with(*bodies))
    assert len(capabilities) == len(bodies)
    for capability in capabilities:
        if not fault_of(capability, BARS):
            assert capability.bar in (3, 4)
            assert capability.offset + capability.length <= BARS[capability.bar].size
