"""What a word names that stands for one end of a transfer: a device, a file, or `-` for a pipe."""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack

from hwloop import session
from hwloop.device.block import BlockDevice
from hwloop.device.signature import refuse_data
from hwloop.errors import HwloopError, InvalidParam, Unsupported
from hwloop.removal import give_back_when_asked
from hwloop.signals import standard_input
from hwloop.target import KINDS, Target
from hwloop.transfer import sink, source
from hwloop.transfer.sink import DiskSink, Sink, StreamSink
from hwloop.transfer.source import DiskSource, Source, StreamSource

PIPE = "-"
FILE_PREFIX = "file:"

_KERNEL_DISK = re.compile(r"vd[a-z]+")
_IMAGE_KINDS = ("qemu", "svirtb")


def target_of(word: str) -> Target | None:
    """The device that a word names, or None for a file or a pipe.

    `file:NAME` is a file, whatever its name; what begins with the kind of a target, is a PCI address is a device. A
    bare word, or one in /dev, is one when the kernel has a disk of that name, or it looks like one (`vdb`).
    """
    if word == PIPE or word.startswith(FILE_PREFIX):
        return None
    scheme, separator, _ = word.partition(":")
    if separator and scheme in KINDS:
        return Target.parse(word)
    try:
        target = Target.parse(word)
    except HwloopError:
        return None
    return target if target.kind != "block" or _is_disk(target.name) else None


def _is_disk(name: str) -> bool:
    return bool(_KERNEL_DISK.fullmatch(name)) or os.path.exists(f"/sys/class/block/{name}")


def path_of(word: str) -> str | None:
    """The file that a word names, or None."""
    return None if word == PIPE or target_of(word) is not None else word.removeprefix(FILE_PREFIX)


def open_source(word: str) -> Source:
    """Raises what `session.open` raises for a device, SetupError for a file."""
    if word == PIPE:
        return StreamSource(standard_input(), "standard input")
    path = path_of(word)
    return source.open_path(path) if path is not None else DiskSource(open_block_device(word), word)


def open_sink(word: str, *, keep: bool = False, destroy: bool = True) -> Sink:
    """Raises as `open_source`. `keep`: a file is not emptied first. Without `destroy`, raises RefusedError for a disk
    that holds data."""
    if word == PIPE:
        return StreamSink(open(sys.stdout.fileno(), "wb", closefd=False), "standard output")
    path = path_of(word)
    if path is not None:
        return sink.open_path(path, keep=keep)
    with ExitStack() as stack:
        disk = stack.enter_context(open_block_device(word))
        if not destroy:
            refuse_data(disk, word)
        stack.pop_all()
    return DiskSink(disk, word)


def open_block_device(target: str) -> BlockDevice:
    """Take a disk. Raises Unsupported for a device of another type, and what `session.open` raises."""
    with ExitStack() as stack:
        device = stack.enter_context(session.open(target))
        give_back_when_asked(device)
        if not isinstance(device, BlockDevice):
            label = device.device_type().label
            article = "an" if label[0] in "aeiou" else "a"
            raise Unsupported(f"{target} is {article} {label} device, not a disk", remedy="see: hwloop list")
        stack.pop_all()
    return device


def check_different(first: str, second: str) -> None:
    """Raises InvalidParam when both words name the same file, device, or pipe in one direction."""
    if first == second == PIPE:
        return
    if first == second or _same_file(_file_behind(first), _file_behind(second)):
        raise InvalidParam(f"{first} and {second} are the same")


def _file_behind(word: str) -> str | None:
    """The file itself, or the image that a device has its data in."""
    target = target_of(word)
    if target is None:
        return path_of(word)
    return target.name if target.kind in _IMAGE_KINDS else None


def _same_file(first: str | None, second: str | None) -> bool:
    if first is None or second is None:
        return False
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False
