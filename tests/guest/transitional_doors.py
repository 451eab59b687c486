"""The doors to a disk that has both interfaces: a legacy one behind I/O ports, and a modern one."""

from __future__ import annotations

from hwloop import claim
from tests.guest.vfio_door import VfioDoor


class VfioTransitional(VfioDoor):
    """The modern interface of a device that goes past the IOMMU."""

    name = "vfio-transitional"
    target = "0000:00:05.0?hal=vfio"
    options = "?hal=vfio"


class VfioLegacy(VfioDoor):
    """The legacy interface, in the I/O region that VFIO gives out."""

    name = "vfio-legacy"
    target = "0000:00:05.0?hal=vfio&mode=legacy"
    options = "?hal=vfio&mode=legacy"


class UioModern(VfioDoor):
    """The modern interface through uio_pci_generic."""

    name = "uio"
    target = "0000:00:05.0?hal=uio"
    driver = claim.UIO_DRIVER
    options = "?hal=uio&mode=modern"


class UioIrq(VfioDoor):
    """The same, and waits on the interrupt."""

    name = "uio-irq"
    target = "0000:00:05.0?hal=uio&wait=irq"
    driver = claim.UIO_DRIVER
    options = "?hal=uio&wait=irq"


class UioLegacy(VfioDoor):
    """The legacy interface through uio_pci_generic."""

    name = "uio-legacy"
    target = "0000:00:05.0?hal=uio&mode=legacy"
    driver = claim.UIO_DRIVER
    options = "?hal=uio&mode=legacy"


DOORS = (UioModern, UioLegacy, UioIrq, VfioLegacy, VfioTransitional)
