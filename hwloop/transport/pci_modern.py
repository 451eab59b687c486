"""Virtio over PCI, the modern interface (VIRTIO 1.4, 4.1): structures in memory BARs, found through capabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from cython_ring import Doorbell
from hwloop.deadline import RESET_SECONDS, wait_until
from hwloop.errors import ConfigSpaceMissing, InvalidParam, TransportError
from hwloop.hal.base import Hal
from hwloop.spec import DeviceStatus, Feature, InterruptStatus, PhysAddr
from hwloop.transport.mapped_doorbell import mapped_doorbell
from hwloop.transport.pci_capability import CfgType, VirtioCapability, choose, require, virtio_capabilities
from hwloop.transport.pci_common import (
    NO_VECTOR,
    PciFunctionTransport,
    check_config_field,
    checked_isr,
    checked_status,
    register_takes,
    set_vector,
)
from hwloop.transport.pci_errors import Pci
from hwloop.transport.register_value import CLEARS, RegisterValue, read_block
from mmio import (
    ReadOnly8,
    ReadOnly16,
    ReadOnly32,
    ReadWrite8,
    ReadWrite16,
    ReadWrite32,
    ReadWrite64LoHi,
    Region,
    RegisterBlock,
    read_exact,
    write_exact,
)
from pci import BarInfo, CapabilityError, Command, ConfigSpace


class CommonConfig(RegisterBlock):
    """struct virtio_pci_common_cfg, up to what every version has (VIRTIO 1.4, 4.1.4.3)."""

    device_feature_select = ReadWrite32(0x00)
    device_feature = ReadOnly32(0x04)
    driver_feature_select = ReadWrite32(0x08)
    driver_feature = ReadWrite32(0x0C)
    config_msix_vector = ReadWrite16(0x10)
    num_queues = ReadOnly16(0x12)
    device_status = ReadWrite8(0x14)
    config_generation = ReadOnly8(0x15)
    queue_select = ReadWrite16(0x16)
    queue_size = ReadWrite16(0x18)
    queue_msix_vector = ReadWrite16(0x1A)
    queue_enable = ReadWrite16(0x1C)
    queue_notify_off = ReadOnly16(0x1E)
    queue_desc = ReadWrite64LoHi(0x20)
    queue_driver = ReadWrite64LoHi(0x28)
    queue_device = ReadWrite64LoHi(0x30)


class QueueResetConfig(RegisterBlock):
    """The part that VIRTIO 1.2 added; there only when the structure is long enough."""

    queue_notif_config_data = ReadOnly16(0x38)
    queue_reset = ReadWrite16(0x3A)


_SELECTORS = ("device_feature_select", "driver_feature_select", "queue_select")
_WORDS = ("device_feature", "driver_feature")
_OF_A_QUEUE = tuple(
    register.name
    for register in CommonConfig.registers()
    if register.name.startswith("queue_") and register.name not in _SELECTORS
)


class IsrStatus(RegisterBlock):
    """The ISR status byte; reading it clears it (VIRTIO 1.4, 4.1.4.5)."""

    isr_status = ReadOnly8(0x00)


@dataclass(frozen=True)
class PciStructures:
    """Where the structures of one function are."""

    common: VirtioCapability
    notify: VirtioCapability
    isr: VirtioCapability
    device: VirtioCapability | None

    @classmethod
    def find(cls, config: ConfigSpace, bars: Mapping[int, BarInfo]) -> PciStructures:
        """Raises VirtioPciError when one that must be there is missing or unusable."""
        try:
            found = list(virtio_capabilities(config))
        except CapabilityError as error:
            raise Pci(str(error), section="4.1.4") from error
        return cls(
            common=require(found, bars, CfgType.COMMON_CFG),
            notify=require(found, bars, CfgType.NOTIFY_CFG),
            isr=require(found, bars, CfgType.ISR_CFG),
            device=choose(found, bars, CfgType.DEVICE_CFG),
        )


class PciTransport(PciFunctionTransport):
    """PCI transport for VirtIO.

    `config` is the function's configuration space and `bars` what it decodes; `hal` maps the registers. Constructing
    it turns on memory decoding and nothing else. Raises TransportError for a function that is not a usable virtio
    device.
    """

    name = "pci"

    def __init__(self, hal: Hal, config: ConfigSpace, bars: Mapping[int, BarInfo]) -> None:
        super().__init__(config)
        self.structures = PciStructures.find(config, bars)
        config.set_command_bits(Command.MEMORY_SPACE, Command(0))
        self._bars = bars
        self._hal = hal
        self._doorbells: dict[int, Region] = {}
        # Until the end: a queue that is reset and set up again has its register where loops know it to be.
        self._mapped: dict[tuple[int, int], Region] = {}
        with ExitStack() as stack:
            self._resources = stack
            common = self._map(self.structures.common)
            self._common = CommonConfig(common)
            self._queue_reset = QueueResetConfig(common) if common.size >= QueueResetConfig.span else None
            self._isr = IsrStatus(self._map(self.structures.isr))
            device = self.structures.device
            self._device = self._map(device) if device else None
            self._resources = stack.pop_all()

    # --- Features and status ------------------------------------------------------------------------------------------

    def read_device_features(self) -> int:
        words = []
        for word in (0, 1):
            self._common.device_feature_select.write(word)
            words.append(self._common.device_feature.read())
        offered = words[0] | words[1] << 32
        # What there is no register for cannot be used.
        return offered if self._queue_reset is not None else offered & ~Feature.RING_RESET

    def write_driver_features(self, driver_features: int) -> None:
        for word in (0, 1):
            self._common.driver_feature_select.write(word)
            self._common.driver_feature.write(driver_features >> 32 * word & 0xFFFF_FFFF)

    def get_status(self) -> DeviceStatus:
        """Raises DeviceLost when the function does not answer any more."""
        return checked_status(self._common.device_status.read())

    def set_status(self, status: DeviceStatus) -> None:
        self._common.device_status.write(int(status))

    def requires_legacy_layout(self) -> bool:
        return False

    # --- Queues -------------------------------------------------------------------------------------------------------

    def read_num_queues(self) -> int:
        """How many queues the device has, administration queues left out."""
        return self._common.num_queues.read()

    def max_queue_size(self, queue: int) -> int:
        if not self._select(queue):
            return 0
        return self._common.queue_size.read()

    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        """Raises TransportError when the device does not take the size, the vector or the queue (VIRTIO 1.4,
        4.1.5.1.3)."""
        self._require(queue)
        common = self._common
        common.queue_size.write(size)
        if common.queue_size.read() != size:
            raise TransportError(f"queue {queue} did not take the size {size}", section="4.1.5.1.3")
        set_vector(common.queue_msix_vector, self.queue_vectors.get(queue, NO_VECTOR), f"queue {queue}")
        common.queue_desc.write(descriptors)
        common.queue_driver.write(driver_area)
        common.queue_device.write(device_area)
        self._doorbells[queue] = self._map_doorbell(queue)
        common.queue_enable.write(1)
        if common.queue_enable.read() != 1:
            raise TransportError(f"queue {queue} did not become enabled", section="4.1.5.1.3")

    def queue_unset(self, queue: int) -> None:
        """Resets the queue when RING_RESET was negotiated; otherwise only a device reset stops it, since a driver must
        not write 0 to queue_enable (VIRTIO 1.4, 4.1.4.3.2)."""
        if self.negotiated & Feature.RING_RESET and self._queue_reset is not None:
            registers = self._queue_reset
            self._require(queue)
            registers.queue_reset.write(1)
            wait_until(
                lambda: registers.queue_reset.read() == 0,
                f"queue {queue} to finish its reset",
                RESET_SECONDS,
                section="4.1.4.3.2",
            )
        self._doorbells.pop(queue, None)

    def queue_used(self, queue: int) -> bool:
        return self._select(queue) and self._common.queue_enable.read() == 1

    def notify(self, queue: int, data: int | None = None) -> None:
        """One 16-bit write of the queue's index, or one of 32 bits of `data` (VIRTIO 1.4, 4.1.5.2).

        Raises InvalidParam for a queue not set up.
        """
        doorbell = self._doorbells.get(queue)
        if doorbell is None:
            raise InvalidParam(f"queue {queue} is not set up, so it cannot be notified")
        if data is None:
            doorbell.write16(0, queue)
        else:
            doorbell.write32(0, data)

    def doorbell(self, queue: int) -> Doorbell | None:
        """None where the register is not mapped, as in a guest that is only reached over a socket."""
        region = self._doorbells.get(queue)
        return mapped_doorbell(region, queue, self.negotiated, width=2) if region is not None else None

    # --- Interrupts and configuration ---------------------------------------------------------------------------------

    def set_config_vector(self) -> None:
        if self.config_vector is not None:
            set_vector(self._common.config_msix_vector, self.config_vector, "the configuration")

    def takes_vector(self, queue: int | None, vector: int) -> bool:
        if queue is None:
            return register_takes(self._common.config_msix_vector, vector)
        self._require(queue)
        return register_takes(self._common.queue_msix_vector, vector)

    def ack_interrupt(self) -> InterruptStatus:
        """Raises DeviceLost when the function does not answer any more."""
        return checked_isr(self._isr.isr_status.read())

    def read_config_generation(self) -> int:
        return self._common.config_generation.read()

    def read_config_space(self, offset: int, width: int) -> int:
        device = self._config_window(offset, width)
        if width == 8:
            return device.read64_lo_hi(offset)
        return read_exact(device, offset, width)

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        device = self._config_window(offset, width)
        if width == 8:
            device.write64_lo_hi(offset, value)
        else:
            write_exact(device, offset, width, value)

    def read_registers(self) -> Iterator[RegisterValue]:
        """COMMON_CFG, word by word and queue by queue, and where the others are."""
        common = self._common
        yield from read_block(common, "device", leave_out=(*_WORDS, *_SELECTORS, *_OF_A_QUEUE))
        for word in (0, 1):
            common.device_feature_select.write(word)
            common.driver_feature_select.write(word)
            for value in read_block(common, "device", only=_WORDS):
                yield replace(value, name=f"{value.name}[{word}]")
        yield RegisterValue("device", "isr_status", 0, 1, None, CLEARS)
        for queue in range(self.read_num_queues()):
            self._select(queue)
            yield from read_block(common, f"queue {queue}", only=_OF_A_QUEUE)
            if self._queue_reset is not None:
                yield from read_block(self._queue_reset, f"queue {queue}")

    def close(self) -> None:
        self._doorbells.clear()
        while self._mapped:
            self._mapped.popitem()[1].close()
        self._resources.close()

    # --- Private ------------------------------------------------------------------------------------------------------

    def _map(self, capability: VirtioCapability) -> Region:
        address = self._bars[capability.bar].address + capability.offset
        region = self._hal.mmio_phys_to_virt(PhysAddr(address), capability.length)
        self._resources.callback(region.close)
        return region

    def _map_doorbell(self, queue: int) -> Region:
        """The notification register of the selected queue (VIRTIO 1.4, 4.1.4.4)."""
        notify = self.structures.notify
        offset = self._common.queue_notify_off.read() * notify.multiplier
        width = 4 if self.negotiated & Feature.NOTIFICATION_DATA else 2
        if offset + width > notify.length:
            raise TransportError(
                f"queue {queue} is notified at {offset:#x}, behind the end of the notification structure "
                f"({notify.length:#x})",
                section="4.1.4.4",
            )
        base = self._bars[notify.bar].address + notify.offset
        if (queue, width) not in self._mapped:
            place = PhysAddr(base + offset)
            self._mapped[queue, width] = self._hal.mmio_phys_to_virt(place, width, hot=True)
        return self._mapped[queue, width]

    def _select(self, queue: int) -> bool:
        """Point the per-queue registers at a queue. False when the device has fewer queues."""
        if not 0 <= queue < self.read_num_queues():
            return False
        self._common.queue_select.write(queue)
        return True

    def _require(self, queue: int) -> None:
        if not self._select(queue):
            raise InvalidParam(f"the device has no queue {queue}; it has {self.read_num_queues()}")

    def _config_window(self, offset: int, width: int) -> Region:
        if self._device is None:
            raise ConfigSpaceMissing("the device has no configuration space of its own", section="4.1.4.6")
        check_config_field(offset, width, self._device.size)
        return self._device
