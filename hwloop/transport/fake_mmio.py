"""A virtio-mmio device in process: the registers of version 1 or 2 in front of a `FakeDevice`.

As strict as the device behind it. Registers take aligned accesses of 32 bits and nothing else, the configuration the
exact width of each field (VIRTIO 1.4, 4.2.2.2); what the version does not have is not there; a word of features and a
queue are selected before they are used; nothing but the status is touched while a reset is under way. What is not
allowed raises `RuleBroken` in the access itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hwloop.config import ConfigStruct
from hwloop.spec import Feature, InterruptStatus
from hwloop.transport.fake_device import FakeDevice, FakeQueue, RuleBroken
from hwloop.transport.mmio_registers import CONFIG_SPACE_OFFSET, MAGIC, SLOT_SIZE, VirtIOHeader
from mmio import FakeRegion

ADDRESS = 0xFEB0_2E00
"""Not at the start of a page: slots are 0x200 apart on QEMU's machines."""
VENDOR_ID = 0x5548_4C57

_NO_REGION = (1 << 64) - 1
_STATUS = VirtIOHeader.status.offset
_DEFINED = InterruptStatus.QUEUE_INTERRUPT | InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT


@dataclass(frozen=True)
class _Register:
    """A register; None for the direction that it does not have."""

    name: str
    read: Callable[[], int] | None = None
    write: Callable[[int], None] | None = None


