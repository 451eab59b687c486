"""The numbers of the VIRTIO specification and the words they stand for.

Device types, device status, interrupt status and feature bits: what the code compares with is also what the command
line prints. Pure tables and conversions; nothing here touches a device.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NewType

PhysAddr = NewType("PhysAddr", int)
"""An address as the device sees it: a physical address, or an IOVA behind an IOMMU."""

PAGE_SIZE = 4096
"""The page size in bytes that the library works in, whatever the machine's own is."""

SECTOR_SIZE = 512
"""The unit of every position and length of the block protocol, in bytes (VIRTIO 1.4, 5.2.5)."""

VIRTIO_VENDOR_ID = 0x1AF4
"""PCI vendor id of every virtio function (VIRTIO 1.4, 4.1.2)."""

VIRTIO_BLK_DEVICE_ID_LEGACY = 0x1001
VIRTIO_BLK_DEVICE_ID_MODERN = 0x1042

MODERN_DEVICE_ID_BASE = 0x1040
"""A non-transitional PCI device id is this plus the virtio device id (VIRTIO 1.4, 4.1.2.1)."""


def _flag_names(flag: IntFlag) -> str:
    """The set bits by name in ascending order, then what has no name as one hexadecimal number; `0x0` when empty."""
    names = [member.name or "" for member in type(flag) if member & flag]
    known = 0
    for member in type(flag):
        known |= int(member)
    rest = int(flag) & ~known
    if rest or not names:
        names.append(hex(rest))
    return " | ".join(names)


class _NamedFlag(IntFlag):
    """An IntFlag that prints like the seeds' bit sets: `DeviceStatus(ACKNOWLEDGE | DRIVER | 0x20)`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_flag_names(self)})"

    def __str__(self) -> str:
        return _flag_names(self)


class DeviceStatus(_NamedFlag):
    """The device status field (VIRTIO 1.4, 2.1). Writing 0 resets the device."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    SUSPEND = 16
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class InterruptStatus(_NamedFlag):
    """Which interrupts were pending (VIRTIO 1.4, 4.1.4.5). Falsy when none was."""

    QUEUE_INTERRUPT = 1
    DEVICE_CONFIGURATION_INTERRUPT = 2


class DeviceTypeError(ValueError):
    """A number that is no virtio device type."""

    def __init__(self, device_id: int) -> None:
        super().__init__(f"Invalid or unknown virtio device type {device_id}")
        self.device_id = device_id


class DeviceType(IntEnum):
    """Types of virtio devices (VIRTIO 1.4, 5). Names of 1 to 25 are the seeds'; the rest are the specification's."""

    Network = 1
    Block = 2
    Console = 3
    EntropySource = 4
    MemoryBallooning = 5
    IoMemory = 6
    Rpmsg = 7
    ScsiHost = 8
    _9P = 9
    Mac80211 = 10
    RprocSerial = 11
    VirtioCAIF = 12
    MemoryBalloon = 13
    GPU = 16
    Timer = 17
    Input = 18
    Socket = 19
    Crypto = 20
    SignalDistributionModule = 21
    Pstore = 22
    IOMMU = 23
    Memory = 24
    Sound = 25
    FileSystem = 26
    Pmem = 27
    Rpmb = 28
    Mac80211HwSim = 29
    VideoEncoder = 30
    VideoDecoder = 31
    Scmi = 32
    NitroSecureModule = 33
    I2cAdapter = 34
    Watchdog = 35
    Can = 36
    ParameterServer = 38
    AudioPolicy = 39
    Bluetooth = 40
    Gpio = 41
    Rdma = 42
    Camera = 43
    Ism = 44
    SpiController = 45
    Tee = 46
    CpuBalloon = 47
    Media = 48
    UsbController = 49

    @classmethod
    def from_id(cls, device_id: int) -> DeviceType:
        """The type that a virtio device id stands for.

        Id 5 gives `MemoryBallooning`, its own member (the seeds disagree here; docs/adr/0002).
        Raises DeviceTypeError.
        """
        try:
            return cls(device_id)
        except ValueError:
            raise DeviceTypeError(device_id) from None

    @property
    def label(self) -> str:
        """The short lower-case word that tables and JSON show, such as `block`."""
        return _TYPE_LABELS.get(self, self.name.strip("_").lower())


