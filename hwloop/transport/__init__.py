"""The registers of one device, one file a transport.

To add a transport: one file, and one line in `TRANSPORTS`; the contract suite then runs over it.
"""

from hwloop.registry import Registry
from hwloop.transport.base import Transport

TRANSPORTS: Registry[type[Transport]] = Registry(
    "transport",
    {
        "fake": "hwloop.transport.fake:FakeTransport",
        "mmio": "hwloop.transport.mmio:MmioTransport",
        "pci": "hwloop.transport.pci_modern:PciTransport",
        "pci-legacy": "hwloop.transport.pci_legacy:PciLegacyTransport",
        "vhost-user": "hwloop.transport.vhost_user:VhostUserTransport",
        "vhost-vdpa": "hwloop.transport.vhost_vdpa:VhostVdpaTransport",
    },
)

__all__ = ["TRANSPORTS", "Transport"]
