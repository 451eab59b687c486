"""The numbers and layouts of NBD (doc/proto.md of the NBD project), as far as this server speaks it.

All numbers on the wire are big-endian.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from hwloop.errors import HwloopError

GREETING = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x3E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">8sII")
OPTION_REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
SIMPLE_REPLY = struct.Struct(">IIQ")
CHUNK = struct.Struct(">IHHQI")
"""A structured reply is made of chunks; ours is always one."""

PORT = 10809
"""What IANA has given to NBD."""
LONGEST_NAME = 4096
LONGEST_OPTION = 16 << 10
"""Bytes of an option at most: a name, and room for requests of information."""


class ClientBroken(HwloopError):
    """A client said what no client may say; its connection is closed, and others go on."""

    default_errno = errno.EPROTO


class HandshakeFlag(IntFlag):
    """What a server says first, and how a client answers."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """NBD_OPT_...: what a client asks for before it has a disk."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8


class OptionReply(IntEnum):
    """NBD_REP_...: the answers to options; errors have the highest bit."""

    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = 1 << 31 | 1
    ERR_INVALID = 1 << 31 | 3
    ERR_UNKNOWN = 1 << 31 | 6
    ERR_TOO_BIG = 1 << 31 | 9


class Info(IntEnum):
    """NBD_INFO_...: what a client is told of a disk."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class ExportFlag(IntFlag):
    """NBD_FLAG_...: what can be asked of a disk."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_FAST_ZERO = 1 << 11


class Command(IntEnum):
    """NBD_CMD_...: the requests."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CommandFlag(IntFlag):
    """NBD_CMD_FLAG_...: how a request is meant."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    FAST_ZERO = 1 << 4


FLAGS_OF = {
    Command.READ: CommandFlag.FUA | CommandFlag.DF,
    Command.WRITE: CommandFlag.FUA,
    Command.FLUSH: CommandFlag.FUA,
    Command.TRIM: CommandFlag.FUA,
    Command.WRITE_ZEROES: CommandFlag.FUA | CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
}
"""The commands that are served, and the flags that each may have. FUA means nothing to some, and is allowed."""

CHANGING = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
"""Commands that a read-only disk refuses."""


class ChunkType(IntEnum):
    """NBD_REPLY_TYPE_..."""

    OFFSET_DATA = 1
    ERROR = 1 << 15 | 1


CHUNK_DONE = 1
"""NBD_REPLY_FLAG_DONE: nothing follows for this request."""

_KNOWN = frozenset({
    errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.EOVERFLOW, errno.ENOTSUP, errno.ESHUTDOWN,
})  # fmt: skip
"""The errors that NBD has; the numbers are those of Linux."""


def error_number(error: OSError) -> int:
    """What a client is told of an error."""
    if error.errno == errno.EROFS:
        return errno.EPERM
    return error.errno if error.errno in _KNOWN else errno.EIO


@dataclass(frozen=True)
class Request:
    """A request as it came; `command` may be one that there is not."""

    flags: int
    command: int
    cookie: int
    offset: int
    length: int

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """Raises ClientBroken for what is no request: nobody knows where the next one would begin."""
        magic, *fields = REQUEST.unpack(data)
        if magic != REQUEST_MAGIC:
            raise ClientBroken(f"a request begins with {magic:#x}, not {REQUEST_MAGIC:#x}")
        return cls(*fields)

    def __str__(self) -> str:
        name = Command(self.command).name if self.command in list(Command) else f"command {self.command}"
        return f"{name} of {self.length} bytes at {self.offset}"


def option_reply(option: int, kind: OptionReply, data: bytes = b"") -> bytes:
    """An answer to an option."""
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def simple_reply(cookie: int, error: int = 0) -> bytes:
    """The answer to a request; what was read follows where there is no error."""
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)


def data_chunk(cookie: int, offset: int, length: int) -> bytes:
    """The head of a structured reply with what was read, which follows."""
    head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkType.OFFSET_DATA, cookie, 8 + length)
    return head + offset.to_bytes(8, "big")


def error_chunk(cookie: int, error: int, text: str) -> bytes:
    """A structured reply that says what is wrong in words too."""
    said = text.encode()[:LONGEST_NAME]
    head = CHUNK.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, ChunkType.ERROR, cookie, 6 + len(said))
    return head + struct.pack(">IH", error, len(said)) + said


@dataclass(frozen=True)
class InfoRequest:
    """What comes with NBD_OPT_INFO and NBD_OPT_GO: the name of a disk, and what else is wanted of it."""

    name: str
    wanted: frozenset[int]

    @classmethod
    def parse(cls, data: bytes) -> InfoRequest:
        """Raises ClientBroken for what has another length than it says."""
        if len(data) < 6:
            raise ClientBroken(f"an option of {len(data)} bytes has no room for a name")
        end = 4 + int.from_bytes(data[:4], "big")
        if end + 2 > len(data):
            raise ClientBroken("the name is longer than the option")
        count = int.from_bytes(data[end : end + 2], "big")
        if len(data) != end + 2 + 2 * count:
            raise ClientBroken(f"an option of {len(data)} bytes cannot have {count} requests of information")
        return cls(parse_name(data[4:end]), frozenset(struct.unpack(f">{count}H", data[end + 2 :])))


def parse_name(data: bytes) -> str:
    """The name of a disk. Raises ClientBroken for one that is too long or no text."""
    if len(data) > LONGEST_NAME:
        raise ClientBroken(f"a name of {len(data)} bytes is longer than {LONGEST_NAME}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ClientBroken("the name is not UTF-8") from None