_TYPE_LABELS = {
    DeviceType.EntropySource: "entropy",
    DeviceType.MemoryBallooning: "balloon",
    DeviceType.MemoryBalloon: "memory-balloon",
    DeviceType.ScsiHost: "scsi",
    DeviceType.FileSystem: "filesystem",
    DeviceType.Timer: "rtc",
    DeviceType.NitroSecureModule: "nitro-secure-module",
    DeviceType.SignalDistributionModule: "signal-distribution-module",
    DeviceType.I2cAdapter: "i2c",
    DeviceType.SpiController: "spi",
    DeviceType.UsbController: "usb",
    DeviceType.RprocSerial: "rproc-serial",
    DeviceType.VirtioCAIF: "caif",
    DeviceType.Mac80211HwSim: "mac80211-hwsim",
    DeviceType.VideoEncoder: "video-encoder",
    DeviceType.VideoDecoder: "video-decoder",
    DeviceType.ParameterServer: "parameter-server",
    DeviceType.AudioPolicy: "audio-policy",
    DeviceType.CpuBalloon: "cpu-balloon",
}

TRANSITIONAL_DEVICE_IDS = {
    0x1000: DeviceType.Network,
    0x1001: DeviceType.Block,
    0x1002: DeviceType.MemoryBallooning,
    0x1003: DeviceType.Console,
    0x1004: DeviceType.ScsiHost,
    0x1005: DeviceType.EntropySource,
    0x1009: DeviceType._9P,
}
"""PCI device ids of transitional devices (VIRTIO 1.4, 4.1.2.1)."""


def is_virtio_pci_id(vendor_id: int, device_id: int) -> bool:
    """Whether a PCI vendor and device id are those of a virtio device, of whatever type (VIRTIO 1.4, 4.1.2)."""
    return vendor_id == VIRTIO_VENDOR_ID and 0x1000 <= device_id <= 0x107F


def device_type_of_pci_id(vendor_id: int, device_id: int) -> DeviceType | None:
    """The virtio device type of a PCI vendor and device id, or None for what is not virtio.

    Any id from 0x1000 to 0x107F of the virtio vendor is a virtio device (VIRTIO 1.4, 4.1.2); one whose type has no
    name here gives None as well.
    """
    if not is_virtio_pci_id(vendor_id, device_id):
        return None
    if is_transitional_pci_id(device_id):
        return TRANSITIONAL_DEVICE_IDS.get(device_id)
    try:
        return DeviceType.from_id(device_id - MODERN_DEVICE_ID_BASE)
    except DeviceTypeError:
        return None


def is_transitional_pci_id(device_id: int) -> bool:
    """Whether a virtio PCI device id belongs to a device that may also speak the legacy interface."""
    return 0x1000 <= device_id < MODERN_DEVICE_ID_BASE


class Feature(_NamedFlag):
    """Feature bits that are independent of the device type (VIRTIO 1.4, 6 and 6.3)."""

    NOTIFY_ON_EMPTY = 1 << 24
    ANY_LAYOUT = 1 << 27
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    UNUSED = 1 << 30
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    ORDER_PLATFORM = 1 << 36
    SR_IOV = 1 << 37
    NOTIFICATION_DATA = 1 << 38
    NOTIF_CONFIG_DATA = 1 << 39
    RING_RESET = 1 << 40
    ADMIN_VQ = 1 << 41
    SUSPEND = 1 << 43

    # The names that virtio-drivers uses for bits 28 and 29.
    RING_INDIRECT_DESC = INDIRECT_DESC
    RING_EVENT_IDX = EVENT_IDX


