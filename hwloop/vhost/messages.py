"""The messages of vhost-user as tables: numbers, payloads, and what goes with what. Everything here is pure.

QEMU, docs/interop/vhost-user.rst. A message is a header of 12 bytes and a payload; file descriptors travel beside it.
Numbers are in the byte order of the machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import ClassVar, NamedTuple, Self

from hwloop.vhost.errors import UnexpectedMessage, WrongFlags, WrongSize

VERSION = 1
"""What the lowest two bits of the flags say."""
REPLY = 1 << 2
NEED_REPLY = 1 << 3
_KNOWN_FLAGS = 3 | REPLY | NEED_REPLY

PROTOCOL_FEATURES = 1 << 30
"""The feature bit that says that there are protocol features. It is no feature of the device."""
LOG_ALL = 1 << 26
"""The feature bit by which a back end is told to log its writes, for migration. It is no feature of the device."""

LONGEST_CONFIG = 256
"""Bytes of a configuration space at most."""
MOST_REGIONS = 8
"""Regions of a memory table at most."""
NO_DESCRIPTOR = 1 << 8
"""Beside the index of a queue: no eventfd comes with the message, and there is none from now on."""
_LONGEST_PAYLOAD = 4096


class Request(IntEnum):
    """What a front end says."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


class BackEndRequest(IntEnum):
    """What a back end says, through a channel of its own."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5
    SHARED_OBJECT_ADD = 6
    SHARED_OBJECT_REMOVE = 7
    SHARED_OBJECT_LOOKUP = 8


class ProtocolFeature(IntFlag):
    """What can be negotiated of the protocol itself."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    NET_MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19


# --- Header -----------------------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """What every message begins with: `request` a number of `Request` or `BackEndRequest`, `size` of the payload."""

    request: int
    flags: int
    size: int

    def format(self) -> bytes:
        return _HEADER.pack(*self)

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Raises WrongFlags, WrongSize for a payload that no message has."""
        header = cls(*_HEADER.unpack(data))
        if header.flags & 3 != VERSION or header.flags & ~_KNOWN_FLAGS:
            raise WrongFlags(
                f"message {header.request} has the flags {header.flags:#x}, not those of version {VERSION}"
            )
        if header.size > _LONGEST_PAYLOAD:
            raise WrongSize(
                f"message {header.request} claims {header.size} bytes; none has more than {_LONGEST_PAYLOAD}"
            )
        return header


_HEADER = Struct("=III")
HEADER_BYTES = _HEADER.size


# --- Payloads ---------------------------------------------------------------------------------------------------------


class Payload(ABC):
    """What follows a header."""

    @abstractmethod
    def format(self) -> bytes:
        """The bytes of it."""

    @classmethod
    @abstractmethod
    def parse(cls, data: bytes) -> Self:
        """The opposite of `format`. Raises WrongSize."""


@dataclass(frozen=True)
class Numbers(Payload):
    """Numbers in a fixed layout; `LAYOUT` has a code for each field of the class."""

    LAYOUT: ClassVar[Struct] = Struct("=")

    def format(self) -> bytes:
        return self.LAYOUT.pack(*astuple(self))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        _check_size(cls.__name__, data, cls.LAYOUT.size)
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True)
class Nothing(Numbers):
    """A message that is its own meaning."""


@dataclass(frozen=True)
class Number(Numbers):
    """Features, a count, a status, an index beside an eventfd, or 0 for success."""

    LAYOUT = Struct("=Q")
    value: int


@dataclass(frozen=True)
class VringState(Numbers):
    """A number about the queue `index`: its size, the next available index, or whether it is enabled."""

    LAYOUT = Struct("=II")
    index: int
    num: int


@dataclass(frozen=True)
class VringAddresses(Numbers):
    """Where the queue `index` is, in user addresses."""

    LAYOUT = Struct("=IIQQQQ")
    index: int
    flags: int
    descriptors: int
    used: int
    available: int
    log: int = 0


@dataclass(frozen=True)
class Region(Numbers):
    """Memory: descriptors name it by its `guest` address, ring addresses by its `user` address; both are labels.

    It is `size` bytes of the file that comes with the message, from `offset` on.
    """

    LAYOUT = Struct("=QQQQ")
    guest: int
    size: int
    user: int
    offset: int = 0


@dataclass(frozen=True)
class SingleRegion(Payload):
    """One region, to add or to remove."""

    LAYOUT: ClassVar[Struct] = Struct("=Q")
    region: Region

    def format(self) -> bytes:
        return self.LAYOUT.pack(0) + self.region.format()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        _check_size(cls.__name__, data, cls.LAYOUT.size + Region.LAYOUT.size)
        return cls(Region.parse(data[cls.LAYOUT.size :]))


@dataclass(frozen=True)
class MemoryTable(Payload):
    """All regions at once; those that were there before are forgotten."""

    LAYOUT: ClassVar[Struct] = Struct("=II")
    regions: tuple[Region, ...]

    def format(self) -> bytes:
        return self.LAYOUT.pack(len(self.regions), 0) + b"".join(region.format() for region in self.regions)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        start, step = cls.LAYOUT.size, Region.LAYOUT.size
        count = cls.LAYOUT.unpack(data[:start])[0] if len(data) >= start else 0
        _check_size(cls.__name__, data, start + step * count)
        return cls(tuple(Region.parse(data[at : at + step]) for at in range(start, len(data), step)))


@dataclass(frozen=True)
class Config(Payload):
    """A piece of the configuration space. Its `size` may differ from the bytes that follow in no message."""

    LAYOUT: ClassVar[Struct] = Struct("=III")
    offset: int
    data: bytes
    flags: int = 0

    def format(self) -> bytes:
        return self.LAYOUT.pack(self.offset, len(self.data), self.flags) + self.data

    @classmethod
    def parse(cls, data: bytes) -> Self:
        start = cls.LAYOUT.size
        if len(data) < start:
            raise WrongSize(f"a Config of {len(data)} bytes; its first three numbers take {start}")
        offset, size, flags = cls.LAYOUT.unpack(data[:start])
        _check_size(cls.__name__, data, start + size)
        return cls(offset, data[start:], flags)


@dataclass(frozen=True)
class Inflight(Numbers):
    """Memory in which a back end notes what it is working on: `size` bytes of a file from `offset` on."""

    LAYOUT = Struct("=QQHH4x")
    size: int
    offset: int
    queues: int
    queue_size: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The document has no padding at the end; QEMU's structure has. Raises WrongSize."""
        return super().parse(data + bytes(4) if len(data) == 20 else data)


