"""A PCI function in process: the registers of the modern interface in front of a `FakeDevice`.

As strict as the device behind it. Every access must be one that the specification allows: the natural width of the
field (VIRTIO 1.4, 4.1.3.1), no write to what is read-only (4.1.4.3.2), a notification of the right width and value at
the right place (4.1.5.2), nothing but the status while a reset is under way, nothing at all with memory decoding off.
What is not allowed raises `RuleBroken` in the access itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwloop.spec import Feature, InterruptStatus
from hwloop.transport.fake_device import FakeDevice, FakeQueue, RuleBroken
from hwloop.transport.fake_pci_config import FakeMsix, modern_config, shown, transitional_config
from hwloop.transport.fake_pci_legacy import LegacyBank, take_interface
from hwloop.transport.pci_capability import VENDOR_SPECIFIC, CfgType
from mmio import FakeRegion
from pci import BarInfo, Command, MemoryBar, MemoryBarType

BAR_INDEX = 4
BAR_SIZE = 0x4000
BAR_ADDRESS = 0x38_0000_0000
_STATUS = 0x14


@dataclass(frozen=True)
class Structure:
    """One structure of the function: its place in the BAR and its length, both in bytes."""

    cfg_type: CfgType
    offset: int
    length: int
    read: Callable[[int, int], int]
    write: Callable[[int, int, int], None]


@dataclass(frozen=True)
class _Register:
    """A field of the common configuration; `write` None: read-only."""

    name: str
    width: int
    read: Callable[[], int]
    write: Callable[[int], None] | None = None


class FakePciFunction:
    """`device` as a PCI function: `config` is its configuration space, `bars` what it decodes, `region` its one BAR.

    `common_length` is 56 (VIRTIO 1.0 and 1.1) or 64 (later); `multiplier` is notify_off_multiplier; `msix_vectors` 0:
    without MSI-X. A `transitional` function has the legacy interface as well, in I/O ports: `{port: ports}`. Give
    `{function.address: function.region}` to a `FakeHal`.
    """

    def __init__(
        self,
        device: FakeDevice,
        *,
        common_length: int = 64,
        multiplier: int = 4,
        msix_vectors: int = 0,
        transitional: bool = False,
    ) -> None:
        self.device = device
        self.multiplier = multiplier
        self.address = BAR_ADDRESS
        self.region = FakeRegion(BAR_SIZE, on_read=self._read, on_write=self._write)
        self._device_word = self._driver_word = self._queue = 0
        self._common = {at: field for at, field in self._fields().items() if at < common_length}
        self.structures = self._lay_out(common_length)
        self.config = transitional_config(device) if transitional else modern_config(device)
        self.msix = FakeMsix(device, self.config, msix_vectors)
        self.bars: dict[int, BarInfo] = {
            BAR_INDEX: MemoryBar(BAR_INDEX, MemoryBarType.Width64, True, BAR_ADDRESS, BAR_SIZE)
        }
        if msix_vectors:
            self.bars[self.msix.bar.index] = self.msix.bar
        if transitional:
            self._add_legacy_interface()
        self.config.declare_bar(self.bars[BAR_INDEX])
        self._declare_capabilities()

    def _add_legacy_interface(self) -> None:
        bank = LegacyBank(self.device, self.config, self.msix)
        self.port, self.ports = bank.bar.address, bank.region
        self.bars[0] = bank.bar
        self.config.declare_bar(bank.bar)

    @property
    def isr(self) -> int:
        """What the next read of the ISR status returns, and clears."""
        return int(self.device.interrupt_status)

    @isr.setter
    def isr(self, causes: int) -> None:
        self.device.interrupt_status = InterruptStatus(causes)

    def _lay_out(self, common_length: int) -> list[Structure]:
        doorbells = max(4, 4 + (len(self.device.queues) - 1) * self.multiplier)
        found = [
            Structure(CfgType.COMMON_CFG, 0x0000, common_length, self._read_common, self._write_common),
            Structure(CfgType.ISR_CFG, 0x1000, 1, self._read_isr, _refuse_write),
            Structure(CfgType.NOTIFY_CFG, 0x3000, doorbells, _refuse_read, self._ring_doorbell),
        ]
        if self.device.config:
            length = len(self.device.config)
            found.append(Structure(CfgType.DEVICE_CFG, 0x2000, length, self._read_device, self._write_device))
        return found

    def _declare_capabilities(self) -> None:
        place = 0x40
        for structure in self.structures:
            body = capability_body(structure.cfg_type, BAR_INDEX, structure.offset, structure.length)
            if structure.cfg_type == CfgType.NOTIFY_CFG:
                body = with_multiplier(body, self.multiplier)
            self.config.declare_capability(place, VENDOR_SPECIFIC, body)
            place += (2 + len(body) + 3) & ~3

    # --- The BAR ------------------------------------------------------------------------------------------------------

    def _read(self, offset: int, width: int) -> int:
        if self.device.faults.gone:
            return (1 << 8 * width) - 1
        take_interface(self.device, legacy=False, resets=offset == _STATUS)
        structure = self._structure_at(offset, width, "read")
        return structure.read(offset - structure.offset, width)

    def _write(self, offset: int, width: int, value: int) -> None:
        if self.device.faults.gone:
            return
        take_interface(self.device, legacy=False, resets=offset == _STATUS and not value)
        structure = self._structure_at(offset, width, "written")
        structure.write(offset - structure.offset, width, value)

    def _structure_at(self, offset: int, width: int, verb: str) -> Structure:
        if not self.config.command & Command.MEMORY_SPACE:
            raise RuleBroken(f"register {offset:#x} was {verb} while memory decoding is off")
        if self.device.is_resetting and (offset, width) != (_STATUS, 1):
            raise RuleBroken(f"register {offset:#x} was {verb} while the device was being reset (4.1.4.3.2)")
        for structure in self.structures:
            if structure.offset <= offset and offset + width <= structure.offset + structure.length:
                return structure
        raise RuleBroken(f"{width} bytes were {verb} at {offset:#x} of the BAR, where no structure is (4.1.4)")

    def _read_isr(self, offset: int, width: int) -> int:
        causes = self.isr
        self.device.acknowledge(causes)
        return causes

    def _read_device(self, offset: int, width: int) -> int:
        _check_natural(offset, width)
        return self.device.read_config(offset, width)

    def _write_device(self, offset: int, width: int, value: int) -> None:
        _check_natural(offset, width)
        self.device.write_config(offset, width, value)

    def _ring_doorbell(self, offset: int, width: int, value: int) -> None:
        """VIRTIO 1.4, 4.1.5.2: 16 bits, the queue's index, at queue_notify_off * notify_off_multiplier; with
        NOTIFICATION_DATA 32."""
        with_data = bool(self.device.driver_features & Feature.NOTIFICATION_DATA)
        if width != (4 if with_data else 2):
            raise RuleBroken(f"a notification of {8 * width} bits, against what was negotiated (4.1.5.2.1)")
        queue = value & 0xFFFF
        if queue >= len(self.device.queues) or offset != queue * self.multiplier:
            raise RuleBroken(f"the notification {value} was written at {offset:#x} (4.1.5.2.1)")
        self.device.notify(queue, value if with_data else None)

    # --- The common configuration -------------------------------------------------------------------------------------

    def _fields(self) -> dict[int, _Register]:
        """By offset (VIRTIO 1.4, 4.1.4.3); 64-bit fields are two of 32 bits, as they are accessed."""
        register, device = _Register, self.device
        fields = {
            0x00: register("device_feature_select", 4, lambda: self._device_word, self._select_device_word),
            0x04: register("device_feature", 4, lambda: self._word(device.features, self._device_word)),
            0x08: register("driver_feature_select", 4, lambda: self._driver_word, self._select_driver_word),
            0x0C: register("driver_feature", 4, self._read_driver_feature, self._write_driver_feature),
            0x10: register("config_msix_vector", 2, lambda: shown(device.config_vector), self._write_config_vector),
            0x12: register("num_queues", 2, lambda: len(device.queues)),
            0x14: register("device_status", 1, device.read_status, device.write_status),
            0x15: register("config_generation", 1, device.read_generation),
            0x16: register("queue_select", 2, lambda: self._queue, self._select_queue),
            0x18: register("queue_size", 2, lambda: self._state.size or self._state.max_size, self._write_size),
            0x1A: register("queue_msix_vector", 2, lambda: shown(self._state.vector), self._write_queue_vector),
            0x1C: register("queue_enable", 2, lambda: int(self._state.enabled), self._write_enable),
            0x1E: register("queue_notify_off", 2, lambda: self._queue),
            0x38: register("queue_notif_config_data", 2, lambda: self._queue),
            0x3A: register("queue_reset", 2, self._read_reset, self._write_reset),
        }
        for offset, area in ((0x20, "desc"), (0x28, "driver"), (0x30, "device")):
            for half in (0, 1):
                fields[offset + 4 * half] = self._half(area, half)
        return fields

    def _half(self, area: str, half: int) -> _Register:
        def write(value: int) -> None:
            self._refuse_enabled(area)
            other = self._word(getattr(self._state, area), 1 - half)
            setattr(self._state, area, value << 32 * half | other << 32 * (1 - half))

        return _Register(f"queue_{area}", 4, lambda: self._word(getattr(self._state, area), half), write)

    def _read_common(self, offset: int, width: int) -> int:
        return self._field(offset, width).read()

    def _write_common(self, offset: int, width: int, value: int) -> None:
        field = self._field(offset, width)
        if field.write is None:
            raise RuleBroken(f"{field.name} is read-only and was written (4.1.4.3.2)")
        field.write(value)

    def _field(self, offset: int, width: int) -> _Register:
        field = self._common.get(offset)
        if field is None or field.width != width:
            raise RuleBroken(f"{width} bytes at {offset:#x} of the common configuration are no field (4.1.3.1)")
        return field

    @property
    def _state(self) -> FakeQueue:
        return self.device.queues[self._queue]

    @staticmethod
    def _word(value: int, word: int) -> int:
        return value >> 32 * word & 0xFFFF_FFFF

    def _select_device_word(self, value: int) -> None:
        self._device_word = value

    def _select_driver_word(self, value: int) -> None:
        self._driver_word = value

    def _read_driver_feature(self) -> int:
        return self._word(self.device.driver_features, self._driver_word)

    def _write_driver_feature(self, value: int) -> None:
        shift = 32 * self._driver_word
        others = self.device.driver_features & ~(0xFFFF_FFFF << shift)
        self.device.write_features(others | value << shift)

    def _write_config_vector(self, value: int) -> None:
        self.device.config_vector = self.msix.vector(value)

    def _write_queue_vector(self, value: int) -> None:
        self._state.vector = self.msix.vector(value)

    def _select_queue(self, value: int) -> None:
        if value >= len(self.device.queues):
            raise RuleBroken(f"queue {value} was selected; there are {len(self.device.queues)}")
        self._queue = value

    def _write_size(self, value: int) -> None:
        self._refuse_enabled("size")
        if not self.device.allows_size(self._state, value):
            raise RuleBroken(f"queue_size {value} was written; the most is {self._state.max_size} (4.1.4.3.2)")
        self._state.size = value

    def _write_enable(self, value: int) -> None:
        if value != 1:
            raise RuleBroken(f"{value} was written to queue_enable (4.1.4.3.2)")
        if not self._state.size:
            # The driver kept the size that it read.
            self._state.size = self._state.max_size
        self.device.enable(self._queue)

    def _write_reset(self, value: int) -> None:
        if value != 1 or not self.device.driver_features & Feature.RING_RESET:
            raise RuleBroken(f"{value} was written to queue_reset (4.1.4.3.2)")
        self.device.reset_queue(self._queue)

    def _read_reset(self) -> int:
        return int(self.device.queue_is_stopping(self._queue))

    def _refuse_enabled(self, area: str) -> None:
        if self._state.enabled:
            raise RuleBroken(f"the {area} of queue {self._queue} was written while it is enabled (4.1.4.3.2)")


def capability_body(cfg_type: int, bar: int, offset: int, length: int, *, cap_len: int = 16) -> bytes:
    """A virtio_pci_cap (VIRTIO 1.4, 4.1.4) from its third byte on, as `declare_capability` wants it."""
    return bytes([cap_len, cfg_type, bar, 0, 0, 0]) + offset.to_bytes(4, "little") + length.to_bytes(4, "little")


def with_multiplier(body: bytes, multiplier: int) -> bytes:
    """The body of a virtio_pci_notify_cap (VIRTIO 1.4, 4.1.4.4)."""
    return bytes([20]) + body[1:] + multiplier.to_bytes(4, "little")


def _check_natural(offset: int, width: int) -> None:
    if width not in (1, 2, 4) or offset % width:
        raise RuleBroken(f"{width} bytes at {offset:#x} of the device configuration in one access (4.1.3.1)")


def _refuse_read(offset: int, width: int) -> int:
    raise RuleBroken(f"the notification structure was read, at {offset:#x}; it is to write (4.1.4.4)")


def _refuse_write(offset: int, width: int, value: int) -> None:
    raise RuleBroken("the ISR status was written; it is to read (4.1.4.5)")
