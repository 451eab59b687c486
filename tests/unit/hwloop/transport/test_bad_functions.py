"""PCI functions that are broken, each in one way, through everything that opens one: a typed error that says what is
wrong, after few accesses, and no register window stays open."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwloop.errors import DeviceError, HwloopError, TransportError
from hwloop.hal.fake import FakeHal
from hwloop.hal.qtest import QtestHal
from hwloop.qtest.client import QtestClient
from hwloop.qtest.ram import GuestRam
from hwloop.transport import Transport, pci_errors
from hwloop.transport.fake_pci import capability_body, with_multiplier
from hwloop.transport.pci_capability import VENDOR_SPECIFIC, CfgType
from hwloop.transport.pci_errors import (
    BarNotAllocated,
    BarOffsetOutOfRange,
    InvalidDeviceId,
    InvalidNotifyOffMultiplier,
    InvalidVendorId,
    Misaligned,
    MissingCommonConfig,
    MissingIsrConfig,
    MissingNotifyConfig,
    Pci,
    UnexpectedIoBar,
    VirtioPciError,
)
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.pci_modern import PciTransport
from hwloop.transport.probe import open_pci, probe_pci_device
from mmio import FakeRegion, Region, Window
from pci import (
    BytesConfigAccess,
    BytesRootAccess,
    CapabilityError,
    CapabilityId,
    ConfigAccessError,
    ConfigSpace,
    DeviceFunction,
    InvalidBarType,
    IoBar,
    MemoryBar,
    MemoryBarType,
    PciError,
    PciRoot,
    new_function,
)

PLACE = DeviceFunction(0, 5, 0)
MEMORY = 0x38_0000_0000
PORT = 0xC000

COMMON, NOTIFY, ISR, DEVICE, MSIX = 0x40, 0x50, 0x64, 0x74, 0x84
"""Where the capabilities of a good function are."""

_COMMAND = 0x04
_POINTER = 0x34


def good_function() -> BytesConfigAccess:
    """A transitional disk: legacy registers in BAR 0, MSI-X in BAR 1, the structures in BAR 4. BAR 2 has no address."""
    fake = new_function(0x1AF4, 0x1001)
    fake.declare_bar(IoBar(0, PORT, 0x40))
    fake.declare_bar(MemoryBar(1, MemoryBarType.Width32, False, 0xE000_0000, 0x1000))
    fake.declare_bar(MemoryBar(2, MemoryBarType.Width32, False, 0, 0x4000))
    fake.declare_bar(MemoryBar(4, MemoryBarType.Width64, True, MEMORY, 0x4000))
    fake.declare_capability(COMMON, VENDOR_SPECIFIC, capability_body(CfgType.COMMON_CFG, 4, 0, 56))
    notify = with_multiplier(capability_body(CfgType.NOTIFY_CFG, 4, 0x3000, 0x1000), 4)
    fake.declare_capability(NOTIFY, VENDOR_SPECIFIC, notify)
    fake.declare_capability(ISR, VENDOR_SPECIFIC, capability_body(CfgType.ISR_CFG, 4, 0x1000, 1))
    fake.declare_capability(DEVICE, VENDOR_SPECIFIC, capability_body(CfgType.DEVICE_CFG, 4, 0x2000, 60))
    fake.declare_capability(MSIX, CapabilityId.MSIX, bytes.fromhex("0300 01000000 01080000"))
    return fake


class CountingHal(FakeHal):
    """Remembers every window onto registers that it gave out."""

    def __init__(self) -> None:
        super().__init__({MEMORY: FakeRegion(0x4000)})
        self.ports[PORT] = FakeRegion(0x40)
        self.windows: list[Window] = []

    def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
        return self._remember(super().mmio_phys_to_virt(paddr, size, hot=hot))

    def port_region(self, port: int, size: int) -> Region:
        return self._remember(super().port_region(port, size))

    def _remember(self, region: Region) -> Region:
        assert isinstance(region, Window)
        self.windows.append(region)
        return region

    @property
    def left_open(self) -> int:
        return sum(not window.closed for window in self.windows)


Opener = Callable[[FakeHal, BytesConfigAccess], Transport]


def by_modern_transport(hal: FakeHal, fake: BytesConfigAccess) -> Transport:
    return PciTransport(hal, ConfigSpace(fake), ConfigSpace(fake).read_bars())


def by_legacy_transport(hal: FakeHal, fake: BytesConfigAccess) -> Transport:
    return PciLegacyTransport(hal, ConfigSpace(fake), ConfigSpace(fake).read_bars())


def by_open(hal: FakeHal, fake: BytesConfigAccess) -> Transport:
    return open_pci(hal, ConfigSpace(fake), ConfigSpace(fake).read_bars())


def by_probe(hal: FakeHal, fake: BytesConfigAccess) -> Transport:
    root = PciRoot(BytesRootAccess({PLACE: fake}))
    found = probe_pci_device(hal, root, PLACE, new_info(fake))
    assert found is not None
    return found[1]


def new_info(fake: BytesConfigAccess):  # type: ignore[no-untyped-def]
    return ConfigSpace(fake).read_info()


MODERN_WAYS: list[Opener] = [by_modern_transport, by_open, by_probe]
EVERY_WAY: list[Opener] = [*MODERN_WAYS, by_legacy_transport]


def assert_refused(way: Opener, fake: BytesConfigAccess, kind: type[OSError], words: str) -> OSError:
    """It raises, quickly, in these words, changes nothing of the function, and keeps no registers."""
    hal, before, done = CountingHal(), bytes(fake.data), len(fake.accesses)
    with pytest.raises(kind, match=words) as caught:
        way(hal, fake)
    assert caught.value.errno
    assert hal.left_open == 0
    assert hal.windows == []
    assert bytes(fake.data) == before
    assert len(fake.accesses) - done < 400
    return caught.value


@pytest.mark.parametrize("way", EVERY_WAY)
def test_the_function_that_the_others_are_made_of_is_good(way: Opener) -> None:
    hal = CountingHal()
    transport = way(hal, good_function())
    assert hal.left_open == (1 if way is by_legacy_transport else 3)
    transport.close()
    assert hal.left_open == 0


# --- The list of capabilities -----------------------------------------------------------------------------------------


def link(place: int, target: int) -> Callable[[BytesConfigAccess], None]:
    """Point the capability at `place`, or the header, somewhere else."""
    return lambda fake: fake.poke(_POINTER if place == _POINTER else place + 1, bytes([target]))


@pytest.mark.fault(29)
@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (link(COMMON, COMMON), "leads back to where the walk has been"),
        (link(DEVICE, COMMON), "leads back to where the walk has been"),
        (link(ISR, 0x10), "leads in front of 0x40"),
        (link(ISR, 0x3F), "leads in front of 0x40"),
        (link(_POINTER, 0x04), "leads in front of 0x40"),
        (lambda fake: fake.poke(0x40, b"\xff" * 0xC0), "leads to bytes that read as ones"),
        (lambda fake: fake.poke(DEVICE, b"\xff" * 4), "leads to bytes that read as ones"),
    ],
)
def test_a_list_that_is_broken_is_an_error_of_pci(
    way: Opener, damage: Callable[[BytesConfigAccess], None], words: str
) -> None:
    fake = good_function()
    # What the legacy transport looks for must not be found before the damage.
    fake.poke(MSIX, b"\x01")
    damage(fake)
    error = assert_refused(way, fake, Pci, words)
    assert isinstance(error, TransportError)
    assert isinstance(error.__cause__, CapabilityError)


@pytest.mark.parametrize("way", [by_modern_transport, by_legacy_transport, by_open])
def test_a_configuration_space_of_ones_is_a_function_that_does_not_answer(way: Opener) -> None:
    error = assert_refused(way, BytesConfigAccess(b"\xff" * 0x100), ConfigAccessError, "no function answers")
    assert error.errno == errno.ENODEV


def test_probing_a_configuration_space_of_ones_finds_nothing() -> None:
    fake, info = BytesConfigAccess(b"\xff" * 0x100), new_info(good_function())
    hal = CountingHal()
    assert probe_pci_device(hal, PciRoot(BytesRootAccess({PLACE: fake})), PLACE, info) is None
    assert hal.windows == []


@pytest.mark.parametrize("pointer", [0xFC, 0xFF])
@pytest.mark.parametrize("way", [by_modern_transport])
def test_a_capability_in_the_last_four_bytes_is_too_short_to_be_any(way: Opener, pointer: int) -> None:
    fake = good_function()
    fake.poke(0xFC, bytes([VENDOR_SPECIFIC, 0, 16, CfgType.COMMON_CFG]))
    fake.poke(_POINTER, bytes([pointer]))
    assert_refused(way, fake, MissingCommonConfig, "COMMON_CFG capability at 0xfc is only 4 bytes long")


# --- The structures ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    """Bytes that take the place of good ones, and the error that they are."""

    at: int
    data: bytes
    kind: type[VirtioPciError]
    words: str


def word(value: int) -> bytes:
    return value.to_bytes(4, "little")


_TYPE, _BAR, _OFFSET, _LENGTH, _MULTIPLIER = 3, 4, 8, 12, 16

BAD = {
    "no common configuration": Bad(COMMON + _TYPE, b"\x06", MissingCommonConfig, "has no COMMON_CFG"),
    "no notification structure": Bad(NOTIFY + _TYPE, b"\x06", MissingNotifyConfig, "has no NOTIFY_CFG"),
    "no ISR status": Bad(ISR + _TYPE, b"\x06", MissingIsrConfig, "has no ISR_CFG"),
    "common too short": Bad(COMMON + 2, b"\x0f", MissingCommonConfig, "is only 15 bytes long"),
    "common of no length": Bad(COMMON + 2, b"\x00", MissingCommonConfig, "is only 0 bytes long"),
    "notify too short": Bad(NOTIFY + 2, b"\x10", MissingNotifyConfig, "is only 16 bytes long"),
    "ISR too short": Bad(ISR + 2, b"\x08", MissingIsrConfig, "is only 8 bytes long"),
    "device too short": Bad(DEVICE + 2, b"\x08", VirtioPciError, "is only 8 bytes long"),
    "BAR 6": Bad(COMMON + _BAR, b"\x06", BarNotAllocated, "names BAR 6, which the function does not have"),
    "BAR 7": Bad(COMMON + _BAR, b"\x07", BarNotAllocated, "names BAR 7, which the function does not have"),
    "BAR 255": Bad(ISR + _BAR, b"\xff", BarNotAllocated, "names BAR 255, which the function does not have"),
    "the upper half of a BAR": Bad(COMMON + _BAR, b"\x05", BarNotAllocated, "BAR 5, which the function does not have"),
    "an I/O BAR": Bad(NOTIFY + _BAR, b"\x00", UnexpectedIoBar, "names BAR 0, which is an I/O BAR"),
    "a BAR without an address": Bad(DEVICE + _BAR, b"\x02", BarNotAllocated, "names BAR 2, which has no address"),
    "a wrap of 32 bits": Bad(
        COMMON + _OFFSET, word(0xFFFF_F000) + word(0x2000), BarOffsetOutOfRange, "ends at 0x100001000, behind the end"
    ),
    "the most a capability can say": Bad(
        NOTIFY + _OFFSET, word(0xFFFF_FFFC) + word(0xFFFF_FFFF), BarOffsetOutOfRange, "ends at 0x1fffffffb"
    ),
    "one byte behind the BAR": Bad(ISR + _OFFSET, word(0x3FFF) + word(2), BarOffsetOutOfRange, "ends at 0x4001"),
    "behind the BAR": Bad(DEVICE + _OFFSET, word(0x4000), BarOffsetOutOfRange, "behind the end of BAR 4"),
    "common without all its fields": Bad(
        COMMON + _LENGTH, word(55), BarOffsetOutOfRange, "has length 55, less than 56"
    ),
    "notify of no length": Bad(NOTIFY + _LENGTH, word(0), BarOffsetOutOfRange, "has length 0, less than 2"),
    "common on an odd offset": Bad(COMMON + _OFFSET, word(2), Misaligned, "offset 0x2, which is not a multiple of 4"),
    "notify on an odd offset": Bad(NOTIFY + _OFFSET, word(0x3001) + word(16), Misaligned, "not a multiple of 2"),
    "device on an odd offset": Bad(DEVICE + _OFFSET, word(0x2001), Misaligned, "offset 0x2001"),
    "multiplier 1": Bad(NOTIFY + _MULTIPLIER, word(1), InvalidNotifyOffMultiplier, "notify_off_multiplier 1,"),
    "multiplier 3": Bad(NOTIFY + _MULTIPLIER, word(3), InvalidNotifyOffMultiplier, "not 0 or an even power of two"),
    "multiplier 6": Bad(NOTIFY + _MULTIPLIER, word(6), InvalidNotifyOffMultiplier, "notify_off_multiplier 6,"),
    "multiplier of ones": Bad(
        NOTIFY + _MULTIPLIER, b"\xff" * 4, InvalidNotifyOffMultiplier, "notify_off_multiplier 4294967295"
    ),
}


# Without a common configuration a transitional function is a legacy one, to those who may choose.
CASES = [
    (name, way) for name in BAD for way in MODERN_WAYS if BAD[name].at != COMMON + _TYPE or way is by_modern_transport
]


@pytest.mark.fault(30, 31, 32)
@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_structure_that_cannot_be_used_is_an_error_of_its_kind(name: str, way: Opener) -> None:
    bad, fake = BAD[name], good_function()
    fake.poke(bad.at, bad.data)
    error = assert_refused(way, fake, bad.kind, bad.words)
    assert type(error) is bad.kind
    assert isinstance(error, DeviceError)
    assert error.section == "4.1.4"


def test_a_transitional_function_without_a_common_configuration_is_opened_as_a_legacy_one() -> None:
    fake, hal = good_function(), CountingHal()
    fake.poke(COMMON + _TYPE, b"\x06")
    with by_probe(hal, fake) as transport:
        assert isinstance(transport, PciLegacyTransport)
    assert hal.left_open == 0


def test_the_legacy_interface_does_not_care_about_the_structures_of_the_modern_one() -> None:
    for bad in BAD.values():
        fake = good_function()
        fake.poke(bad.at, bad.data)
        by_legacy_transport(CountingHal(), fake).close()


# --- The function and its BARs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [by_modern_transport, by_legacy_transport])
@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        ("86800110", InvalidVendorId),
        ("f41aff0f", InvalidDeviceId),
        ("f41a4010", InvalidDeviceId),
        ("f41a8010", InvalidDeviceId),
    ],
)
def test_ids_that_are_not_virtio_are_errors_of_their_kind(way: Opener, ids: str, kind: type[VirtioPciError]) -> None:
    fake = good_function()
    fake.poke(0, bytes.fromhex(ids))
    assert_refused(way, fake, kind, "is not a virtio device")


@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_bar_of_the_reserved_type_is_an_error_before_anything_is_written(way: Opener) -> None:
    fake = good_function()
    fake.poke(0x14, b"\x06")
    assert_refused(way, fake, InvalidBarType, "the memory type is the reserved one")
    assert fake.writes == []


@pytest.mark.fault(32)
@pytest.mark.parametrize("way", MODERN_WAYS)
def test_a_memory_bar_that_nobody_gave_an_address_is_not_mapped_at_zero(way: Opener) -> None:
    fake = good_function()
    fake.poke(0x20, b"\x0c" + bytes(7))
    assert_refused(way, fake, BarNotAllocated, "names BAR 4, which has no address")


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (lambda fake: fake.poke(0x10, word(1)), BarNotAllocated, "BAR 0 has no I/O ports assigned"),
        (lambda fake: fake.declare_bar(IoBar(0, PORT, 16)), BarOffsetOutOfRange, "BAR 0 has 16 bytes"),
        (
            lambda fake: fake.declare_bar(MemoryBar(0, MemoryBarType.Width32, False, 0xE000_2000, 0x1000)),
            VirtioPciError,
            "BAR 0 is a memory BAR",
        ),
        (lambda fake: fake.poke(2, b"\x42\x10"), InvalidDeviceId, "has no legacy interface: ids from 0x1040 on"),
        (lambda fake: fake.poke(8, b"\x01"), VirtioPciError, "revision 1; a legacy one has 0"),
    ],
)
def test_a_function_without_legacy_registers_is_an_error_of_its_kind(
    damage: Callable[[BytesConfigAccess], None], kind: type[VirtioPciError], words: str
) -> None:
    fake = good_function()
    damage(fake)
    error = assert_refused(by_legacy_transport, fake, kind, words)
    assert type(error) is kind


def test_a_legacy_function_without_bar_0_is_an_error() -> None:
    fake, hal = good_function(), CountingHal()
    bars = {index: bar for index, bar in ConfigSpace(fake).read_bars().items() if index}
    with pytest.raises(BarNotAllocated, match="the function has no BAR 0"):
        PciLegacyTransport(hal, ConfigSpace(fake), bars)
    assert hal.windows == []


# --- MSI-X ------------------------------------------------------------------------------------------------------------


class NoClient(QtestClient):
    """Nothing may be asked of the machine."""

    def __init__(self) -> None:
        pass

    def read(self, address: int, width: int) -> int:
        raise AssertionError(f"{width} bytes were read at {address:#x}")

    def write(self, address: int, width: int, value: int) -> None:
        raise AssertionError(f"{width} bytes were written at {address:#x}")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (0x1000 | 1, r"its table ends behind the end of BAR 1 \(0x1000 bytes\), at \(0x1040\)"),
        (0xFC8 | 1, r"its table ends behind the end of BAR 1"),
        (0xFFFF_FFF8 | 1, r"at \(0x100000038\)"),
        (0, "its table is in a BAR that has no memory at an address"),
        (2, "its table is in a BAR that has no memory at an address"),
        (3, "its table is in a BAR that has no memory at an address"),
        (6, "its table is in a BAR that no function has"),
        (7, "its table is in a BAR that no function has"),
    ],
)
def test_a_vector_table_outside_its_bar_is_an_error_before_the_machine_is_asked(table: int, words: str) -> None:
    fake = good_function()
    fake.poke(MSIX + 4, word(table))
    with GuestRam(0, 4 << 20) as ram, QtestHal(NoClient(), ram) as hal:
        hal.use_function(ConfigSpace(fake), ConfigSpace(fake).read_bars())
        with pytest.raises(CapabilityError, match=words):
            hal.interrupt(0)


# --- Anything ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", EVERY_WAY)
@settings(max_examples=60, deadline=None)
@given(
    patches=st.lists(
        st.tuples(
            st.one_of(st.integers(0x40, 0x9F), st.sampled_from([_POINTER, 0x06, 0x08, 0x0E])),
            st.one_of(st.sampled_from([0, 1, 0x40, 0x64, 0xFC, 0xFF]), st.integers(0, 255)),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_bytes_open_or_are_a_typed_error_and_nothing_stays_mapped(
    way: Opener, patches: list[tuple[int, int]]
) -> None:
    fake, hal = good_function(), CountingHal()
    for offset, byte in patches:
        fake.poke(offset, bytes([byte]))
    error: OSError | None = None
    try:
        way(hal, fake).close()
    except (HwloopError, PciError) as caught:
        error = caught
    assert error is None or (error.errno and str(error))
    assert hal.left_open == 0


# --- The kinds --------------------------------------------------------------------------------------------------------


def test_every_kind_that_the_seeds_name_is_an_error_of_the_device_with_a_text() -> None:
    kinds = {
        "InvalidDeviceId",
        "InvalidVendorId",
        "MissingCommonConfig",
        "MissingNotifyConfig",
        "InvalidNotifyOffMultiplier",
        "MissingIsrConfig",
        "UnexpectedIoBar",
        "BarNotAllocated",
        "BarOffsetOutOfRange",
        "Misaligned",
        "Pci",
    }
    assert {kind.__name__ for kind in VirtioPciError.__subclasses__()} == kinds
    texts = {str(getattr(pci_errors, name)()) for name in kinds}
    assert len(texts) == len(kinds)


def test_an_error_survives_being_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(BarNotAllocated("BAR 4 has no address", section="4.1.4")))
    assert type(error) is BarNotAllocated
    assert (str(error), error.section, error.exit_code) == (
        "BAR 4 has no address (VIRTIO 1.4, 4.1.4)",
        "4.1.4",
        4,
    )
