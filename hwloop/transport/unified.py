"""One set of steps over the registers of either bus, as seed 003 has it: `VirtioTransport`, which is `Pci` or `Mmio`.

These are bare register accesses for somebody who brings up a device by hand, and they show what the two buses do not
share: a step that a bus does not have does nothing there. `Transport` is what drivers use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from hwloop.transport.mmio_registers import VirtioMmioTransport
from hwloop.transport.pci_registers import VirtioPciTransport


@dataclass(frozen=True)
class VirtioTransport(ABC):
    """The registers of a virtio device, on whichever bus. Copies reach the same registers."""

    registers: VirtioPciTransport | VirtioMmioTransport

    def begin_init(self) -> None:
        """Reset, ACKNOWLEDGE, and ACKNOWLEDGE with DRIVER: three writes of the status."""
        self.registers.begin_init()

    def read_device_features(self) -> int:
        """Reads the offered feature bits 0 to 31."""
        return self.registers.read_device_features()

    @abstractmethod
    def write_guest_features(self, features: int) -> None:
        """Writes the accepted feature bits 0 to 31."""

    def set_features_ok(self) -> bool:
        """Add FEATURES_OK to the status and read it back; False: the device refused, and initialisation ends."""
        return self.registers.set_features_ok()

    def select_queue(self, index: int) -> None:
        """Selects a queue."""
        self.registers.select_queue(index)

    @abstractmethod
    def read_queue_size(self) -> int:
        """Reads the size of the selected queue, or on MMIO the largest that it may have; 0 when there is none."""

    @abstractmethod
    def write_queue_size(self, size: int) -> None:
        """Sets the size of the selected queue. PCI: nothing, the device has set it. (Seed 003 leaves this out.)"""

    @abstractmethod
    def write_queue_address(self, pfn: int) -> None:
        """Sets the page frame number of the selected queue. MMIO: nothing, see `write_queue_phys`."""

    @abstractmethod
    def write_queue_phys(self, desc: int, avail: int, used: int) -> None:
        """Sets the addresses of the selected queue's three areas. PCI: nothing, the page frame number tells them."""

    @abstractmethod
    def set_queue_ready(self) -> None:
        """Lets the device use the selected queue. PCI: nothing, the page frame number does that."""

    def set_driver_ok(self) -> None:
        """Add DRIVER_OK to the status."""
        self.registers.set_driver_ok()

    def notify_queue(self, index: int) -> None:
        """Tells the device that the queue has new buffers."""
        self.registers.notify_queue(index)

    @abstractmethod
    def read_device_config_u64(self, offset: int) -> int:
        """Reads 64 bits of the device configuration: two accesses of 32 bits, the low half first."""


@dataclass(frozen=True)
class Pci(VirtioTransport):
    """Over the legacy registers of a PCI function."""

    registers: VirtioPciTransport

    def write_guest_features(self, features: int) -> None:
        self.registers.write_guest_features(features)

    def read_queue_size(self) -> int:
        return self.registers.read_queue_size()

    def write_queue_size(self, size: int) -> None:
        pass

    def write_queue_address(self, pfn: int) -> None:
        self.registers.write_queue_address(pfn)

    def write_queue_phys(self, desc: int, avail: int, used: int) -> None:
        pass

    def set_queue_ready(self) -> None:
        pass

    def read_device_config_u64(self, offset: int) -> int:
        return self.registers.read_device_config_u64(offset)


@dataclass(frozen=True)
class Mmio(VirtioTransport):
    """Over the registers of a virtio-mmio device of version 2."""

    registers: VirtioMmioTransport

    def write_guest_features(self, features: int) -> None:
        self.registers.write_driver_features(features)

    def read_queue_size(self) -> int:
        return self.registers.read_queue_size_max()

    def write_queue_size(self, size: int) -> None:
        self.registers.write_queue_size(size)

    def write_queue_address(self, pfn: int) -> None:
        pass

    def write_queue_phys(self, desc: int, avail: int, used: int) -> None:
        self.registers.write_queue_phys(desc, avail, used)

    def set_queue_ready(self) -> None:
        self.registers.set_queue_ready()

    def read_device_config_u64(self, offset: int) -> int:
        return self.registers.read_config_u64(offset)
