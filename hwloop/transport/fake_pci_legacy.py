"""A legacy PCI function in process: the I/O ports of BAR 0 in front of a `FakeDevice`.

What is checked in the access itself, beside what the device behind it checks:

    PCI 3.0, 6.2.2          no access with I/O decoding off
    4.1.4.10                each register with its own width; what is read-only is never written; nothing behind the BAR
    4.1.4.10                vectors at 0x14 and 0x16 while MSI-X is on, and the configuration behind them; at 0x14 else
    4.1.5.1.3.1             a queue is set up once, by a page frame number that is not 0, with the size it has
    2.7.2                   the block at that page is memory of the driver's, for all of its three areas
    2.2.3, 4.1.4.10         one interface at a time: the other one only after a reset
    3.1.2                   no FEATURES_OK; features between DRIVER and DRIVER_OK; queues before DRIVER_OK
    6.3                     ANY_LAYOUT is accepted where it is offered, bit 30 never
    4.1.5.2                 a notification names a queue that there is, in 16 bits
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cython_ring import split_layout
from hwloop.spec import PAGE_SIZE, DeviceStatus, Feature
from hwloop.transport.fake_device import FakeDevice, FakeQueue, RuleBroken
from hwloop.transport.fake_pci_config import FakeConfig, FakeMsix, shown, transitional_config
from mmio import FakeRegion
from pci import BarInfo, Command, IoBar

PORT = 0xC000
_HEADER = 0x14
_HEADER_WITH_VECTORS = 0x18
_STATUS = 0x12


@dataclass(frozen=True)
class _Register:
    """A register of the header; `read` or `write` None: only the other one is allowed."""

    name: str
    width: int
    read: Callable[[], int] | None
    write: Callable[[int], None] | None = None


class LegacyBank:
    """The ports of `device`: `region` is the BAR, `bar` says where it is. `config` and `msix` are the function's."""

    def __init__(self, device: FakeDevice, config: FakeConfig, msix: FakeMsix) -> None:
        self.device = device
        self._config = config
        self._msix = msix
        self._queue = 0
        size = 1 << (_HEADER_WITH_VECTORS + len(device.config) - 1).bit_length()
        self.bar = IoBar(0, PORT, size)
        self.region = FakeRegion(size, on_read=self._read, on_write=self._write)
        self._header = self._registers()
        self._vectors = self._vector_registers()

    def _registers(self) -> dict[int, _Register]:
        """By offset (VIRTIO 1.4, 4.1.4.10)."""
        register, device = _Register, self.device
        return {
            0x00: register("device_features", 4, lambda: device.offered),
            0x04: register("guest_features", 4, lambda: device.driver_features, self._write_features),
            0x08: register("queue_address", 4, self._read_pfn, self._write_pfn),
            0x0C: register("queue_size", 2, lambda: self._state.max_size),
            0x0E: register("queue_select", 2, lambda: self._queue, self._select),
            0x10: register("queue_notify", 2, None, self._notify),
            0x12: register("device_status", 1, device.read_status, device.write_status),
            0x13: register("isr_status", 1, self._read_isr),
        }

    def _vector_registers(self) -> dict[int, _Register]:
        return {
            0x14: _Register("config_vector", 2, lambda: shown(self.device.config_vector), self._write_config_vector),
            0x16: _Register("queue_vector", 2, lambda: shown(self._state.vector), self._write_queue_vector),
        }

    # --- The BAR ------------------------------------------------------------------------------------------------------

    def _read(self, offset: int, width: int) -> int:
        if self.device.faults.gone:
            return (1 << 8 * width) - 1
        self._check_access(offset, width, "read")
        register = self._register(offset, width)
        if register is None:
            return self.device.read_config(offset - self._config_base, width)
        if register.read is None:
            raise RuleBroken(f"{register.name} is write-only and was read (4.1.4.10)")
        return register.read()

    def _write(self, offset: int, width: int, value: int) -> None:
        if self.device.faults.gone:
            return
        self._check_access(offset, width, "written", value)
        register = self._register(offset, width)
        if register is None:
            self._write_config(offset - self._config_base, width, value)
        elif register.write is None:
            raise RuleBroken(f"{register.name} is read-only and was written (4.1.4.10)")
        else:
            register.write(value)

    def _check_access(self, offset: int, width: int, verb: str, value: int | None = None) -> None:
        if not self._config.command & Command.IO_SPACE:
            raise RuleBroken(f"port {offset:#x} was {verb} while I/O decoding is off (PCI 3.0, 6.2.2)")
        if self.device.is_resetting and (offset, width) != (_STATUS, 1):
            raise RuleBroken(f"port {offset:#x} was {verb} while the device was being reset (4.1.4.3.2)")
        take_interface(self.device, legacy=True, resets=offset == _STATUS and not value)

    def _register(self, offset: int, width: int) -> _Register | None:
        """The register there; None: the device's own configuration."""
        if offset >= self._config_base:
            return None
        register = (self._header | self._vectors).get(offset)
        if register is None or register.width != width:
            raise RuleBroken(f"{width} bytes at {offset:#x} of the legacy header are no register (4.1.4.10)")
        return register

    @property
    def _config_base(self) -> int:
        return _HEADER_WITH_VECTORS if self._msix.enabled else _HEADER

    def _write_config(self, offset: int, width: int, value: int) -> None:
        if offset + width > len(self.device.config):
            raise RuleBroken(f"{width} bytes were written at {offset:#x}, behind the device's configuration (4.1.4.10)")
        self.device.write_config(offset, width, value)

    # --- The header ---------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> FakeQueue:
        """The selected queue; one that the device does not have shows size 0 (VIRTIO 1.4, 4.1.5.1.3)."""
        queues = self.device.queues
        return queues[self._queue] if self._queue < len(queues) else FakeQueue(0)

    def _select(self, value: int) -> None:
        self._queue = value

    def _write_features(self, value: int) -> None:
        if self.device.offered & ~value & Feature.ANY_LAYOUT:
            raise RuleBroken("ANY_LAYOUT is offered and was not accepted (6.3)")
        if value & Feature.UNUSED:
            raise RuleBroken("feature bit 30 was accepted (6.3)")
        self.device.write_features(value)

    def _read_pfn(self) -> int:
        return self._state.desc // PAGE_SIZE

    def _write_pfn(self, value: int) -> None:
        state = self._state
        if not state.max_size:
            raise RuleBroken(f"queue {self._queue} was given memory; the device has no such queue (4.1.5.1.3)")
        if not value:
            self.device.queues[self._queue] = FakeQueue(state.max_size)
            return
        if state.desc:
            raise RuleBroken(f"queue {self._queue} was given memory while it is in use (4.1.5.1.3.1)")
        layout = split_layout(state.max_size, align=PAGE_SIZE)
        state.size, state.desc = state.max_size, value * PAGE_SIZE
        state.driver, state.device = state.desc + layout.avail_offset, state.desc + layout.used_offset
        self.device.enable(self._queue)

    def _notify(self, value: int) -> None:
        if value >= len(self.device.queues):
            raise RuleBroken(f"queue {value} was notified; there are {len(self.device.queues)} (4.1.5.2)")
        self.device.notify(value)

    def _read_isr(self) -> int:
        causes = self.device.interrupt_status
        self.device.acknowledge(causes)
        return int(causes)

    def _write_config_vector(self, value: int) -> None:
        self.device.config_vector = self._msix.vector(value)

    def _write_queue_vector(self, value: int) -> None:
        if not self._state.max_size:
            raise RuleBroken(f"queue {self._queue} was given a vector; the device has no such queue (4.1.5.1.2)")
        self._state.vector = self._msix.vector(value)


