"""The system calls of vhost-vdpa: structures packed and unpacked, nothing decided.

Linux, include/uapi/linux/vhost.h and vhost_types.h. Errors are the kernel's OSErrors. Each call takes the descriptor of
a node such as /dev/vhost-vdpa-0, and goes through `ioctl` or `write`, which tests replace.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from fcntl import ioctl
from os import write

_WRITE, _READ = 1, 2


def _request(direction: int, number: int, size: int) -> int:
    """asm-generic/ioctl.h, with vhost's letter."""
    return direction << 30 | size << 16 | 0xAF << 8 | number


_U8, _U16, _U32, _U64 = (struct.Struct(f"={code}") for code in "BHIQ")
_VRING_STATE = struct.Struct("=II")
_VRING_FILE = struct.Struct("=Ii")
_VRING_ADDR = struct.Struct("=2I4Q")
_CONFIG = struct.Struct("=2I")
_IOVA_RANGE = struct.Struct("=2Q")
_MESSAGE = struct.Struct("=2I3Q2B38x")

GET_FEATURES = _request(_READ, 0x00, 8)
SET_FEATURES = _request(_WRITE, 0x00, 8)
SET_OWNER = _request(0, 0x01, 0)
SET_VRING_NUM = _request(_WRITE, 0x10, 8)
SET_VRING_ADDR = _request(_WRITE, 0x11, 40)
SET_VRING_BASE = _request(_WRITE, 0x12, 8)
SET_VRING_KICK = _request(_WRITE, 0x20, 8)
SET_VRING_CALL = _request(_WRITE, 0x21, 8)
SET_BACKEND_FEATURES = _request(_WRITE, 0x25, 8)
GET_BACKEND_FEATURES = _request(_READ, 0x26, 8)
GET_DEVICE_ID = _request(_READ, 0x70, 4)
GET_STATUS = _request(_READ, 0x71, 1)
SET_STATUS = _request(_WRITE, 0x72, 1)
GET_CONFIG = _request(_READ, 0x73, 8)
SET_CONFIG = _request(_WRITE, 0x74, 8)
SET_VRING_ENABLE = _request(_WRITE, 0x75, 8)
GET_VRING_NUM = _request(_READ, 0x76, 2)
SET_CONFIG_CALL = _request(_WRITE, 0x77, 4)
GET_IOVA_RANGE = _request(_READ, 0x78, 16)
GET_CONFIG_SIZE = _request(_READ, 0x79, 4)
GET_VQS_COUNT = _request(_READ, 0x80, 4)

MESSAGE_V2 = 2


class BackendFeature(IntFlag):
    """What the kernel's side of the node can do beside virtio."""

    IOTLB_MSG_V2 = 1 << 1
    IOTLB_PERSIST = 1 << 8
    """A reset of the device leaves the mappings as they are."""


class Access(IntEnum):
    """What a device may do with a mapping."""

    RO = 1
    WO = 2
    RW = 3


class MessageType(IntEnum):
    """What a message about mappings asks for."""

    UPDATE = 2
    INVALIDATE = 3


@dataclass(frozen=True)
class VringAddresses:
    """Where a queue's three areas are, by device address."""

    descriptors: int
    driver_area: int
    device_area: int


def set_owner(fd: int) -> None:
    """Be the process whose memory the device gets; before everything else."""
    ioctl(fd, SET_OWNER)


def read_backend_features(fd: int) -> int:
    return _get(fd, GET_BACKEND_FEATURES, _U64)


def write_backend_features(fd: int, features: int) -> None:
    ioctl(fd, SET_BACKEND_FEATURES, _U64.pack(features))


def read_device_id(fd: int) -> int:
    return _get(fd, GET_DEVICE_ID, _U32)


def read_iova_range(fd: int) -> tuple[int, int]:
    """The first and the last device address that can be mapped."""
    data = bytearray(_IOVA_RANGE.size)
    ioctl(fd, GET_IOVA_RANGE, data)
    first, last = _IOVA_RANGE.unpack(data)
    return first, last


def read_features(fd: int) -> int:
    return _get(fd, GET_FEATURES, _U64)


def write_features(fd: int, features: int) -> None:
    ioctl(fd, SET_FEATURES, _U64.pack(features))


def read_status(fd: int) -> int:
    return _get(fd, GET_STATUS, _U8)


def write_status(fd: int, status: int) -> None:
    ioctl(fd, SET_STATUS, _U8.pack(status))


def read_config_size(fd: int) -> int:
    return _get(fd, GET_CONFIG_SIZE, _U32)


def read_config(fd: int, offset: int, size: int) -> bytes:
    data = bytearray(_CONFIG.pack(offset, size) + bytes(size))
    ioctl(fd, GET_CONFIG, data)
    return bytes(data[_CONFIG.size :])


def write_config(fd: int, offset: int, content: bytes) -> None:
    ioctl(fd, SET_CONFIG, _CONFIG.pack(offset, len(content)) + content)


def set_config_call(fd: int, eventfd: int) -> None:
    ioctl(fd, SET_CONFIG_CALL, struct.pack("=i", eventfd))


def read_queue_count(fd: int) -> int:
    return _get(fd, GET_VQS_COUNT, _U32)


def read_largest_queue(fd: int) -> int:
    """The most descriptors that a queue may have."""
    return _get(fd, GET_VRING_NUM, _U16)


def set_vring_size(fd: int, queue: int, size: int) -> None:
    ioctl(fd, SET_VRING_NUM, _VRING_STATE.pack(queue, size))


def set_vring_base(fd: int, queue: int, base: int) -> None:
    """Where the device begins to look: an index of the available ring; of a packed ring, both of its counters."""
    ioctl(fd, SET_VRING_BASE, _VRING_STATE.pack(queue, base))


def set_vring_addresses(fd: int, queue: int, at: VringAddresses) -> None:
    # The used ring comes second here.
    data = _VRING_ADDR.pack(queue, 0, at.descriptors, at.device_area, at.driver_area, 0)
    ioctl(fd, SET_VRING_ADDR, data)


def set_vring_kick(fd: int, queue: int, eventfd: int) -> None:
    ioctl(fd, SET_VRING_KICK, _VRING_FILE.pack(queue, eventfd))


def set_vring_call(fd: int, queue: int, eventfd: int) -> None:
    ioctl(fd, SET_VRING_CALL, _VRING_FILE.pack(queue, eventfd))


def enable_vring(fd: int, queue: int) -> None:
    ioctl(fd, SET_VRING_ENABLE, _VRING_STATE.pack(queue, 1))


def map_memory(fd: int, vaddr: int, iova: int, size: int, access: Access) -> None:
    """Let the device reach `size` bytes of ours. Every refusal is EFAULT (Linux, vhost_chr_write_iter)."""
    write(fd, _MESSAGE.pack(MESSAGE_V2, 0, iova, size, vaddr, access, MessageType.UPDATE))


def unmap_memory(fd: int, iova: int, size: int) -> None:
    write(fd, _MESSAGE.pack(MESSAGE_V2, 0, iova, size, 0, 0, MessageType.INVALIDATE))


def _get(fd: int, request: int, form: struct.Struct) -> int:
    data = bytearray(form.size)
    ioctl(fd, request, data)
    return int(form.unpack(data)[0])
