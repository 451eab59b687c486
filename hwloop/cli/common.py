"""What several commands share: their arguments, opening a disk, JSON, and progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hwloop.errors import HwloopError
from hwloop.size import parse_size

if TYPE_CHECKING:
    from hwloop.device.base import Driver
    from hwloop.device.block import BlockDevice

    _IntParameter = click.ParamType[int]
else:
    # Generic only from click 8.2 on.
    _IntParameter = click.ParamType

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


SIZE = SizeParameter()
target_argument = click.argument("target")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with a stable schema.")


def open_disk(target: str) -> BlockDevice:
    """Take a block device: as `open_device`."""
    from hwloop.device.block import BlockDevice

    return open_device(target, BlockDevice, "a disk")  # type: ignore[type-abstract]


def open_device(target: str, kind: type[D], what: str) -> D:
    """Take a device that is driven by `kind`, which is `what` to a user.

    Raises Unsupported for a device of another type, and what `hwloop.session.open` raises.
    """
    from hwloop import session
    from hwloop.errors import Unsupported

    device = session.open(target)
    if not isinstance(device, kind):
        device.close()
        label = device.device_type().label
        article = "an" if label[0] in "aeiou" else "a"
        raise Unsupported(f"{target} is {article} {label} device, not {what}", remedy="see: hwloop list")
    return device


def print_json(content: dict[str, Any]) -> None:
    """Print an object, with the number of its schema first."""
    click.echo(json.dumps({"schema": SCHEMA, **content}, indent=2))


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many bytes are done; draws a bar on a terminal's stderr for long transfers.

    `total` None: not known.
    """
    if not sys.stderr.isatty() or (total is not None and total < _PROGRESS_FROM):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
