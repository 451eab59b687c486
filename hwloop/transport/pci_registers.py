"""The legacy registers of a virtio PCI function, in the I/O ports of its BAR 0 (VIRTIO 1.4, 4.1.4.10), as seed 003
names them. `PciLegacyTransport` drives a device with them; by themselves they judge nothing and wait for nothing.

Whoever accesses the ports needs a right to them: root, or a descriptor that VFIO or sysfs gave out. Fields have the
byte order of the machine; those that we run on are little-endian, and so is every access here.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Self

from hwloop.spec import DeviceStatus
from mmio import ReadOnly8, ReadOnly16, ReadOnly32, ReadWrite8, ReadWrite16, ReadWrite32, RegisterBlock, WriteOnly16

if TYPE_CHECKING:
    from hwloop.hal.base import Hal
    from mmio import Region

status = DeviceStatus
"""The bits of the device status, under the name that seed 003 gives them."""


class LegacyRegisters(RegisterBlock):
    """The general header."""

    device_features = ReadOnly32(0x00)
    guest_features = ReadWrite32(0x04)
    queue_address = ReadWrite32(0x08)
    queue_size = ReadOnly16(0x0C)
    queue_select = ReadWrite16(0x0E)
    queue_notify = WriteOnly16(0x10)
    device_status = ReadWrite8(0x12)
    isr_status = ReadOnly8(0x13)


class VectorRegisters(RegisterBlock):
    """The two registers behind the header that are there only while MSI-X is on."""

    config_vector = ReadWrite16(0x14)
    queue_vector = ReadWrite16(0x16)


class Regs(IntEnum):
    """Offsets from the start of BAR 0."""

    DEVICE_FEATURES = LegacyRegisters.device_features.offset
    GUEST_FEATURES = LegacyRegisters.guest_features.offset
    QUEUE_ADDRESS = LegacyRegisters.queue_address.offset
    QUEUE_SIZE = LegacyRegisters.queue_size.offset
    QUEUE_SELECT = LegacyRegisters.queue_select.offset
    QUEUE_NOTIFY = LegacyRegisters.queue_notify.offset
    DEVICE_STATUS = LegacyRegisters.device_status.offset
    ISR_STATUS = LegacyRegisters.isr_status.offset
    DEVICE_CONFIG = 0x14
    """Where the device's own configuration starts, while MSI-X is off."""
    DEVICE_CONFIG_MSIX = 0x18
    """Where it starts while MSI-X is on: behind the two vector registers."""


regs = Regs
"""The offsets, under the name that seed 003 gives them."""


class VirtioPciTransport:
    """The registers behind `ports`, which starts at I/O port `io_base`. Copies reach the same registers.

    `config_base` is where the device configuration starts; set it when MSI-X is turned on or off. Every method is one
    access of the register's width, but for those that say otherwise.
    """

    def __init__(self, ports: Region, io_base: int) -> None:
        self.ports = ports
        self._io_base = io_base
        self._registers = self.header = LegacyRegisters(ports)
        self.vectors = VectorRegisters(ports)
        self.config_base: int = Regs.DEVICE_CONFIG

    @classmethod
    def new(cls, hal: Hal, io_base: int, size: int) -> Self:
        """The registers at a port, `size` bytes of them. Raises Unsupported where the HAL reaches no ports."""
        return cls(hal.port_region(io_base, size), io_base)

    def io_base(self) -> int:
        """The I/O port of the first register."""
        return self._io_base

    def close(self) -> None:
        """Give up the ports. Idempotent."""
        self.ports.close()

    # --- Registers ----------------------------------------------------------------------------------------------------

    def read_device_features(self) -> int:
        """Reads the offered features, 32 bits."""
        return self._registers.device_features.read()

    def write_guest_features(self, features: int) -> None:
        """Writes the accepted features, 32 bits."""
        self._registers.guest_features.write(features)

    def read_queue_size(self) -> int:
        """Reads the size of the selected queue; 0 when there is none."""
        return self._registers.queue_size.read()

    def select_queue(self, index: int) -> None:
        """Selects a queue."""
        self._registers.queue_select.write(index)

    def read_queue_address(self) -> int:
        """Reads the page frame number of the selected queue; 0 while it is not in use."""
        return self._registers.queue_address.read()

    def write_queue_address(self, pfn: int) -> None:
        """Sets the page frame number of the selected queue: its address / 4096."""
        self._registers.queue_address.write(pfn)

    def notify_queue(self, queue_index: int) -> None:
        """Tells the device that the queue has new buffers."""
        # Straight to the port: this is the only register of the hot path.
        self.ports.write16(Regs.QUEUE_NOTIFY, queue_index)

    def read_status(self) -> int:
        """Reads the device status."""
        return self._registers.device_status.read()

    def write_status(self, status: int) -> None:
        """Writes the device status."""
        self._registers.device_status.write(int(status))

    def read_isr(self) -> int:
        """Reads the interrupt status, which clears it."""
        return self._registers.isr_status.read()

    def read_device_config_u8(self, offset: int) -> int:
        """Reads a byte of the device configuration."""
        return self.read8(self.config_base + offset)

    def read_device_config_u32(self, offset: int) -> int:
        """Reads 32 bits of the device configuration."""
        return self.read32(self.config_base + offset)

    def read_device_config_u64(self, offset: int) -> int:
        """Reads 64 bits of the device configuration: two accesses of 32 bits, the low half first.

        The device may change the value in between, so read it until it stays the same.
        """
        return self.ports.read64_lo_hi(self.config_base + offset)

    # --- Initialisation -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Writes 0 to the status. `PciLegacyTransport.reset` also waits for it to show."""
        self.write_status(0)

    def begin_init(self) -> None:
        """Reset, ACKNOWLEDGE, and ACKNOWLEDGE with DRIVER: three writes."""
        self.reset()
        self.write_status(DeviceStatus.ACKNOWLEDGE)
        self.write_status(DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER)

    def set_features_ok(self) -> bool:
        """Add FEATURES_OK to the status and read it back; False when the device refused the features.

        Seed 003 has it. A legacy device does not know the bit, and its drivers leave it out (VIRTIO 1.4, 3.1.2).
        """
        self.write_status(self.read_status() | DeviceStatus.FEATURES_OK)
        return bool(self.read_status() & DeviceStatus.FEATURES_OK)

    def set_driver_ok(self) -> None:
        """Add DRIVER_OK to the status."""
        self.write_status(self.read_status() | DeviceStatus.DRIVER_OK)

    def set_failed(self) -> None:
        """Add FAILED to the status: the driver has given up on the device."""
        self.write_status(self.read_status() | DeviceStatus.FAILED)

    # --- Ports --------------------------------------------------------------------------------------------------------

    def read8(self, offset: int) -> int:
        return self.ports.read8(offset)

    def write8(self, offset: int, value: int) -> None:
        self.ports.write8(offset, value)

    def read16(self, offset: int) -> int:
        return self.ports.read16(offset)

    def write16(self, offset: int, value: int) -> None:
        self.ports.write16(offset, value)

    def read32(self, offset: int) -> int:
        return self.ports.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        self.ports.write32(offset, value)
