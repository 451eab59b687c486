"""What several commands share: their arguments, opening a disk, JSON, and progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hwloop.errors import HwloopError
from hwloop.size import format_size, parse_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hwloop.device.base import Device, Driver
    from hwloop.device.blk import VirtioBlk
    from hwloop.device.block import BlockDevice

    _IntParameter = click.ParamType[int]
    _StrParameter = click.ParamType[str]
else:
    # Generic only from click 8.2 on.
    _IntParameter = _StrParameter = click.ParamType

D = TypeVar("D", bound="Driver")

SCHEMA = 1
_PROGRESS_FROM = 8 << 20


class SizeParameter(_IntParameter):
    """A number of bytes with an optional suffix k, M, G or T."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except HwloopError as error:
            self.fail(str(error), param, ctx)


class TargetParameter(_StrParameter):
    """A target, which a shell completes from the devices of this machine. It is parsed by whoever opens it."""

    name = "target"
    files = False

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from hwloop.cli.complete import complete_target

        return complete_target(incomplete, files=self.files)


class EndParameter(TargetParameter):
    """A target, a file, or `-`."""

    name = "end"
    files = True


SIZE = SizeParameter()
TARGET = TargetParameter()
END = EndParameter()
target_argument = click.argument("target", type=TARGET)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with a stable schema.")
progress_option = click.option(
    "--progress/--no-progress",
    "show_progress",
    default=None,
    help="Show how far it is on standard error; default: on a terminal, when it takes a while.",
)


destroy_option = click.option(
    "--yes-destroy-data",
    "destroy",
    is_flag=True,
    help="Also where the disk holds a file system or partitions.",
)


def open_disk(target: str, *, destroy: bool = True) -> BlockDevice:
    """Take a block device: as `open_device`. With `destroy` False, raises RefusedError for one that holds data."""
    from hwloop.device.block import BlockDevice

    disk: BlockDevice = open_device(target, BlockDevice, "a disk")  # type: ignore[type-abstract]
    if destroy:
        return disk
    from hwloop.device.signature import refuse_data

    with ExitStack() as stack:
        stack.push(disk)
        refuse_data(disk, target)
        stack.pop_all()
    return disk


def open_any(target: str) -> Device:
    """Take a virtio device of any type that we have a driver for. Raises Unsupported for what has no transport."""
    from hwloop.device.base import Device

    return open_device(target, Device, "a virtio device with registers")  # type: ignore[type-abstract]


def open_virtio_disk(target: str) -> VirtioBlk:
    """Take a disk that is virtio: svirtb has no caches, lifetimes or zones to ask for."""
    from hwloop.device.blk import VirtioBlk

    return open_device(target, VirtioBlk, "a virtio disk")


def open_device(target: str, kind: type[D], what: str) -> D:
    """Take a device that is driven by `kind`, which is `what` to a user.

    Raises Unsupported for a device of another type, and what `hwloop.session.open` raises.
    """
    from hwloop import session
    from hwloop.errors import Unsupported
    from hwloop.removal import give_back_when_asked
    from hwloop.spec import DeviceType

    device = session.open(target)
    give_back_when_asked(device)
    if not isinstance(device, kind):
        device.close()
        if device.device_type() == DeviceType.Block:
            raise Unsupported(f"{target} is a {device.device_name()} disk, not {what}")
        label = device.device_type().label
        article = "an" if label[0] in "aeiou" else "a"
        raise Unsupported(f"{target} is {article} {label} device, not {what}", remedy="see: hwloop list")
    return device


def print_json(content: dict[str, Any], *, err: bool = False) -> None:
    """Print an object, with the number of its schema first; to standard error where the output is taken."""
    click.echo(json.dumps({"schema": SCHEMA, **content}, indent=2), err=err)


def bytes_text(count: int) -> str:
    """`512 bytes`, `4096 bytes (4 KiB)`."""
    return f"{count} bytes ({format_size(count)})" if count >= 1024 else f"{count} bytes"


def rate_text(count: int, seconds: float) -> str:
    """`; 1.2 s, 340 MiB/s`, or "" for what was too little to tell."""
    if seconds < 0.01 or count < _PROGRESS_FROM:
        return ""
    return f"; {seconds:.1f} s, {format_size(int(count / seconds))}/s"


@contextmanager
def progress(what: str, total: int | None, *, wanted: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many bytes are done; draws a bar on a terminal's stderr for long transfers.

    `total` None: not known. `wanted` True or False: what the user says about it. Where there is no terminal, a bar that
    is wanted is one line for each tenth.
    """
    if wanted and not sys.stderr.isatty():
        yield _lines(what, total)
        return
    if wanted is False or not sys.stderr.isatty() or (not wanted and total is not None and total < _PROGRESS_FROM):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _lines(what: str, total: int | None) -> Callable[[int], None]:
    """Progress in a log: a line at each tenth of what is known, else at each power of two."""
    shown = -1

    def report(done: int) -> None:
        nonlocal shown
        step = done * 10 // total if total else done.bit_length()
        if step > shown:
            shown = step
            click.echo(f"{what}: {step * 10} %" if total else f"{what}: {format_size(done)}", err=True)

    return report
