"""From a place where a device may be to its transport, or to the answer that nothing of ours is there (seed 000)."""

from __future__ import annotations

from collections.abc import Mapping

from hwloop.hal.base import Hal
from hwloop.hal.devmem import NothingAnswers
from hwloop.spec import DeviceType, device_type_of_pci_id, is_transitional_pci_id
from hwloop.transport.mmio import BadMagic, InvalidDeviceID, MmioTransport, UnsupportedVersion
from hwloop.transport.pci_capability import CfgType, virtio_capabilities
from hwloop.transport.pci_errors import Pci
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.pci_modern import PciTransport
from pci import BarInfo, CapabilityError, ConfigSpace, DeviceFunction, DeviceFunctionInfo, PciRoot
from pci.header import IDS_OFFSET, NO_VENDOR


def probe_pci_device(
    hal: Hal, root: PciRoot, device_function: DeviceFunction, info: DeviceFunctionInfo
) -> tuple[DeviceType, PciTransport | PciLegacyTransport] | None:
    """The type and the transport of a function that `enumerate_bus` found; None for one that is not a virtio device of
    a known type, or that has gone meanwhile.

    The function must be ours: its BARs are sized by writing to them. One whose id says virtio and whose structures
    cannot be used is no other kind of device but a broken one, and raises VirtioPciError.
    """
    device_type = device_type_of_pci_id(info.vendor_id, info.device_id)
    config = root.config(device_function)
    if device_type is None or config.read16(IDS_OFFSET) == NO_VENDOR:
        return None
    return device_type, open_pci(hal, config, config.read_bars())


def open_pci(hal: Hal, config: ConfigSpace, bars: Mapping[int, BarInfo]) -> PciTransport | PciLegacyTransport:
    """The transport of a virtio function: the modern one where it can be had.

    A transitional function without virtio capabilities has the legacy interface only (VIRTIO 1.4, 4.1.5.1.1.1).
    Raises as both transports do.
    """
    if is_transitional_pci_id(config.read_info().device_id) and not _has_modern_interface(config):
        return PciLegacyTransport(hal, config, bars)
    return PciTransport(hal, config, bars)


def _has_modern_interface(config: ConfigSpace) -> bool:
    try:
        return any(found.cfg_type == CfgType.COMMON_CFG for found in virtio_capabilities(config))
    except CapabilityError as error:
        raise Pci(str(error), section="4.1.4") from error


def probe_mmio_device(hal: Hal, reg_base: int, reg_size: int) -> tuple[DeviceType, MmioTransport] | None:
    """The type and the transport of the device whose registers are `reg_size` bytes at a physical address; None where
    there is none that we know: nothing that answers, another magic value, an empty slot, an unknown version. Nothing
    stays mapped then.

    Raises InvalidParam and MmioRegionTooSmall for a place where no device can be.
    """
    try:
        transport = MmioTransport(hal, reg_base, reg_size)
    except (BadMagic, UnsupportedVersion, InvalidDeviceID, NothingAnswers):
        return None
    return transport.device_type(), transport