class FakePciLegacyFunction:
    """`device` as a function with nothing but the legacy interface; `msix_vectors` 0: without MSI-X.

    `config` is its configuration space and `bars` what it decodes. Give `{function.port: function.ports}` to a
    `FakeHal` as its `ports`.
    """

    def __init__(self, device: FakeDevice, *, msix_vectors: int = 0) -> None:
        self.device = device
        device.legacy = True
        self.config = transitional_config(device)
        self.msix = FakeMsix(device, self.config, msix_vectors)
        self.bank = LegacyBank(device, self.config, self.msix)
        self.port, self.ports = self.bank.bar.address, self.bank.region
        self.config.declare_bar(self.bank.bar)
        self.bars: dict[int, BarInfo] = {0: self.bank.bar} | ({1: self.msix.bar} if msix_vectors else {})


def take_interface(device: FakeDevice, *, legacy: bool, resets: bool) -> None:
    """The driver uses one of the two interfaces of a transitional device. `resets`: with an access that reads the
    status or resets, which is all that is allowed while the other one is in use (VIRTIO 1.4, 2.2.3, 4.1.4.10)."""
    if device.legacy == legacy:
        return
    if device.status == DeviceStatus(0) and not device.is_resetting:
        device.legacy = legacy
    elif not resets:
        other = "modern" if legacy else "legacy"
        raise RuleBroken(f"a register was used while the device is driven through its {other} interface (2.2.3)")
