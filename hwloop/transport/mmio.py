"""Virtio over MMIO (VIRTIO 1.4, 4.2): registers at a physical address, of version 1 (legacy) or 2.

Nothing on such a bus can be asked where its devices are: the address comes from whoever knows the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from enum import IntEnum
from typing import Self

from cython_ring import Doorbell
from hwloop.deadline import RESET_SECONDS, wait_until
from hwloop.errors import AlreadyUsed, ConfigSpaceMissing, DeviceLost, InvalidParam, TransportError
from hwloop.hal.base import Hal
from hwloop.spec import PAGE_SIZE, DeviceStatus, DeviceType, DeviceTypeError, Feature, InterruptStatus, PhysAddr
from hwloop.transport.base import Transport
from hwloop.transport.legacy_block import page_frame_number
from hwloop.transport.mapped_doorbell import mapped_doorbell
from hwloop.transport.mmio_errors import (
    ALL_ONES,
    BadMagic,
    InvalidDeviceID,
    MmioError,
    MmioRegionTooSmall,
    UnsupportedVersion,
)
from hwloop.transport.mmio_registers import (
    CONFIG_SPACE_OFFSET,
    MAGIC,
    SLOT_SIZE,
    LegacyRegisters,
    ModernRegisters,
    VirtIOHeader,
    VirtioMmioTransport,
)
from hwloop.transport.pci_common import check_config_field
from hwloop.transport.register_value import RegisterValue, read_block
from mmio import Region, UniqueMmioPointer, Window, read_exact, write_exact
from mmio.register import ReadableWritable

__all__ = [
    "BadMagic",
    "InvalidDeviceID",
    "MmioError",
    "MmioRegionTooSmall",
    "MmioTransport",
    "MmioVersion",
    "UnsupportedVersion",
    "VirtIOHeader",
    "VirtioMmioTransport",
]

PHYSICAL_END = 1 << 52
"""Physical addresses lie below it (AMD64 and Armv8.2 have 52 bits)."""

_NOTIFY = VirtIOHeader.queue_notify
_DEFINED = InterruptStatus.QUEUE_INTERRUPT | InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT
_NO_REGION = (1 << 64) - 1
# QEMU ignores the selection of a queue that it cannot have, and would show the one that was selected before.
_MOST_QUEUES = 1024
_WORDS = ("device_features",)
_OF_A_QUEUE = ("queue_size_max", "queue_pfn", "queue_ready", "queue_reset")


class MmioVersion(IntEnum):
    """The version of the registers."""

    Legacy = 1
    Modern = 2


class MmioTransport(Transport):
    """MMIO transport for VirtIO, of either version.

    `address` is the physical address of the registers and `size` their bytes, the device's configuration included;
    `hal` maps them. Constructing it reads magic value, version and the two IDs, and nothing else. When it fails nothing
    stays mapped. Raises BadMagic, UnsupportedVersion, InvalidDeviceID (0: the slot is empty), MmioRegionTooSmall,
    InvalidParam for an address that is none, mmio.RegionInUse for registers that this process uses already.
    """

    name = "mmio"

    def __init__(self, hal: Hal, address: int, size: int = SLOT_SIZE) -> None:
        super().__init__()
        check_place(address, size)
        with ExitStack() as stack:
            pointer = stack.enter_context(
                UniqueMmioPointer(
                    lambda at, length: hal.mmio_phys_to_virt(PhysAddr(at), length), address, size, space=hal
                )
            )
            self._look(pointer)
            self._doorbell = hal.mmio_phys_to_virt(PhysAddr(address + _NOTIFY.offset), _NOTIFY.width, hot=True)
            stack.callback(self._doorbell.close)
            self._resources = stack.pop_all()

    @classmethod
    def new_from_unique(cls, pointer: UniqueMmioPointer) -> Self:
        """The transport of registers that are owned already; it closes them. Raises as the constructor does."""
        transport = cls.__new__(cls)
        Transport.__init__(transport)
        with ExitStack() as stack:
            stack.enter_context(pointer)
            check_place(pointer.address, pointer.size)
            transport._look(pointer)
            transport._doorbell = pointer.window(_NOTIFY.offset, _NOTIFY.width)
            transport._resources = stack.pop_all()
        return transport

    def _look(self, pointer: UniqueMmioPointer) -> None:
        """Whether a device is there (VIRTIO 1.4, 4.2.3.1.1); of an empty slot nothing but the ID is read."""
        self.registers = VirtioMmioTransport(pointer)
        self._header = self.registers.registers
        self._version = _read_version(self._header, f"{pointer.address:#x}")
        self._device_type = _read_type(self._header, f"{pointer.address:#x}")
        self._vendor_id = self._header.vendor_id.read()
        self.has_config_generation = not self._legacy
        self._config = _config_window(pointer)
        self._page_size = 0
        self._sizes: dict[int, int] = {}

    @property
    def version(self) -> MmioVersion:
        """The version of the registers."""
        return self._version

    @property
    def vendor_id(self) -> int:
        """Whose device it is, in 32 bits; QEMU has 0x554d4551."""
        return self._vendor_id

    def device_type(self) -> DeviceType:
        return self._device_type

    # --- Features and status ------------------------------------------------------------------------------------------

    def read_device_features(self) -> int:
        """Reads the offered features: 32 in version 1, which has no more."""
        low = self.registers.read_device_features(0)
        return low if self._legacy else low | self.registers.read_device_features(1) << 32

    def write_driver_features(self, driver_features: int) -> None:
        """Raises InvalidParam for a feature above bit 31 in version 1, which cannot accept it."""
        if self._legacy and driver_features >> 32:
            raise InvalidParam(f"version 1 has features 0 to 31, so it cannot accept {driver_features:#x}")
        self.registers.write_driver_features(driver_features & 0xFFFF_FFFF, 0)
        if not self._legacy:
            self.registers.write_driver_features(driver_features >> 32, 1)

    def get_status(self) -> DeviceStatus:
        """Raises DeviceLost when nothing answers any more."""
        return DeviceStatus(_answered(self._header.status.read(), "device status"))

    def set_status(self, status: DeviceStatus) -> None:
        if not status:
            # What a reset makes the device forget.
            self._page_size = 0
            self._sizes.clear()
        self._header.status.write(int(status))

    def set_guest_page_size(self, guest_page_size: int) -> None:
        """Raises InvalidParam for what is no power of two."""
        if guest_page_size <= 0 or guest_page_size & (guest_page_size - 1):
            raise InvalidParam(f"a page cannot have {guest_page_size} bytes", remedy="a power of two")
        if self._legacy:
            self._header.guest_page_size.write(guest_page_size)
            self._page_size = guest_page_size

    def requires_legacy_layout(self) -> bool:
        return self._legacy

    # --- Queues -------------------------------------------------------------------------------------------------------

    def max_queue_size(self, queue: int) -> int:
        if not self._select(queue):
            return 0
        if self._legacy and self._header.queue_pfn.read():
            # It may be read only while the queue is not in use (VIRTIO 1.4, 4.2.4).
            return self._sizes.get(queue, 0)
        return self.registers.read_queue_size_max()

    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        """Raises InvalidParam for a queue or a size that the device has not, AlreadyUsed, TransportError when the
        device does not take the queue; DmaError in version 1 for memory at an address that it cannot be told."""
        if self.queue_used(queue):
            raise AlreadyUsed(f"queue {queue} is set up already", remedy="reset the device first")
        largest = self.max_queue_size(queue)
        if not 0 < size <= largest:
            raise InvalidParam(f"queue {queue} cannot have {size} descriptors; the device allows {largest}")
        if self._legacy:
            self._set_block(queue, size, descriptors, driver_area, device_area)
        else:
            self._set_areas(queue, size, descriptors, driver_area, device_area)
        self._sizes[queue] = largest

    def _set_block(self, queue: int, size: int, descriptors: int, driver_area: int, device_area: int) -> None:
        if not self._page_size:
            self.set_guest_page_size(PAGE_SIZE)
        frame = page_frame_number(queue, size, descriptors, driver_area, device_area, self._page_size)
        header = self._header
        header.queue_size.write(size)
        header.queue_align.write(PAGE_SIZE)
        header.queue_pfn.write(frame)
        if (shown := header.queue_pfn.read()) != frame:
            raise TransportError(
                f"queue {queue} did not take the page frame number {frame:#x}; it shows {shown:#x}", section="4.2.4"
            )

    def _set_areas(self, queue: int, size: int, descriptors: int, driver_area: int, device_area: int) -> None:
        self.registers.write_queue_size(size)
        self.registers.write_queue_phys(descriptors, driver_area, device_area)
        self.registers.set_queue_ready()
        if self._header.queue_ready.read() != 1:
            raise TransportError(f"queue {queue} did not become ready", section="4.2.2")

    def queue_unset(self, queue: int) -> None:
        """Takes the queue from the device, and waits until it has let go of it. In version 1 it is not known when: QEMU
        resets the whole device then. Raises DeadlineExpired."""
        self._sizes.pop(queue, None)
        if not self._select(queue):
            return
        if self._legacy:
            self._header.queue_pfn.write(0)
        elif self.negotiated & Feature.RING_RESET:
            self._stop_queue(queue, self._header.queue_reset, 1)
        else:
            self._stop_queue(queue, self._header.queue_ready, 0)

    def _stop_queue(self, queue: int, register: ReadableWritable, value: int) -> None:
        """Both registers show 0 when it is done (VIRTIO 1.4, 4.2.2.2)."""
        register.write(value)
        wait_until(
            lambda: register.read() == 0, f"queue {queue} to stop ({register.name} 0)", RESET_SECONDS, section="4.2.2.2"
        )

    def queue_used(self, queue: int) -> bool:
        if not self._select(queue):
            return False
        return (self._header.queue_pfn if self._legacy else self._header.queue_ready).read() != 0

    def notify(self, queue: int, data: int | None = None) -> None:
        """One 32-bit write of the queue's index, or of `data`. Raises InvalidParam for a queue not set up."""
        if queue not in self._sizes:
            raise InvalidParam(f"queue {queue} is not set up, so it cannot be notified")
        self._doorbell.write32(0, queue if data is None else data)

    def doorbell(self, queue: int) -> Doorbell | None:
        """None where the register is not mapped."""
        return mapped_doorbell(self._doorbell, queue, self.negotiated, width=4) if queue in self._sizes else None

    # --- Interrupts and configuration ---------------------------------------------------------------------------------

    def ack_interrupt(self) -> InterruptStatus:
        """Raises DeviceLost when nothing answers any more."""
        pending = _answered(self._header.interrupt_status.read(), "interrupt status")
        # Other bits are undefined: they are ignored, and must not be written (VIRTIO 1.4, 4.2.2.2).
        known = InterruptStatus(pending & _DEFINED)
        if known:
            self._header.interrupt_ack.write(int(known))
        return known

    def read_config_generation(self) -> int:
        """Always 0 in version 1, which has none: `read_consistent` reads twice."""
        return 0 if self._legacy else self._header.config_generation.read()

    def read_config_space(self, offset: int, width: int) -> int:
        config = self._config_at(offset, width)
        if width == 8:
            return config.read64_lo_hi(offset)
        return read_exact(config, offset, width)

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        config = self._config_at(offset, width)
        if width == 8:
            config.write64_lo_hi(offset, value)
        else:
            write_exact(config, offset, width, value)

    def read_shared_memory(self, region_id: int) -> tuple[PhysAddr, int] | None:
        """The physical address and the length in bytes of a shared memory region; None when there is none of that id
        (VIRTIO 1.4, 4.2.2). Version 1 has no such regions."""
        if self._legacy:
            return None
        self._header.shm_sel.write(region_id)
        length = self._header.shm_len.read()
        base = self._header.shm_base.read()
        return None if _NO_REGION in (length, base) else (PhysAddr(base), length)

    def read_registers(self) -> Iterator[RegisterValue]:
        """The registers of this version, word by word and queue by queue."""
        layout = LegacyRegisters if self._legacy else ModernRegisters
        block = layout(self.registers.region)
        yield from read_block(block, "device", leave_out=(*_WORDS, *_OF_A_QUEUE))
        for word in (0,) if self._legacy else (0, 1):
            self._header.device_features_sel.write(word)
            yield replace(next(read_block(block, "device", only=_WORDS)), name=f"device_features[{word}]")
        for queue in self._existing_queues():
            yield from read_block(block, f"queue {queue}", only=_OF_A_QUEUE)

    def close(self) -> None:
        self._sizes.clear()
        self._resources.close()

    # --- Private ------------------------------------------------------------------------------------------------------

    @property
    def _legacy(self) -> bool:
        return self._version is MmioVersion.Legacy

    def _select(self, queue: int) -> bool:
        """Point the per-queue registers at a queue. False for a number that no queue can have."""
        if not 0 <= queue < _MOST_QUEUES:
            return False
        self.registers.select_queue(queue)
        return True

    def _config_at(self, offset: int, width: int) -> Region:
        if self._config is None:
            raise ConfigSpaceMissing("the device has no configuration space of its own", section="4.2.2")
        check_config_field(offset, width, self._config.size)
        return self._config


