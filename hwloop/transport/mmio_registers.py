"""The registers of a virtio-mmio device, both versions of them (VIRTIO 1.4, 4.2.2 and 4.2.4), and the steps that seed
003 makes of them. `MmioTransport` drives a device with these; by themselves they judge nothing and wait for nothing.
"""

from __future__ import annotations

from hwloop.spec import DeviceStatus
from mmio import ReadOnly32, ReadOnly64LoHi, ReadWrite32, Region, RegisterBlock, WriteOnly32, WriteOnly64LoHi

MAGIC = 0x74726976
"""`virt`, as a little-endian number."""
CONFIG_SPACE_OFFSET = 0x100
"""Where the device's own configuration starts."""
SLOT_SIZE = 0x200
"""Bytes of a device's registers where nobody says otherwise: QEMU's machines lay them out so."""


class CommonRegisters(RegisterBlock):
    """What both versions have."""

    magic_value = ReadOnly32(0x000)
    version = ReadOnly32(0x004)
    device_id = ReadOnly32(0x008)
    vendor_id = ReadOnly32(0x00C)
    device_features = ReadOnly32(0x010)
    device_features_sel = WriteOnly32(0x014)
    driver_features = WriteOnly32(0x020)
    driver_features_sel = WriteOnly32(0x024)
    queue_sel = WriteOnly32(0x030)
    queue_size_max = ReadOnly32(0x034)
    queue_size = WriteOnly32(0x038)
    queue_notify = WriteOnly32(0x050)
    interrupt_status = ReadOnly32(0x060)
    interrupt_ack = WriteOnly32(0x064)
    status = ReadWrite32(0x070)


class LegacyRegisters(CommonRegisters):
    """Version 1: queues by page frame number, no generation of the configuration (VIRTIO 1.4, 4.2.4)."""

    guest_page_size = WriteOnly32(0x028)
    queue_align = WriteOnly32(0x03C)
    queue_pfn = ReadWrite32(0x040)


class ModernRegisters(CommonRegisters):
    """Version 2: queues by the addresses of their three areas (VIRTIO 1.4, 4.2.2)."""

    queue_ready = ReadWrite32(0x044)
    queue_desc = WriteOnly64LoHi(0x080)
    queue_driver = WriteOnly64LoHi(0x090)
    queue_device = WriteOnly64LoHi(0x0A0)
    shm_sel = WriteOnly32(0x0AC)
    shm_len = ReadOnly64LoHi(0x0B0)
    shm_base = ReadOnly64LoHi(0x0B8)
    queue_reset = ReadWrite32(0x0C0)
    config_generation = ReadOnly32(0x0FC)


class VirtIOHeader(ModernRegisters, LegacyRegisters):
    """All of them, under the name that seed 004 gives them."""


class VirtioMmioTransport:
    """The registers behind `region`, as seed 003 names what is done with them. Copies reach the same registers.

    Every method is one access of 32 bits, but for those that say otherwise. Features are those of bits 0 to 31.
    """

    def __init__(self, region: Region) -> None:
        self.region = region
        self.registers = VirtIOHeader(region)

    def close(self) -> None:
        """Give up the registers. Idempotent."""
        self.region.close()

    # --- Registers ----------------------------------------------------------------------------------------------------

    def read_status(self) -> int:
        """Reads the device status."""
        return self.registers.status.read()

    def write_status(self, status: int) -> None:
        """Writes the device status."""
        self.registers.status.write(int(status))

    def read_device_features(self, word: int = 0) -> int:
        """Selects 32 of the offered features, and reads them: two accesses."""
        self.registers.device_features_sel.write(word)
        return self.registers.device_features.read()

    def write_driver_features(self, features: int, word: int = 0) -> None:
        """Selects 32 of the accepted features, and writes them: two accesses."""
        self.registers.driver_features_sel.write(word)
        self.registers.driver_features.write(features)

    def select_queue(self, index: int) -> None:
        """Selects a queue."""
        self.registers.queue_sel.write(index)

    def read_queue_size_max(self) -> int:
        """Reads the largest size of the selected queue; 0 when there is none."""
        return self.registers.queue_size_max.read()

    def write_queue_size(self, size: int) -> None:
        """Sets the size of the selected queue."""
        self.registers.queue_size.write(size)

    def write_queue_phys(self, desc: int, avail: int, used: int) -> None:
        """Sets the addresses of the selected queue's three areas, in version 2: six accesses, low halves first."""
        self.registers.queue_desc.write(desc)
        self.registers.queue_driver.write(avail)
        self.registers.queue_device.write(used)

    def set_queue_ready(self) -> None:
        """Lets the device use the selected queue, in version 2."""
        self.registers.queue_ready.write(1)

    def notify_queue(self, index: int) -> None:
        """Tells the device that the queue has new buffers."""
        self.registers.queue_notify.write(index)

    def read_config_u64(self, offset: int) -> int:
        """Reads 64 bits of the device configuration: two accesses of 32 bits, the low half first.

        The device may change the value in between, so read it until it stays the same.
        """
        return self.region.read64_lo_hi(CONFIG_SPACE_OFFSET + offset)

    # --- Initialisation -----------------------------------------------------------------------------------------------

    def begin_init(self) -> None:
        """Reset, ACKNOWLEDGE, and ACKNOWLEDGE with DRIVER: three writes."""
        self.write_status(0)
        self.write_status(DeviceStatus.ACKNOWLEDGE)
        self.write_status(DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER)

    def set_features_ok(self) -> bool:
        """Add FEATURES_OK to the status and read it back; False when the device refused the features.

        A device of version 1 does not know the bit (VIRTIO 1.4, 3.1.2).
        """
        self.write_status(self.read_status() | DeviceStatus.FEATURES_OK)
        return bool(self.read_status() & DeviceStatus.FEATURES_OK)

    def set_driver_ok(self) -> None:
        """Add DRIVER_OK to the status."""
        self.write_status(self.read_status() | DeviceStatus.DRIVER_OK)