class NetFeature(_NamedFlag):
    """VIRTIO 1.4, 5.1.3."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    CTRL_GUEST_OFFLOADS = 1 << 2
    MTU = 1 << 3
    MAC = 1 << 5
    GSO = 1 << 6
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    GUEST_UFO = 1 << 10
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    HOST_UFO = 1 << 14
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    CTRL_RX = 1 << 18
    CTRL_VLAN = 1 << 19
    CTRL_RX_EXTRA = 1 << 20
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    CTRL_MAC_ADDR = 1 << 23
    DEVICE_STATS = 1 << 50
    HASH_TUNNEL = 1 << 51
    VQ_NOTF_COAL = 1 << 52
    NOTF_COAL = 1 << 53
    GUEST_USO4 = 1 << 54
    GUEST_USO6 = 1 << 55
    HOST_USO = 1 << 56
    HASH_REPORT = 1 << 57
    GUEST_HDRLEN = 1 << 59
    RSS = 1 << 60
    RSC_EXT = 1 << 61
    STANDBY = 1 << 62
    SPEED_DUPLEX = 1 << 63
    RSS_CONTEXT = 1 << 64
    GUEST_UDP_TUNNEL_GSO = 1 << 65
    GUEST_UDP_TUNNEL_GSO_CSUM = 1 << 66
    HOST_UDP_TUNNEL_GSO = 1 << 67
    HOST_UDP_TUNNEL_GSO_CSUM = 1 << 68
    OUT_NET_HEADER = 1 << 69
    IPSEC = 1 << 70


class BlkFeature(_NamedFlag):
    """VIRTIO 1.4, 5.2.3; bits 0 and 7 are legacy (5.2.3.1)."""

    BARRIER = 1 << 0
    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    GEOMETRY = 1 << 4
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    SCSI = 1 << 7
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14
    LIFETIME = 1 << 15
    SECURE_ERASE = 1 << 16
    ZONED = 1 << 17


class ConsoleFeature(_NamedFlag):
    """VIRTIO 1.4, 5.3.3."""

    SIZE = 1 << 0
    MULTIPORT = 1 << 1
    EMERG_WRITE = 1 << 2


class BalloonFeature(_NamedFlag):
    """VIRTIO 1.4, 5.5.3."""

    MUST_TELL_HOST = 1 << 0
    STATS_VQ = 1 << 1
    DEFLATE_ON_OOM = 1 << 2
    FREE_PAGE_HINT = 1 << 3
    PAGE_POISON = 1 << 4
    PAGE_REPORTING = 1 << 5


class ScsiFeature(_NamedFlag):
    """VIRTIO 1.4, 5.6.3."""

    INOUT = 1 << 0
    HOTPLUG = 1 << 1
    CHANGE = 1 << 2
    T10_PI = 1 << 3


class P9Feature(_NamedFlag):
    """Linux, include/uapi/linux/virtio_9p.h."""

    MOUNT_TAG = 1 << 0


class GpuFeature(_NamedFlag):
    """VIRTIO 1.4, 5.7.3."""

    VIRGL = 1 << 0
    EDID = 1 << 1
    RESOURCE_UUID = 1 << 2
    RESOURCE_BLOB = 1 << 3
    CONTEXT_INIT = 1 << 4
    BLOB_ALIGNMENT = 1 << 5


class SocketFeature(_NamedFlag):
    """VIRTIO 1.4, 5.10.3."""

    STREAM = 1 << 0
    SEQPACKET = 1 << 1
    NO_IMPLIED_STREAM = 1 << 2


class CryptoFeature(_NamedFlag):
    """VIRTIO 1.4, 5.9.3."""

    REVISION_1 = 1 << 0
    CIPHER_STATELESS_MODE = 1 << 1
    HASH_STATELESS_MODE = 1 << 2
    MAC_STATELESS_MODE = 1 << 3
    AEAD_STATELESS_MODE = 1 << 4
    AKCIPHER_STATELESS_MODE = 1 << 5


class IommuFeature(_NamedFlag):
    """VIRTIO 1.4, 5.13.3."""

    INPUT_RANGE = 1 << 0
    DOMAIN_RANGE = 1 << 1
    MAP_UNMAP = 1 << 2
    BYPASS = 1 << 3
    PROBE = 1 << 4
    MMIO = 1 << 5
    BYPASS_CONFIG = 1 << 6


class MemFeature(_NamedFlag):
    """VIRTIO 1.4, 5.15.3."""

    ACPI_PXM = 1 << 0
    UNPLUGGED_INACCESSIBLE = 1 << 1
    PERSISTENT_SUSPEND = 1 << 2


class SoundFeature(_NamedFlag):
    """VIRTIO 1.4, 5.14.3."""

    CTLS = 1 << 0


class FsFeature(_NamedFlag):
    """VIRTIO 1.4, 5.11.3."""

    NOTIFICATION = 1 << 0


class PmemFeature(_NamedFlag):
    """VIRTIO 1.4, 5.19.3."""

    SHMEM_REGION = 1 << 0


class ScmiFeature(_NamedFlag):
    """VIRTIO 1.4, 5.17.3."""

    P2A_CHANNELS = 1 << 0
    SHARED_MEMORY = 1 << 1


class I2cFeature(_NamedFlag):
    """VIRTIO 1.4, 5.16.3."""

    ZERO_LENGTH_REQUEST = 1 << 0


class GpioFeature(_NamedFlag):
    """VIRTIO 1.4, 5.18.3."""

    IRQ = 1 << 0


class CanFeature(_NamedFlag):
    """VIRTIO 1.4, the CAN device's feature bits."""

    CAN_CLASSIC = 1 << 0
    CAN_FD = 1 << 1
    RTR_FRAMES = 1 << 2
    LATE_TX_ACK = 1 << 3


