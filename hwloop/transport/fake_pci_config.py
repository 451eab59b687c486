"""The configuration space of a fake virtio function, and its MSI-X."""

from __future__ import annotations

from hwloop.hal.fake_interrupt import FakeInterrupts
from hwloop.spec import MODERN_DEVICE_ID_BASE, TRANSITIONAL_DEVICE_IDS, VIRTIO_VENDOR_ID, DeviceType
from hwloop.transport.fake_device import FakeDevice, RuleBroken
from hwloop.transport.pci_common import NO_VECTOR
from mmio import FakeRegion
from pci import BytesConfigAccess, CapabilityId, Command, MemoryBar, MemoryBarType, new_function

_COMMAND = 0x04
_SUBSYSTEM_ID = 0x2E
_MSIX_PLACE = 0xE0
_MSIX_BAR = 1
_MSIX_ADDRESS = 0xFE00_0000
_MSIX_BYTES = 0x1000
_ENABLE, _MASK_ALL = 1 << 15, 1 << 14


class FakeConfig(BytesConfigAccess):
    """Configuration space that tells the device whether it may master the bus, and answers ones once it is gone.

    Capabilities are read-only, but for the places in `writable`: (offset, width).
    """

    def __init__(self, device: FakeDevice, device_id: int) -> None:
        plain = new_function(VIRTIO_VENDOR_ID, device_id)
        super().__init__(bytes(plain.data), name=f"fake function of a {device.device_type.label} device")
        self.writable: set[tuple[int, int]] = set()
        self._device = device

    @property
    def command(self) -> Command:
        return Command(int.from_bytes(self.data[_COMMAND : _COMMAND + 2], "little"))

    def read(self, offset: int, width: int) -> int:
        value = super().read(offset, width)
        return (1 << 8 * width) - 1 if self._device.faults.gone else value

    def write(self, offset: int, width: int, value: int) -> None:
        if offset >= 0x40 and (offset, width) not in self.writable:
            raise RuleBroken(f"{value:#x} was written to a capability, at {offset:#x} (4.1.4.1)")
        if self._device.faults.gone:
            return
        super().write(offset, width, value)
        self._device.bus_master = bool(self.command & Command.BUS_MASTER)


def modern_config(device: FakeDevice) -> FakeConfig:
    """Of a function that has the modern interface only (VIRTIO 1.4, 4.1.2.1)."""
    return FakeConfig(device, MODERN_DEVICE_ID_BASE + device.device_type)


def transitional_config(device: FakeDevice) -> FakeConfig:
    """Of a function that has the legacy interface: its own id, revision 0, the type as subsystem (4.1.2.3)."""
    config = FakeConfig(device, transitional_id(device.device_type))
    config.poke(_SUBSYSTEM_ID, int(device.device_type).to_bytes(2, "little"))
    return config


def transitional_id(device_type: DeviceType) -> int:
    """The PCI device id of a transitional device of that type; a type that is too new for one has none (KeyError)."""
    return {kind: device_id for device_id, kind in TRANSITIONAL_DEVICE_IDS.items()}[device_type]


class FakeMsix:
    """MSI-X with `vectors` vectors; 0: the function has none.

    `sent` lists the vectors of the messages that the device sent. The table is plain memory: `{address: region}` for a
    `FakeHal`.
    """

    def __init__(self, device: FakeDevice, config: FakeConfig, vectors: int) -> None:
        self.vectors = vectors
        self.sent: list[int] = []
        self.interrupts: FakeInterrupts | None = None
        self.address = _MSIX_ADDRESS
        self.region = FakeRegion(_MSIX_BYTES)
        self.bar = MemoryBar(_MSIX_BAR, MemoryBarType.Width32, False, _MSIX_ADDRESS, _MSIX_BYTES)
        self._device = device
        self._config = config
        device.send_message = self._send if vectors else None
        if vectors:
            self._declare()

    @property
    def enabled(self) -> bool:
        return bool(self._control & _ENABLE)

    @property
    def _control(self) -> int:
        return int.from_bytes(self._config.data[_MSIX_PLACE + 2 : _MSIX_PLACE + 4], "little") if self.vectors else 0

    def enable(self, on: bool = True) -> None:
        """What the kernel does, behind the driver's back, when it is asked for an interrupt."""
        control = self._control | _ENABLE if on else self._control & ~_ENABLE
        self._config.poke(_MSIX_PLACE + 2, control.to_bytes(2, "little"))

    def vector(self, value: int) -> int | None:
        """What a vector register keeps of a value that is written to it (VIRTIO 1.4, 4.1.5.1.2)."""
        if value == NO_VECTOR:
            return None
        if not self.vectors:
            raise RuleBroken(f"vector {value} was written; the function has no MSI-X table (4.1.5.1.2.2)")
        if value >= self.vectors:
            raise RuleBroken(f"vector {value} was written; the MSI-X table has {self.vectors} (4.1.5.1.2.2)")
        return value if self._device.takes_vector(value) else None

    def _send(self, vector: int | None) -> bool:
        if self.enabled and vector is not None and not self._control & _MASK_ALL:
            self.sent.append(vector)
            if self.interrupts is not None:
                self.interrupts.send(vector)
        return self.enabled

    def connect(self, interrupts: FakeInterrupts) -> None:
        """Messages go there, and are turned on and off from there, as the kernel does it for its users."""
        self.interrupts = interrupts
        interrupts.switch = self.enable

    def _declare(self) -> None:
        words = (_MSIX_BAR, _MSIX_BYTES // 2 | _MSIX_BAR)
        body = (self.vectors - 1).to_bytes(2, "little") + b"".join(word.to_bytes(4, "little") for word in words)
        self._config.declare_bar(self.bar)
        self._config.declare_capability(_MSIX_PLACE, CapabilityId.MSIX, body)
        self._config.write_masks[_MSIX_PLACE + 3] = (_ENABLE | _MASK_ALL) >> 8
        self._config.writable.add((_MSIX_PLACE + 2, 2))


def shown(vector: int | None) -> int:
    """What a vector register reads as."""
    return NO_VECTOR if vector is None else vector
