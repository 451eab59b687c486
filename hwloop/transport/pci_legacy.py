"""Virtio over PCI, the legacy interface (VIRTIO 1.4, 4.1.4.10): one block of I/O ports in BAR 0.

It differs from the modern one in more than its registers: 32 features and no FEATURES_OK (3.1.2), the device's own
size of queues and one block of memory a queue, told by its page frame number (2.7.2, 4.1.5.1.3.1), no generation of
the configuration (2.5.4), and fields in the byte order of the machine: little-endian on all that we run on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hwloop.errors import ConfigSpaceMissing, InvalidParam, TransportError
from hwloop.hal.base import Hal
from hwloop.spec import DeviceStatus, InterruptStatus, PhysAddr, is_transitional_pci_id
from hwloop.transport.legacy_block import page_frame_number
from hwloop.transport.pci_common import (
    NO_VECTOR,
    MsixSwitch,
    PciFunctionTransport,
    check_config_field,
    checked_isr,
    checked_status,
    register_takes,
    set_vector,
)
from hwloop.transport.pci_errors import BarNotAllocated, BarOffsetOutOfRange, InvalidDeviceId, VirtioPciError
from hwloop.transport.pci_registers import LegacyRegisters, Regs, VectorRegisters, VirtioPciTransport
from hwloop.transport.register_value import CLEARS, RegisterValue, read_block
from mmio import read_exact, write_exact
from pci import BarInfo, Command, ConfigSpace, IoBar

# QEMU ignores the selection of a queue that it cannot have, and would show the one that was selected before.
_MOST_QUEUES = 1024
_OF_A_QUEUE = ("queue_address", "queue_size")


class PciLegacyTransport(PciFunctionTransport):
    """Legacy PCI transport for VirtIO.

    `config` is the function's configuration space and `bars` what it decodes; `hal` reaches the ports. Constructing it
    turns on I/O decoding and nothing else. Raises VirtioPciError for a function that has no legacy interface,
    Unsupported where the HAL reaches no ports.
    """

    name = "pci-legacy"
    has_config_generation = False
    fixed_queue_size = True

    def __init__(self, hal: Hal, config: ConfigSpace, bars: Mapping[int, BarInfo]) -> None:
        super().__init__(config)
        _check_transitional(config)
        self._msix = MsixSwitch(config)
        bar = _legacy_bar(bars, VectorRegisters.span if self._msix.offset is not None else LegacyRegisters.span)
        config.set_command_bits(Command.IO_SPACE, Command(0))
        self.registers = VirtioPciTransport.new(hal, bar.address, bar.size)
        self._in_use: set[int] = set()

    # --- Features and status ------------------------------------------------------------------------------------------

    def read_device_features(self) -> int:
        """Reads the offered features: 32, since this interface has no more."""
        return self.registers.read_device_features()

    def write_driver_features(self, driver_features: int) -> None:
        """Raises InvalidParam for a feature above bit 31, which this interface cannot accept."""
        if driver_features >> 32:
            raise InvalidParam(f"a legacy interface has features 0 to 31, so it cannot accept {driver_features:#x}")
        self.registers.write_guest_features(driver_features)

    def get_status(self) -> DeviceStatus:
        """Raises DeviceLost when the function does not answer any more."""
        return checked_status(self.registers.read_status())

    def set_status(self, status: DeviceStatus) -> None:
        self.registers.write_status(int(status))

    def requires_legacy_layout(self) -> bool:
        return True

    # --- Queues -------------------------------------------------------------------------------------------------------

    def max_queue_size(self, queue: int) -> int:
        """The size of the queue, which the device fixes; 0 when there is no such queue."""
        if not 0 <= queue < _MOST_QUEUES:
            return 0
        self.registers.select_queue(queue)
        return self.registers.read_queue_size()

    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        """The areas must be where the legacy layout has them in one block of memory (VIRTIO 1.4, 2.7.2).

        Raises InvalidParam for another size or layout, DmaError for a block that cannot be told to the device,
        TransportError when the device does not take the vector or the queue.
        """
        pfn = page_frame_number(queue, size, descriptors, driver_area, device_area)
        found = self.max_queue_size(queue)
        if found != size:
            why = f"the device has fixed it at {found}" if found else "the device has no such queue"
            raise InvalidParam(f"queue {queue} cannot have {size} descriptors: {why}")
        self._set_queue_vector(queue)
        self.registers.write_queue_address(pfn)
        if (shown := self.registers.read_queue_address()) != pfn:
            raise TransportError(
                f"queue {queue} did not take the page frame number {pfn:#x}; it shows {shown:#x}",
                section="4.1.5.1.3.1",
            )
        self._in_use.add(queue)

    def queue_unset(self, queue: int) -> None:
        """Takes the queue's memory from the device. QEMU resets the whole device then, so do it with the last one."""
        self._in_use.discard(queue)
        if self.max_queue_size(queue):
            self.registers.write_queue_address(0)

    def queue_used(self, queue: int) -> bool:
        return bool(self.max_queue_size(queue)) and self.registers.read_queue_address() != 0

    def notify(self, queue: int, data: int | None = None) -> None:
        """One 16-bit write of the queue's index. Raises InvalidParam for a queue not set up."""
        if queue not in self._in_use:
            raise InvalidParam(f"queue {queue} is not set up, so it cannot be notified")
        self.registers.notify_queue(queue)

    # --- Interrupts and configuration ---------------------------------------------------------------------------------

    def set_config_vector(self) -> None:
        if self.config_vector is not None:
            self._require_msix("the configuration")
            set_vector(self.registers.vectors.config_vector, self.config_vector, "the configuration")

    def takes_vector(self, queue: int | None, vector: int) -> bool:
        """Raises InvalidParam while MSI-X is off: the registers are not there then."""
        self._require_msix("the configuration" if queue is None else f"queue {queue}")
        if queue is None:
            return register_takes(self.registers.vectors.config_vector, vector)
        self.registers.select_queue(queue)
        return register_takes(self.registers.vectors.queue_vector, vector)

    def ack_interrupt(self) -> InterruptStatus:
        """Raises DeviceLost when the function does not answer any more."""
        return checked_isr(self.registers.read_isr())

    def read_config_generation(self) -> int:
        """Always 0: this interface has none, and `read_consistent` reads twice."""
        return 0

    def read_config_space(self, offset: int, width: int) -> int:
        registers = self._config_window(offset, width)
        if width == 8:
            return registers.read_device_config_u64(offset)
        return read_exact(registers.ports, registers.config_base + offset, width)

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        registers = self._config_window(offset, width)
        if width == 8:
            registers.ports.write64_lo_hi(registers.config_base + offset, value)
        else:
            write_exact(registers.ports, registers.config_base + offset, width, value)

    def read_registers(self) -> Iterator[RegisterValue]:
        """The general header, and the vectors while MSI-X is on."""
        header = self.registers.header
        yield from read_block(header, "device", leave_out=(*_OF_A_QUEUE, "queue_select", "isr_status"))
        yield RegisterValue("device", "isr_status", Regs.ISR_STATUS, 1, None, CLEARS)
        vectors = self._msix.read_enabled()
        if vectors:
            yield from read_block(self.registers.vectors, "device", only=("config_vector",))
        for queue in self._existing_queues():
            yield from read_block(header, f"queue {queue}", only=_OF_A_QUEUE)
            if vectors:
                yield from read_block(self.registers.vectors, f"queue {queue}", only=("queue_vector",))

    def close(self) -> None:
        self._in_use.clear()
        self.registers.close()

    # --- Private ------------------------------------------------------------------------------------------------------

    def _set_queue_vector(self, queue: int) -> None:
        """The register is there only while MSI-X is on; configuration lies in its place otherwise (4.1.4.10)."""
        vector = self.queue_vectors.get(queue, NO_VECTOR)
        if vector != NO_VECTOR:
            self._require_msix(f"queue {queue}")
        if self._msix.read_enabled():
            set_vector(self.registers.vectors.queue_vector, vector, f"queue {queue}")

    def _require_msix(self, event: str) -> None:
        if not self._msix.read_enabled():
            raise InvalidParam(
                f"{event} cannot have an MSI-X vector while MSI-X is off", remedy="open the vector's interrupt first"
            )

    def _config_window(self, offset: int, width: int) -> VirtioPciTransport:
        """The registers, told where the configuration lies at this moment. How long it is, nobody knows: it ends with
        the BAR at the latest."""
        registers = self.registers
        registers.config_base = Regs.DEVICE_CONFIG_MSIX if self._msix.read_enabled() else Regs.DEVICE_CONFIG
        size = registers.ports.size - registers.config_base
        if size <= 0:
            raise ConfigSpaceMissing("the device has no configuration space of its own", section="4.1.4.10")
        check_config_field(offset, width, size)
        return registers


