"""Runs commands of the language on a disk, and says what each did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hwloop.device.blk_ranges import BlkRanges
from hwloop.device.block import BlockDevice
from hwloop.device.stream import check_range, read_range, write_range
from hwloop.errors import HwloopError, InvalidParam, Mismatch, Unsupported
from hwloop.hexdump import hexdump
from hwloop.script.language import FORMS, Command
from hwloop.size import format_size, parse_size
from hwloop.spec import SECTOR_SIZE, feature_names
from hwloop.transfer.compare import first_difference
from hwloop.transfer.piece import PIECE_BYTES
from hwloop.transfer.sink import write_zeroes_of

_LONGEST_SLEEP = 3600.0


@dataclass
class Event:
    """What one command did: `text` for a person, `result` for JSON."""

    command: str
    text: list[str] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pending:
    """An aio command that the device has."""

    command: Command
    token: int


class Script:
    """Runs commands on a disk, one after the other. `finish` at the end waits for what aio commands started.

    `before_change` is called before the first command that changes the disk.
    """

    def __init__(self, disk: BlockDevice, *, before_change: Callable[[], None] | None = None) -> None:
        self._disk = disk
        self._before_change = before_change
        self._pending: list[_Pending] = []
        self.ended = False

    def run(self, command: Command) -> Event:
        """Raises what the disk raises, InvalidParam for a range that is not on it, Mismatch for a pattern that is not
        there."""
        event = Event(command.name)
        if self._before_change is not None and command.name in _CHANGES:
            self._before_change()
            self._before_change = None
        _ACTIONS[command.name](self, command, event)
        return event

    def finish(self) -> Event:
        """The end of all aio commands. Raises the first of their errors."""
        event = Event("aio_flush")
        first: HwloopError | None = None
        while self._pending:
            pending = self._pending.pop(0)
            try:
                self._settle(pending, event)
            except HwloopError as error:
                first = first or error
        if first is not None:
            raise first
        return event

    # --- Commands -----------------------------------------------------------------------------------------------------

    def _read(self, command: Command, event: Event) -> None:
        offset, length = self._range(command)
        chunks = read_range(self._disk, offset, length)
        self._look(command, offset, length, chunks, event)
        self._report("read", offset, length, command, event)

    def _look(self, command: Command, offset: int, length: int, chunks: Iterator[bytes], event: Event) -> None:
        """Check the pattern, and show the bytes with -v."""
        start = offset + parse_size(command.options.get("s", "0"))
        end = start + parse_size(command.options["l"]) if command.has("l") else offset + length
        position, shown = offset, []
        for chunk in chunks:
            low, high = max(start - position, 0), min(end - position, len(chunk))
            if command.has("P") and low < high:
                self._check(command.pattern(), position + low, chunk[low:high])
            if command.has("v"):
                shown.append(chunk)
            position += len(chunk)
        event.text += hexdump(shown, offset)

    def _check(self, byte: int, offset: int, data: bytes) -> None:
        at = first_difference(bytes([byte]) * len(data), data)
        if at is not None:
            raise Mismatch(
                f"pattern verification failed at offset {offset + at}: it holds {data[at]:#04x}, not {byte:#04x}",
                offset=offset + at,
            )

    def _write(self, command: Command, event: Event) -> None:
        offset, length = self._range(command)
        if command.has("z"):
            self._zero(command, offset, length)
        else:
            for _ in write_range(self._disk, offset, _pattern(command.pattern(), length)):
                pass
        if command.has("f"):
            self._disk.flush()
        self._report("wrote", offset, length, command, event)

    def _zero(self, command: Command, offset: int, length: int) -> None:
        write_zeroes = write_zeroes_of(self._disk, unmap=command.has("u"))
        if command.has("P"):
            raise InvalidParam("-z and -P are two things to write", remedy="leave one of them out")
        if write_zeroes is None:
            raise Unsupported("the disk has no VIRTIO_BLK_F_WRITE_ZEROES", remedy="write -P 0 writes zeros")
        write_zeroes(offset, length)

    def _discard(self, command: Command, event: Event) -> None:
        offset, length = self._range(command)
        if not isinstance(self._disk, BlkRanges):
            raise Unsupported("the disk has no VIRTIO_BLK_F_DISCARD")
        self._disk.discard(offset, length)
        self._report("discard", offset, length, command, event)

    def _flush(self, command: Command, event: Event) -> None:
        self._disk.flush()

    def _aio(self, command: Command, event: Event) -> None:
        offset, length = self._range(command)
        if offset % SECTOR_SIZE:
            raise InvalidParam(f"{command.name} at {offset}: it must be whole sectors", remedy="use read or write")
        if command.name == "aio_read":
            token = self._disk.submit_read(offset // SECTOR_SIZE, length)
        else:
            data = bytes([0 if command.has("z") else command.pattern()]) * length
            token = self._disk.submit_write(offset // SECTOR_SIZE, data)
        self._pending.append(_Pending(command, token))

    def _settle(self, pending: _Pending, event: Event) -> None:
        command, data = pending.command, self._disk.wait(pending.token)
        offset, length = command.size(0), command.size(1)
        if command.name == "aio_read":
            self._look(command, offset, length, iter([data]), event)
        self._report("read" if command.name == "aio_read" else "wrote", offset, length, command, event)

    def _aio_flush(self, command: Command, event: Event) -> None:
        done = self.finish()
        event.text, event.result = done.text, done.result

    def _length(self, command: Command, event: Event) -> None:
        event.text = [format_size(self._disk.size())]
        event.result = {"bytes": self._disk.size()}

    def _info(self, command: Command, event: Event) -> None:
        disk = self._disk
        event.result = {
            "device": disk.device_name(), "bytes": disk.size(), "block_size": disk.block_size(),
            "read_only": disk.readonly(),
        }  # fmt: skip
        event.text = [
            f"device: {disk.device_name()}{', read-only' if disk.readonly() else ''}",
            f"size: {disk.size()} bytes in blocks of {disk.block_size()}",
        ]
        negotiated = getattr(disk, "negotiated", None)
        if negotiated is not None:
            event.result["features"] = feature_names(negotiated, disk.device_type())
            event.text.append(f"features in use: {' '.join(event.result['features'])}")

    def _sleep(self, command: Command, event: Event) -> None:
        seconds = command.size(0) / 1000
        if seconds > _LONGEST_SLEEP:
            raise InvalidParam(f"sleep {command.arguments[0]} is longer than an hour", remedy="give milliseconds")
        time.sleep(seconds)

    def _help(self, command: Command, event: Event) -> None:
        for name, form in FORMS.items():
            if not command.arguments or name == command.arguments[0]:
                event.text.append(f"{name} {form.usage}".rstrip())

    def _quit(self, command: Command, event: Event) -> None:
        self.ended = True

    # --- Private ------------------------------------------------------------------------------------------------------

    def _range(self, command: Command) -> tuple[int, int]:
        offset, length = command.size(0), command.size(1)
        check_range(self._disk, offset, length)
        return offset, length

    def _report(self, verb: str, offset: int, length: int, command: Command, event: Event) -> None:
        event.result = {"offset": offset, "bytes": length}
        if not command.has("q"):
            event.text.append(f"{verb} {length}/{length} bytes at offset {offset}")


def _pattern(byte: int, length: int) -> Iterator[bytes]:
    for at in range(0, length, PIECE_BYTES):
        yield bytes([byte]) * min(PIECE_BYTES, length - at)


_CHANGES = ("write", "aio_write", "discard")
_ACTIONS: dict[str, Callable[[Script, Command, Event], None]] = {
    "read": Script._read,
    "write": Script._write,
    "aio_read": Script._aio,
    "aio_write": Script._aio,
    "aio_flush": Script._aio_flush,
    "flush": Script._flush,
    "discard": Script._discard,
    "length": Script._length,
    "info": Script._info,
    "sleep": Script._sleep,
    "help": Script._help,
    "quit": Script._quit,
}
