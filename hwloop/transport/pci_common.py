"""What both interfaces of virtio over PCI have in common: the function, bus mastering, MSI-X vectors."""

from __future__ import annotations

from contextlib import suppress

from hwloop.errors import ConfigSpaceTooSmall, DeviceLost, InvalidParam, TransportError
from hwloop.spec import VIRTIO_VENDOR_ID, DeviceStatus, DeviceType, InterruptStatus, device_type_of_pci_id
from hwloop.transport.base import Transport
from hwloop.transport.pci_errors import InvalidDeviceId, InvalidVendorId, Pci
from mmio.register import ReadableWritable
from pci import CapabilityError, CapabilityId, Command, ConfigSpace

NO_VECTOR = 0xFFFF
"""VIRTIO_MSI_NO_VECTOR: no interrupt for this event (VIRTIO 1.4, 4.1.5.1.2)."""

_ISR_BITS = InterruptStatus.QUEUE_INTERRUPT | InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT
_MESSAGE_CONTROL = 2
_MSIX_ENABLE = 1 << 15


class PciFunctionTransport(Transport):
    """A transport on the PCI function whose configuration space is `config`.

    Raises VirtioPciError for a function that is not virtio, or whose capability list is broken, ConfigAccessError
    (ENODEV) for one that does not answer.
    """

    def __init__(self, config: ConfigSpace) -> None:
        super().__init__()
        self._config = config
        self._device_type = _virtio_type(config)

    @property
    def config_space(self) -> ConfigSpace:
        """The function's configuration space."""
        return self._config

    def device_type(self) -> DeviceType:
        return self._device_type

    def prepare_dma(self) -> None:
        """Turn on bus mastering, and read it back: QEMU would also serve a device that may not master the bus.

        Raises TransportError when the bit does not stick.
        """
        self._config.set_command_bits(Command.BUS_MASTER, Command(0))
        if not self._config.read_command() & Command.BUS_MASTER:
            raise TransportError("bus mastering cannot be turned on, so the device cannot reach memory")

    def stop_dma(self) -> None:
        """Turn off bus mastering: the device cannot write memory any more, whatever it believes."""
        # A function that was unplugged has nothing left to turn off.
        with suppress(OSError):
            self._config.set_command_bits(Command(0), Command.BUS_MASTER)

    def set_guest_page_size(self, guest_page_size: int) -> None:
        """Nothing to do: no PCI interface has such a register."""


class MsixSwitch:
    """Whether a function has MSI-X, and whether it is on now (PCI 3.0, 6.8.2.3).

    Others turn it on and off (the kernel does, when VFIO is given an eventfd), so only its place is remembered.
    Raises VirtioPciError for a broken capability list.
    """

    def __init__(self, config: ConfigSpace) -> None:
        self._config = config
        try:
            found = config.find_capability(CapabilityId.MSIX)
        except CapabilityError as error:
            raise Pci(str(error), section="4.1.4") from error
        self.offset = found.offset if found is not None else None

    def read_enabled(self) -> bool:
        if self.offset is None:
            return False
        return bool(self._config.read16(self.offset + _MESSAGE_CONTROL) & _MSIX_ENABLE)


def set_vector(register: ReadableWritable, vector: int, event: str) -> None:
    """Give an event its vector, and verify that the device took it: one that cannot shows NO_VECTOR.

    Raises TransportError (VIRTIO 1.4, 4.1.5.1.2.2), InvalidParam for a number that is none.
    """
    if not 0 <= vector <= NO_VECTOR:
        raise InvalidParam(f"{event} cannot have the MSI-X vector {vector}", remedy="give 0 to 2047")
    if vector == NO_VECTOR:
        register.write(vector)
    elif not register_takes(register, vector):
        raise TransportError(
            f"{event} did not take the MSI-X vector {vector}; it shows {register.read():#x}",
            section="4.1.5.1.2.2",
            remedy="use fewer vectors, or none and poll",
        )


def register_takes(register: ReadableWritable, vector: int) -> bool:
    """Write a vector, and read back whether the device kept it."""
    register.write(vector)
    return register.read() == vector


def checked_status(value: int) -> DeviceStatus:
    """Raises DeviceLost when the function no longer answers: a read of all ones means it is gone (PCI 3.0, 6.1)."""
    if value == 0xFF:
        raise DeviceLost("the device status reads 0xff: the function does not answer any more")
    return DeviceStatus(value)


def checked_isr(value: int) -> InterruptStatus:
    """What the ISR status says is pending (VIRTIO 1.4, 4.1.4.5); its other bits are reserved. Raises DeviceLost."""
    if value == 0xFF:
        raise DeviceLost("the ISR status reads 0xff: the function does not answer any more")
    return InterruptStatus(value & _ISR_BITS)


def check_config_field(offset: int, width: int, size: int) -> None:
    """Whether a field lies in a device configuration of `size` bytes. Raises InvalidParam, ConfigSpaceTooSmall."""
    if width not in (1, 2, 4, 8) or offset < 0:
        raise InvalidParam(f"cannot access {width} bytes at {offset} of a configuration space")
    if offset + width > size:
        raise ConfigSpaceTooSmall(
            f"{width} bytes at {offset:#x} are behind the end of the device's configuration space ({size:#x} bytes)"
        )


def _virtio_type(config: ConfigSpace) -> DeviceType:
    info = config.read_info()
    device_type = device_type_of_pci_id(info.vendor_id, info.device_id)
    if device_type is None:
        kind = InvalidDeviceId if info.vendor_id == VIRTIO_VENDOR_ID else InvalidVendorId
        raise kind(f"{info.vendor_id:04x}:{info.device_id:04x} is not a virtio device", section="4.1.2")
    return device_type