def _check_transitional(config: ConfigSpace) -> None:
    info = config.read_info()
    if not is_transitional_pci_id(info.device_id):
        raise InvalidDeviceId(
            f"{info.vendor_id:04x}:{info.device_id:04x} has no legacy interface: ids from 0x1040 on are modern only",
            section="4.1.2.1",
        )
    if info.revision:
        raise VirtioPciError(f"the function has revision {info.revision}; a legacy one has 0", section="4.1.2.3")


def _legacy_bar(bars: Mapping[int, BarInfo], least: int) -> IoBar:
    bar = bars.get(0)
    if bar is None:
        raise _no_registers(BarNotAllocated, "the function has no BAR 0")
    if not isinstance(bar, IoBar):
        raise _no_registers(VirtioPciError, "BAR 0 is a memory BAR")
    if not bar.address:
        raise _no_registers(BarNotAllocated, "BAR 0 has no I/O ports assigned")
    if bar.size < least:
        fault = f"BAR 0 has {bar.size} bytes, less than the {least} of the registers"
        raise _no_registers(BarOffsetOutOfRange, fault)
    return bar


def _no_registers(kind: type[VirtioPciError], fault: str) -> VirtioPciError:
    return kind(f"there is no legacy interface: {fault}", section="4.1.4.10", remedy="use the modern interface")
