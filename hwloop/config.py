"""Fields of a device's configuration space, each with its offset, width and direction.

A structure is a class whose attributes are fields:

    class BlkConfig(ConfigStruct):
        capacity = ReadOnly(0, 8)

and `read_config(transport, BlkConfig.capacity)` reads one, with the access width of the field. The direction is in the
type: `write_config` takes no `ReadOnly`, and `read_config` no `WriteOnly`, for a type checker and at run time.
"""

from __future__ import annotations

from typing import Protocol

from hwloop.errors import DriverError, InvalidParam

_WIDTHS = (1, 2, 4, 8)


class ConfigAccess(Protocol):
    """The part of a transport that reaches the configuration space."""

    def read_config_space(self, offset: int, width: int) -> int: ...

    def write_config_space(self, offset: int, width: int, value: int) -> None: ...


class Field:
    """One field: `offset` and `width` in bytes, `name` as declared."""

    readable = False
    writable = False

    def __init__(self, offset: int, width: int) -> None:
        if width not in _WIDTHS or offset < 0 or offset % min(width, 4):
            raise InvalidParam(f"no configuration field has offset {offset} and width {width}")
        self.offset = offset
        self.width = width
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def end(self) -> int:
        """The first offset behind the field."""
        return self.offset + self.width

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name} at {self.offset:#x}, {self.width} bytes)"


class ReadOnly(Field):
    """A field that only the device changes."""

    readable = True


class WriteOnly(Field):
    """A field that only makes sense to write."""

    writable = True


class ReadWrite(ReadOnly, WriteOnly):
    """A field for both."""


class ConfigStruct:
    """Base of the structures; `fields()` lists what one declares, by offset."""

    @classmethod
    def fields(cls) -> list[Field]:
        found = [value for value in vars(cls).values() if isinstance(value, Field)]
        return sorted(found, key=lambda field: field.offset)


def read_config(transport: ConfigAccess, field: ReadOnly) -> int:
    """The field's value; 8 bytes are two 32-bit reads, so wrap them in `Transport.read_consistent`.

    Raises ConfigSpaceMissing or ConfigSpaceTooSmall, or DriverError for a field that cannot be read.
    """
    if not field.readable:
        raise DriverError(f"configuration field {field.name} cannot be read")
    return transport.read_config_space(field.offset, field.width)


def write_config(transport: ConfigAccess, field: WriteOnly, value: int) -> None:
    """Write the field. Raises as `read_config`, and InvalidParam for a value that does not fit."""
    if not field.writable:
        raise DriverError(f"configuration field {field.name} cannot be written")
    if not 0 <= value < 1 << (8 * field.width):
        raise InvalidParam(f"{value} does not fit the {field.width} bytes of configuration field {field.name}")
    transport.write_config_space(field.offset, field.width, value)