def check_place(address: int, size: int) -> None:
    """Raises InvalidParam for an address that registers cannot have, MmioRegionTooSmall."""
    if not 0 <= address < PHYSICAL_END:
        raise InvalidParam(f"{address:#x} is no physical address", remedy=f"they end at {PHYSICAL_END:#x}")
    if address + size > PHYSICAL_END:
        raise InvalidParam(
            f"{size:#x} bytes from {address:#x} on do not end at a physical address",
            remedy=f"they end at {PHYSICAL_END:#x}",
        )
    if address % 4:
        raise InvalidParam(
            f"{address:#x} cannot be the start of registers", remedy="they are 32 bits wide, and aligned"
        )
    if size < CONFIG_SPACE_OFFSET:
        raise MmioRegionTooSmall(size, f"{address:#x}")


def _read_version(header: VirtIOHeader, place: str) -> MmioVersion:
    magic = header.magic_value.read()
    if magic != MAGIC:
        raise BadMagic(magic, place)
    version = header.version.read()
    if version not in list(MmioVersion):
        raise UnsupportedVersion(version, place)
    return MmioVersion(version)


def _read_type(header: VirtIOHeader, place: str) -> DeviceType:
    device_id = header.device_id.read()
    try:
        return DeviceType.from_id(device_id)
    except DeviceTypeError as error:
        raise InvalidDeviceID(device_id, place) from error


def _config_window(pointer: UniqueMmioPointer) -> Window | None:
    size = pointer.size - CONFIG_SPACE_OFFSET
    return pointer.window(CONFIG_SPACE_OFFSET, size) if size else None


def _answered(value: int, what: str) -> int:
    if value == ALL_ONES:
        raise DeviceLost(f"the {what} reads {ALL_ONES:#x}: nothing answers at the device's address any more")
    return value