class RtcFeature(_NamedFlag):
    """VIRTIO 1.4, the RTC device's feature bits."""

    ALARM = 1 << 0


def _every_other_bit(self: IntFlag) -> int:
    return ~int(self)


# `~flag` of Python stops at the highest bit of the class: `offered & ~BlkFeature.RO` would drop VERSION_1 as well. Set
# afterwards, since the making of an enum class puts Python's own back.
for _flag in _NamedFlag.__subclasses__():
    _flag.__invert__ = _every_other_bit  # type: ignore[method-assign, assignment]


DEVICE_FEATURES: dict[DeviceType, tuple[str, type[IntFlag]]] = {
    DeviceType.Network: ("VIRTIO_NET_F_", NetFeature),
    DeviceType.Block: ("VIRTIO_BLK_F_", BlkFeature),
    DeviceType.Console: ("VIRTIO_CONSOLE_F_", ConsoleFeature),
    DeviceType.MemoryBallooning: ("VIRTIO_BALLOON_F_", BalloonFeature),
    DeviceType.ScsiHost: ("VIRTIO_SCSI_F_", ScsiFeature),
    DeviceType._9P: ("VIRTIO_9P_", P9Feature),
    DeviceType.GPU: ("VIRTIO_GPU_F_", GpuFeature),
    DeviceType.Timer: ("VIRTIO_RTC_F_", RtcFeature),
    DeviceType.Socket: ("VIRTIO_VSOCK_F_", SocketFeature),
    DeviceType.Crypto: ("VIRTIO_CRYPTO_F_", CryptoFeature),
    DeviceType.IOMMU: ("VIRTIO_IOMMU_F_", IommuFeature),
    DeviceType.Memory: ("VIRTIO_MEM_F_", MemFeature),
    DeviceType.Sound: ("VIRTIO_SND_F_", SoundFeature),
    DeviceType.FileSystem: ("VIRTIO_FS_F_", FsFeature),
    DeviceType.Pmem: ("VIRTIO_PMEM_F_", PmemFeature),
    DeviceType.Scmi: ("VIRTIO_SCMI_F_", ScmiFeature),
    DeviceType.I2cAdapter: ("VIRTIO_I2C_F_", I2cFeature),
    DeviceType.Can: ("VIRTIO_CAN_F_", CanFeature),
    DeviceType.Gpio: ("VIRTIO_GPIO_F_", GpioFeature),
}
"""The prefix and the bits of each device type that has feature bits of its own; the other types have none."""


def bit_numbers(features: int) -> list[int]:
    """The numbers of the set bits, ascending."""
    return [bit for bit in range(features.bit_length()) if features >> bit & 1]


def feature_name(bit: int, device_type: DeviceType | None) -> str:
    """The specification's name of a feature bit, or `bit N` for one that has none on this device type."""
    prefix, flags = DEVICE_FEATURES.get(device_type, ("", None)) if device_type is not None else ("", None)
    for name_prefix, table in ((prefix, flags), ("VIRTIO_F_", Feature)):
        for member in table or ():
            if member == 1 << bit:
                return f"{name_prefix}{member.name}"
    return f"bit {bit}"


def feature_names(features: int, device_type: DeviceType | None) -> list[str]:
    """The names of all set bits, in the order of the bits."""
    return [feature_name(bit, device_type) for bit in bit_numbers(features)]
