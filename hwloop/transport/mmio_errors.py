"""Why registers are not those of a virtio-mmio device, in the words of the seeds."""

from __future__ import annotations

from hwloop.errors import TransportError
from hwloop.spec import DeviceTypeError
from hwloop.transport.mmio_registers import CONFIG_SPACE_OFFSET, MAGIC

ALL_ONES = 0xFFFF_FFFF
"""What a read answers where nothing does."""


class MmioError(TransportError):
    """Base of what is found when registers are looked at for the first time. `value` is what was there.

    `place` says where, such as `0xfeb02e00`.
    """

    def __init__(self, problem: str, value: int, remedy: str, *, place: str = "", section: str = "") -> None:
        super().__init__(f"{place}: {problem}" if place else problem, remedy=remedy, section=section)
        self.value = value


class BadMagic(MmioError):
    """The registers do not begin with `virt`."""

    def __init__(self, value: int, place: str = "") -> None:
        nothing = "nothing answers there" if value == ALL_ONES else "no virtio-mmio device is there"
        remedy = f"{nothing}; see: hwloop list"
        text = f"Invalid magic value {value:#010x} (expected {MAGIC:#010x})"
        super().__init__(text, value, remedy, place=place, section="4.2.2.2")


class UnsupportedVersion(MmioError):
    """The version is neither 1 nor 2."""

    def __init__(self, value: int, place: str = "") -> None:
        text = f"Unsupported Virtio MMIO version {value}"
        super().__init__(text, value, "there are 1 (legacy) and 2", place=place, section="4.2.2.2")


class InvalidDeviceID(MmioError):
    """The device ID is that of no device: 0 in a slot that is empty (VIRTIO 1.4, 4.2.2)."""

    def __init__(self, value: int, place: str = "") -> None:
        meaning = "no device has it" if value else "the slot is empty, no device is there"
        text = f"Invalid or unknown device ID: {DeviceTypeError(value)}"
        super().__init__(text, value, f"{meaning}; see: hwloop list", place=place, section="4.2.2")


class MmioRegionTooSmall(MmioError):
    """The region ends before the registers do; `value` is its size in bytes. Nothing was mapped."""

    def __init__(self, value: int, place: str = "") -> None:
        text = f"MMIO region too small: {value:#x} bytes"
        remedy = f"the registers alone have {CONFIG_SPACE_OFFSET:#x}"
        super().__init__(text, value, remedy, place=place, section="4.2.2")