class FakeMmioDevice:
    """`device` behind the registers of `version` 1 or 2: `region` holds them, for `{fake.address: fake.region}` of a
    `FakeHal`.

    `config` is the structure of the device's configuration: with it the width of each access is that of its field.
    `shared_memory` maps an id to (base, length) in bytes. `magic`, `version` and `device_id` are what the registers of
    those names show, and may be set to anything. `log` names every register that was accessed.
    """

    def __init__(
        self,
        device: FakeDevice,
        version: int,
        *,
        address: int = ADDRESS,
        config: type[ConfigStruct] | None = None,
        shared_memory: dict[int, tuple[int, int]] | None = None,
    ) -> None:
        self.device, self.address = device, address
        self.magic, self.version, self.device_id = MAGIC, version, int(device.device_type)
        self.shared_memory = shared_memory or {}
        self.stop_reads = 0
        self.log: list[str] = []
        self.region = FakeRegion(SLOT_SIZE, on_read=self._read, on_write=self._write)
        self._legacy = device.legacy = version == 1
        # There is no switch for its DMA on this bus.
        device.bus_master = True
        self._widths = _field_widths(config) if config else None
        self._registers = self._common() | (self._of_version_1() if self._legacy else self._of_version_2())
        self._forget()

    def _forget(self) -> None:
        """What a reset does to the registers; a selection has to be made anew."""
        self._offered_word: int | None = None
        self._accepted_word: int | None = None
        self._queue: int | None = None
        self._shared: int | None = None
        self._page_size = self._alignment = 0
        self._aligned: set[int] = set()
        self._stopping: dict[int, int] = {}

    # --- Accesses -----------------------------------------------------------------------------------------------------

    def _read(self, offset: int, width: int) -> int:
        if self.device.faults.gone:
            return (1 << 8 * width) - 1
        if offset >= CONFIG_SPACE_OFFSET:
            return self.device.read_config(self._config_offset(offset, width), width)
        register = self._register_at(offset, width)
        if register.read is None:
            raise RuleBroken(f"{register.name} is to write, and was read (4.2.2.2)")
        return register.read()

    def _write(self, offset: int, width: int, value: int) -> None:
        if self.device.faults.gone:
            return
        if offset >= CONFIG_SPACE_OFFSET:
            self.device.write_config(self._config_offset(offset, width), width, value)
            return
        register = self._register_at(offset, width)
        if register.write is None:
            raise RuleBroken(f"{register.name} is to read, and was written (4.2.2.2)")
        register.write(value)

    def _register_at(self, offset: int, width: int) -> _Register:
        if width != 4 or offset % 4:
            raise RuleBroken(f"{8 * width} bits at {offset:#x}; registers take aligned accesses of 32 (4.2.2.2)")
        register = self._registers.get(offset)
        if register is None:
            section = "4.2.4" if self._legacy else "4.2.2.2"
            raise RuleBroken(f"{offset:#x} was accessed, where version {self.version} has no register ({section})")
        self._refuse_if_resetting(offset)
        self.log.append(register.name)
        return register

    def _config_offset(self, offset: int, width: int) -> int:
        self._refuse_if_resetting(offset)
        at = offset - CONFIG_SPACE_OFFSET
        if at + width > len(self.device.config):
            raise RuleBroken(f"{width} bytes at {at:#x} are not in the {len(self.device.config)} of the configuration")
        if width not in (1, 2, 4) or at % width:
            raise RuleBroken(f"{width} bytes at {at:#x} of the configuration in one access (4.2.2.2)")
        if self._widths is not None and self._widths.get(at) != width:
            raise RuleBroken(f"{width} bytes at {at:#x} of the configuration, where no field is so wide (4.2.2.2)")
        return at

    def _refuse_if_resetting(self, offset: int) -> None:
        if self.device.is_resetting and offset != _STATUS:
            raise RuleBroken(f"{offset:#x} was accessed while the device was being reset (2.4.1)")

    # --- Registers ----------------------------------------------------------------------------------------------------

    def _common(self) -> dict[int, _Register]:
        """By offset (VIRTIO 1.4, 4.2.2)."""
        register, device = _Register, self.device
        return {
            0x000: register("MagicValue", lambda: self.magic),
            0x004: register("Version", lambda: self.version),
            0x008: register("DeviceID", lambda: self.device_id),
            0x00C: register("VendorID", lambda: VENDOR_ID),
            0x010: register("DeviceFeatures", self._read_features),
            0x014: register("DeviceFeaturesSel", write=self._select_offered_word),
            0x020: register("DriverFeatures", write=self._write_features),
            0x024: register("DriverFeaturesSel", write=self._select_accepted_word),
            0x030: register("QueueSel", write=self._select_queue),
            0x034: register("QueueSizeMax", self._read_size_max),
            0x038: register("QueueSize", write=self._write_size),
            0x050: register("QueueNotify", write=self._notify),
            0x060: register("InterruptStatus", lambda: int(device.interrupt_status)),
            0x064: register("InterruptACK", write=self._acknowledge),
            0x070: register("Status", device.read_status, self._write_status),
        }

    def _of_version_1(self) -> dict[int, _Register]:
        """VIRTIO 1.4, 4.2.4."""
        return {
            0x028: _Register("GuestPageSize", write=self._write_page_size),
            0x03C: _Register("QueueAlign", write=self._write_align),
            0x040: _Register("QueuePFN", self._read_frame, self._write_frame),
        }

    def _of_version_2(self) -> dict[int, _Register]:
        found = {
            0x044: _Register("QueueReady", lambda: int(self._is_in_use()), self._write_ready),
            0x0AC: _Register("SHMSel", write=self._select_shared),
            0x0C0: _Register("QueueReset", self._read_reset, self._write_reset),
            0x0FC: _Register("ConfigGeneration", self.device.read_generation),
        }
        for half, word in ((0, "Low"), (4, "High")):
            found[0x080 + half] = self._area(f"QueueDesc{word}", "desc", 8 * half)
            found[0x090 + half] = self._area(f"QueueDriver{word}", "driver", 8 * half)
            found[0x0A0 + half] = self._area(f"QueueDevice{word}", "device", 8 * half)
            found[0x0B0 + half] = self._shared_word(f"SHMLen{word}", 1, 8 * half)
            found[0x0B8 + half] = self._shared_word(f"SHMBase{word}", 0, 8 * half)
        return found

    def _write_status(self, value: int) -> None:
        if value > 0xFF:
            raise RuleBroken(f"the status {value:#x} was written; it has 8 bits (2.1)")
        if value == 0:
            self._forget()
        self.device.write_status(value)

    # --- Features -----------------------------------------------------------------------------------------------------

    def _select_offered_word(self, value: int) -> None:
        self._offered_word = value

    def _select_accepted_word(self, value: int) -> None:
        self._accepted_word = value

    def _read_features(self) -> int:
        if self._offered_word is None:
            raise RuleBroken("DeviceFeatures was read before DeviceFeaturesSel was written (4.2.2.2)")
        return self.device.offered >> 32 * self._offered_word & 0xFFFF_FFFF

    def _write_features(self, value: int) -> None:
        word = self._accepted_word
        if word is None:
            raise RuleBroken("DriverFeatures was written before DriverFeaturesSel (4.2.2.2)")
        if self._legacy and word:
            raise RuleBroken(f"word {word} of the features was written to a legacy device, which has one (2.2.3)")
        others = self.device.driver_features & ~(0xFFFF_FFFF << 32 * word)
        self.device.write_features(others | value << 32 * word)

    # --- Queues -------------------------------------------------------------------------------------------------------

    def _select_queue(self, value: int) -> None:
        self._queue = value

    @property
    def _index(self) -> int:
        """The selected queue, which need not be there."""
        if self._queue is None:
            raise RuleBroken("a register of a queue was accessed before QueueSel was written (4.2.2)")
        return self._queue

    @property
    def _state(self) -> FakeQueue:
        if self._index >= len(self.device.queues):
            raise RuleBroken(f"queue {self._index} was set up; its QueueSizeMax is 0 (4.2.3.2)")
        return self.device.queues[self._index]

    def _read_size_max(self) -> int:
        if self._index >= len(self.device.queues):
            return 0
        if self._legacy and self._state.enabled:
            raise RuleBroken(f"QueueNumMax of queue {self._index} was read while the queue is in use (4.2.4)")
        return self._state.max_size

    def _write_size(self, value: int) -> None:
        self._refuse_enabled("QueueSize")
        if not self.device.allows_size(self._state, value):
            raise RuleBroken(f"QueueSize {value} was written; the most is {self._state.max_size} (4.2.2.2)")
        self._state.size = value

    def _area(self, name: str, area: str, shift: int) -> _Register:
        def write(value: int) -> None:
            self._refuse_enabled(name)
            others = getattr(self._state, area) & ~(0xFFFF_FFFF << shift)
            setattr(self._state, area, others | value << shift)

        return _Register(name, write=write)

    def _write_ready(self, value: int) -> None:
        if value == 1:
            self.device.enable(self._enabling())
        elif value == 0:
            self._stop(was_reset=False)
        else:
            raise RuleBroken(f"{value} was written to QueueReady (4.2.2)")

    def _enabling(self) -> int:
        if not self._state.size:
            raise RuleBroken(f"queue {self._index} was made ready before its size was written (4.2.3.2)")
        return self._index

    def _write_reset(self, value: int) -> None:
        if value != 1 or not self.device.driver_features & Feature.RING_RESET:
            raise RuleBroken(f"{value} was written to QueueReset (4.2.2)")
        self._stop(was_reset=True)

    def _read_reset(self) -> int:
        return int(bool(self._state.was_reset and self._still_stopping()))

    def _stop(self, *, was_reset: bool) -> None:
        """The queue shows that it is in use until it has stopped; its memory is let go of at once."""
        state = self._state
        self.device.queues[self._index] = FakeQueue(state.max_size, was_reset=was_reset)
        self._stopping[self._index] = self.stop_reads or (self.device.faults.queue_reset_reads if was_reset else 0)

    def _is_in_use(self) -> bool:
        if self._index >= len(self.device.queues):
            return False
        return self._state.enabled or self._still_stopping()

    def _still_stopping(self) -> bool:
        left = self._stopping.pop(self._index, 0)
        if left:
            self._stopping[self._index] = left - 1 if left > 0 else left
        return left != 0

    def _notify(self, value: int) -> None:
        with_data = bool(self.device.driver_features & Feature.NOTIFICATION_DATA)
        queue = value & 0xFFFF if with_data else value
        if queue >= len(self.device.queues):
            raise RuleBroken(f"queue {queue} was notified; there are {len(self.device.queues)} (4.2.3.3)")
        self.device.notify(queue, value if with_data else None)

    def _refuse_enabled(self, name: str) -> None:
        if self._state.enabled:
            raise RuleBroken(f"{name} of queue {self._index} was written while the queue is in use (4.2.2.2)")

    # --- Queues of version 1 ------------------------------------------------------------------------------------------

    def _write_page_size(self, value: int) -> None:
        if not value or value & (value - 1):
            raise RuleBroken(f"GuestPageSize {value} is no power of two (4.2.4)")
        if any(queue.enabled for queue in self.device.queues):
            raise RuleBroken("GuestPageSize was written while a queue is in use (4.2.4)")
        self._page_size = value

    def _write_align(self, value: int) -> None:
        self._refuse_enabled("QueueAlign")
        if not value or value & (value - 1):
            raise RuleBroken(f"QueueAlign {value} is no power of two (4.2.4)")
        self._alignment = value
        self._aligned.add(self._index)

    def _read_frame(self) -> int:
        if self._index >= len(self.device.queues) or not self._state.enabled:
            return 0
        return self._state.desc // self._page_size

    def _write_frame(self, value: int) -> None:
        if value == 0:
            self._stop(was_reset=False)
            return
        if not self._page_size:
            raise RuleBroken("QueuePFN was written before GuestPageSize (4.2.4)")
        if self._index not in self._aligned or not self._state.size:
            raise RuleBroken(f"QueuePFN of queue {self._index} was written before QueueNum and QueueAlign (4.2.4)")
        self._refuse_enabled("QueuePFN")
        self._place(self._state, value * self._page_size)
        self.device.enable(self._index)

    def _place(self, state: FakeQueue, start: int) -> None:
        """Where the legacy layout has the three areas (VIRTIO 1.4, 2.7.2)."""
        state.desc, state.driver = start, start + 16 * state.size
        state.device = -(-(state.driver + 6 + 2 * state.size) // self._alignment) * self._alignment

    # --- Interrupts and shared memory ---------------------------------------------------------------------------------

    def _acknowledge(self, value: int) -> None:
        if value & ~_DEFINED or not value:
            raise RuleBroken(f"{value:#x} was written to InterruptACK, which has two bits (4.2.2.2)")
        if value & ~self.device.interrupt_status:
            raise RuleBroken(f"{value:#x} was acknowledged, and {self.device.interrupt_status!r} is pending (4.2.3.4)")
        self.device.acknowledge(value)

    def _select_shared(self, value: int) -> None:
        self._shared = value

    def _shared_word(self, name: str, part: int, shift: int) -> _Register:
        def read() -> int:
            if self._shared is None:
                raise RuleBroken(f"{name} was read before SHMSel was written (4.2.2)")
            region = self.shared_memory.get(self._shared, (_NO_REGION, _NO_REGION))
            return region[part] >> shift & 0xFFFF_FFFF

        return _Register(name, read)


def _field_widths(config: type[ConfigStruct]) -> dict[int, int]:
    """Bytes of each access by its offset: a field of 64 bits takes two of 32."""
    widths: dict[int, int] = {}
    for field in config.fields():
        for offset in range(field.offset, field.end, 4):
            widths[offset] = min(field.width, 4)
    return widths
