"""What can be wrong with a virtio function on PCI, by the names that the seeds give it.

`text` is what each kind means; an error's own sentence says which capability or BAR, and with what value.
"""

from __future__ import annotations

from hwloop.errors import TransportError


class VirtioPciError(TransportError):
    """PCI transport error: the function is not a virtio device that can be driven."""

    text = "PCI transport error"


class InvalidDeviceId(VirtioPciError):
    """The device id is not one of a virtio device of a known type (VIRTIO 1.4, 4.1.2)."""

    text = "PCI device ID was not a valid VirtIO device ID"


class InvalidVendorId(VirtioPciError):
    """The vendor id is not that of virtio, 0x1af4 (VIRTIO 1.4, 4.1.2)."""

    text = "PCI device vendor ID was not the VirtIO vendor ID"


class MissingCommonConfig(VirtioPciError):
    """There is no VIRTIO_PCI_CAP_COMMON_CFG, or only some that are too short to be one (VIRTIO 1.4, 4.1.4.3)."""

    text = "No valid VIRTIO_PCI_CAP_COMMON_CFG capability was found"


class MissingNotifyConfig(VirtioPciError):
    """There is no VIRTIO_PCI_CAP_NOTIFY_CFG, or only some that are too short to be one (VIRTIO 1.4, 4.1.4.4)."""

    text = "No valid VIRTIO_PCI_CAP_NOTIFY_CFG capability was found"


class MissingIsrConfig(VirtioPciError):
    """There is no VIRTIO_PCI_CAP_ISR_CFG, or only some that are too short to be one (VIRTIO 1.4, 4.1.4.5)."""

    text = "No valid VIRTIO_PCI_CAP_ISR_CFG capability was found"


class InvalidNotifyOffMultiplier(VirtioPciError):
    """notify_off_multiplier is neither 0 nor an even power of two (VIRTIO 1.4, 4.1.4.4)."""

    text = "VIRTIO_PCI_CAP_NOTIFY_CFG capability has a notify_off_multiplier that is not a multiple of 2"


class UnexpectedIoBar(VirtioPciError):
    """A structure that must be in memory is in an I/O BAR."""

    text = "Unexpected IO BAR (expected memory BAR)"


class BarNotAllocated(VirtioPciError):
    """The function does not have the BAR, or nobody gave it an address."""

    text = "Bar not allocated"


class BarOffsetOutOfRange(VirtioPciError):
    """A structure does not lie inside its BAR, or is shorter than its fields (VIRTIO 1.4, 4.1.4)."""

    text = "Capability offset greater than BAR length"


class Misaligned(VirtioPciError):
    """A structure is where its registers cannot be accessed in their width (VIRTIO 1.4, 4.1.4)."""

    text = "The structure is not aligned as its registers need it"


class Pci(VirtioPciError):
    """What the PCI bus shows of the function is broken; `__cause__` is the PciError."""

    text = "Error from PCI"
