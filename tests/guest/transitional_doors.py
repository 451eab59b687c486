"""The doors to a disk that has both interfaces: a legacy one behind I/O ports, and a modern one."""

from __future__ import annotations

from hwloop import claim
from tests.guest.vfio_door import VfioDoor


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


class UioLegacy(VfioDoor):
    """The legacy interface through uio_pci_generic."""

    name = "uio-legacy"
    target = "0000:00:05.0?hal=uio&mode=legacy"
    driver = claim.UIO_DRIVER
    options = "?hal=uio&mode=legacy"


DOORS = (UioModern, UioLegacy, VfioLegacy)
"""Others of the same parts, such as `?hal=uio&wait=irq`, are in test_uio.py: a suite takes a minute here."""
