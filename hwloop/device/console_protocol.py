"""The numbers and structures of the console device (VIRTIO 1.4, 5.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from hwloop.config import ConfigStruct, ReadOnly, WriteOnly, read_config, write_config
from hwloop.errors import InvalidParam, Unsupported
from hwloop.spec import ConsoleFeature
from hwloop.transport.base import Transport

CONTROL_BYTES = 8
"""The length of a control message without what follows some of them."""
CONTROL_QUEUES = (2, 3)
"""The control queues: from the device, to the device."""
LONGEST_MESSAGE = 1024
"""Room for a control message. The specification gives names no limit; QEMU cuts a message that does not fit, and
claims its whole length all the same (hw/char/virtio-serial-bus.c), which nothing here would believe."""


class ConsoleConfig(ConfigStruct):
    """The configuration space (VIRTIO 1.4, 5.3.4). Each feature makes fields of it exist."""

    cols = ReadOnly(0, 2)
    rows = ReadOnly(2, 2)
    max_nr_ports = ReadOnly(4, 4)
    emerg_wr = WriteOnly(8, 4)


class ControlEvent(IntEnum):
    """What a control message is about (VIRTIO 1.4, 5.3.6.2)."""

    DEVICE_READY = 0
    PORT_ADD = 1
    PORT_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


@dataclass(frozen=True)
class ControlMessage:
    """One message on a control queue: port `id`, `event` (a number that need not be a `ControlEvent`), `value`, and
    the bytes that follow, of a RESIZE or a PORT_NAME."""

    id: int
    event: int
    value: int
    rest: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> ControlMessage:
        """Raises InvalidParam for bytes that are no message."""
        if len(data) < CONTROL_BYTES:
            raise InvalidParam(f"a control message of {len(data)} bytes; the shortest has {CONTROL_BYTES}")
        number = int.from_bytes
        return cls(number(data[:4], "little"), number(data[4:6], "little"), number(data[6:8], "little"), data[8:])

    def format(self) -> bytes:
        """The bytes of the message."""
        head = self.id.to_bytes(4, "little") + self.event.to_bytes(2, "little") + self.value.to_bytes(2, "little")
        return head + self.rest

    def size(self) -> tuple[int, int] | None:
        """Columns and rows of a RESIZE; None when they are missing."""
        if len(self.rest) < 4:
            return None
        return int.from_bytes(self.rest[:2], "little"), int.from_bytes(self.rest[2:4], "little")

    def name(self) -> str:
        """The text of a PORT_NAME, safe to print: what is no UTF-8 and what is no character to see is escaped."""
        return printable(self.rest.split(b"\0", 1)[0])


def printable(data: bytes) -> str:
    """Text of a device as it may be shown on a terminal."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def emergency_write(transport: Transport, byte: int) -> None:
    """Give one character to the console by its configuration space, with no queue and no initialisation.

    Works on a transport at any time: before `begin_init`, and after the driver gave the device up
    (VIRTIO 1.4, 5.3.4). Raises Unsupported without VIRTIO_CONSOLE_F_EMERG_WRITE, InvalidParam.
    """
    if not 0 <= byte <= 0xFF:
        raise InvalidParam(f"{byte} is not a byte")
    if not transport.read_device_features() & ConsoleFeature.EMERG_WRITE:
        raise Unsupported("the device has no VIRTIO_CONSOLE_F_EMERG_WRITE, so it takes no emergency writes")
    write_config(transport, ConsoleConfig.emerg_wr, byte)


def read_size(transport: Transport) -> tuple[int, int]:
    """Columns and rows as the configuration has them now."""

    def both() -> tuple[int, int]:
        return read_config(transport, ConsoleConfig.cols), read_config(transport, ConsoleConfig.rows)

    return transport.read_consistent(both)
