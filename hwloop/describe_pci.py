"""What the configuration space of a function tells: ids, BARs, capabilities, MSI-X. No register is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwloop import session
from hwloop.describe import bar_as_json, capabilities_of, extended_capabilities_of
from hwloop.door.pci import PciPlace
from hwloop.errors import Unsupported
from hwloop.transport.filter import TransportFilter
from hwloop.transport.pci_common import PciFunctionTransport
from pci import BarInfo, ConfigSpace, PciError, SysfsConfigAccess, parse_resource_file
from udev import Sysfs


@dataclass(frozen=True)
class PciDescription:
    """One function. `fault` says what is wrong with its lists of capabilities, or ""; `config` is the space itself."""

    vendor_id: int
    device_id: int
    revision: int
    bars: list[dict[str, Any]]
    capabilities: list[dict[str, Any]]
    extended_capabilities: list[dict[str, Any]]
    msix_vectors: int
    msix_enabled: bool
    fault: str
    config: bytes

    def as_json(self) -> dict[str, Any]:
        """The stable form of `hwloop caps --json`."""
        return {
            "vendor_id": f"{self.vendor_id:04x}",
            "device_id": f"{self.device_id:04x}",
            "revision": self.revision,
            "bars": self.bars,
            "capabilities": self.capabilities,
            "extended_capabilities": self.extended_capabilities,
            "msix_vectors": self.msix_vectors,
            "msix_enabled": self.msix_enabled,
            "fault": self.fault or None,
            "config": self.config.hex(),
        }


def describe_pci(target: str, sysfs: Sysfs | None = None) -> PciDescription:
    """Describe the function that a target names: through sysfs where the kernel knows it, whoever holds it; else by
    opening it. Raises Unsupported for what is no PCI function, and what `session.find` and `open_transport` raise."""
    sysfs = sysfs or Sysfs()
    place = session.find(target, sysfs)
    if isinstance(place, PciPlace):
        bars = parse_resource_file(place.device.resource)
        with SysfsConfigAccess(sysfs.pci_device(place.address) / "config") as access:
            return _describe(ConfigSpace(access), bars)
    with place.open_transport() as opened:
        transport = opened.transport
        while isinstance(transport, TransportFilter):
            transport = transport.inner
        if not isinstance(transport, PciFunctionTransport):
            raise Unsupported(
                f"{target} is no PCI function: it is reached by {transport.name}", remedy=f"see: hwloop info {target}"
            )
        config = transport.config_space
        return _describe(config, config.read_bars())


def _describe(config: ConfigSpace, bars: dict[int, BarInfo]) -> PciDescription:
    info = config.read_info()
    capabilities, fault = capabilities_of(config, bars)
    extended, extended_fault = extended_capabilities_of(config)
    try:
        msix = config.read_msix()
    except PciError as error:
        msix, fault = None, fault or str(error)
    return PciDescription(
        vendor_id=info.vendor_id,
        device_id=info.device_id,
        revision=info.revision,
        bars=[bar_as_json(bar) for bar in bars.values()],
        capabilities=capabilities,
        extended_capabilities=extended,
        msix_vectors=msix.table_size if msix else 0,
        msix_enabled=bool(msix and msix.enabled),
        fault=fault or extended_fault,
        config=config.read_raw(),
    )