def _check_size(name: str, data: bytes, size: int) -> None:
    if len(data) != size:
        raise WrongSize(f"a {name} of {len(data)} bytes; it has {size}")


# --- What goes with what ----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """One kind of message: its payload, that of its answer where it always has one, how many descriptors come with
    each, and the protocol feature that it is part of."""

    payload: type[Payload]
    reply: type[Payload] | None = None
    descriptors: range = range(1)
    reply_descriptors: range = range(1)
    feature: ProtocolFeature = ProtocolFeature(0)


_ONE = range(1, 2)
_ONE_OR_NONE = range(2)

KINDS: dict[Request, Kind] = {
    Request.GET_FEATURES: Kind(Nothing, Number),
    Request.SET_FEATURES: Kind(Number),
    Request.SET_OWNER: Kind(Nothing),
    Request.SET_MEM_TABLE: Kind(MemoryTable, descriptors=range(1, MOST_REGIONS + 1)),
    Request.SET_VRING_NUM: Kind(VringState),
    Request.SET_VRING_ADDR: Kind(VringAddresses),
    Request.SET_VRING_BASE: Kind(VringState),
    Request.GET_VRING_BASE: Kind(VringState, VringState),
    Request.SET_VRING_KICK: Kind(Number, descriptors=_ONE_OR_NONE),
    Request.SET_VRING_CALL: Kind(Number, descriptors=_ONE_OR_NONE),
    Request.SET_VRING_ERR: Kind(Number, descriptors=_ONE_OR_NONE),
    Request.GET_PROTOCOL_FEATURES: Kind(Nothing, Number),
    Request.SET_PROTOCOL_FEATURES: Kind(Number),
    Request.GET_QUEUE_NUM: Kind(Nothing, Number, feature=ProtocolFeature.MQ),
    Request.SET_VRING_ENABLE: Kind(VringState),
    Request.SET_BACKEND_REQ_FD: Kind(Nothing, descriptors=_ONE, feature=ProtocolFeature.BACKEND_REQ),
    Request.GET_CONFIG: Kind(Config, Config, feature=ProtocolFeature.CONFIG),
    Request.SET_CONFIG: Kind(Config, feature=ProtocolFeature.CONFIG),
    Request.GET_INFLIGHT_FD: Kind(Inflight, Inflight, reply_descriptors=_ONE, feature=ProtocolFeature.INFLIGHT_SHMFD),
    Request.SET_INFLIGHT_FD: Kind(Inflight, descriptors=_ONE, feature=ProtocolFeature.INFLIGHT_SHMFD),
    Request.RESET_DEVICE: Kind(Nothing, feature=ProtocolFeature.RESET_DEVICE),
    Request.GET_MAX_MEM_SLOTS: Kind(Nothing, Number, feature=ProtocolFeature.CONFIGURE_MEM_SLOTS),
    Request.ADD_MEM_REG: Kind(SingleRegion, descriptors=_ONE, feature=ProtocolFeature.CONFIGURE_MEM_SLOTS),
    # Not sent here (see VhostHal); a back end may get a descriptor that it has to close.
    Request.REM_MEM_REG: Kind(SingleRegion, descriptors=_ONE_OR_NONE, feature=ProtocolFeature.CONFIGURE_MEM_SLOTS),
    Request.SET_STATUS: Kind(Number, feature=ProtocolFeature.STATUS),
    Request.GET_STATUS: Kind(Nothing, Number, feature=ProtocolFeature.STATUS),
}
"""The messages that are used here. A message whose kind has no answer is answered by a number, 0 for success, where
REPLY_ACK was negotiated and the message asks for it."""

BACK_END_KINDS: dict[BackEndRequest, Kind] = {BackEndRequest.CONFIG_CHANGE_MSG: Kind(Nothing)}
"""What a back end may say to us: only what we negotiate."""


def parse_request(number: int) -> Request:
    """Raises UnexpectedMessage for what is not in `KINDS`."""
    if number not in KINDS:
        raise UnexpectedMessage(f"message {number} is not known here")
    return Request(number)


def parse_back_end_request(number: int) -> BackEndRequest:
    """Raises UnexpectedMessage for what is not in `BACK_END_KINDS`."""
    if number not in BACK_END_KINDS:
        raise UnexpectedMessage(f"the back end sent message {number} on its own channel, and may not")
    return BackEndRequest(number)
