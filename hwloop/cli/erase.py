"""`hwloop zero`, `hwloop discard` and `hwloop secure-erase`: ranges of a disk that lose what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from hwloop.cli.common import (
    SIZE,
    bytes_text,
    destroy_option,
    json_option,
    open_disk,
    print_json,
    progress,
    progress_option,
    target_argument,
)
from hwloop.errors import ReadOnlyDisk, RefusedError, Unsupported

if TYPE_CHECKING:
    from hwloop.device.blk_ranges import BlkRanges
    from hwloop.device.block import BlockDevice

_STEP = 1 << 30
"""Bytes after which progress is shown, and Ctrl-C is looked at."""


def _range_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """OFFSET LENGTH, or --all."""
    for decorate in (
        json_option,
        progress_option,
        click.option("--all", "whole", is_flag=True, help="The whole disk, instead of OFFSET and LENGTH."),
        click.argument("length", type=SIZE, required=False),
        click.argument("offset", type=SIZE, required=False),
        target_argument,
    ):
        function = decorate(function)
    return function


@click.command("zero")
@click.option("--write", is_flag=True, help="Write zeros also where the disk could zero by itself.")
@click.option("--no-unmap", is_flag=True, help="The disk is to keep the space allocated.")
@destroy_option
@_range_arguments
def zero(
    target: str, offset: int | None, length: int | None, whole: bool, write: bool, no_unmap: bool,
    destroy: bool, show_progress: bool | None, as_json: bool,
) -> None:  # fmt: skip
    """Make LENGTH bytes from OFFSET on zeros, or with --all the whole disk, and flush.

    A disk with VIRTIO_BLK_F_WRITE_ZEROES does it by itself, and may give up the space; on another one, and in parts of
    a block, zeros are written.
    """
    from hwloop.transfer.sink import DiskSink

    _check_arguments(offset, length, whole)
    with open_disk(target, destroy=destroy) as disk:
        start, count = _chosen(disk, offset, length)
        sink = DiskSink(disk, target, may_write_zeroes=not write, unmap=not no_unmap)
        _check_writable(disk)
        with progress(f"zeroing {target}", count, wanted=show_progress) as report:
            _announce("zeroing", target, start, count)
            for at, size in _steps(start, count):
                sink.zero(at, size)
                report(at + size - start)
            sink.finish(start + count)
    _say("zeroed", target, start, count, as_json)


@click.command("discard")
@destroy_option
@_range_arguments
def discard(
    target: str, offset: int | None, length: int | None, whole: bool, destroy: bool, show_progress: bool | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Tell a disk that LENGTH bytes from OFFSET on are not needed any more, or with --all the whole disk.

    What they read as afterwards is the disk's choice. Whole blocks only.
    """
    _check_arguments(offset, length, whole)
    with open_disk(target, destroy=destroy) as disk:
        start, count = _chosen(disk, offset, length)
        ranges = _ranges(disk, "VIRTIO_BLK_F_DISCARD")
        _check_offered(disk, disk.limits.discard, "VIRTIO_BLK_F_DISCARD")
        ranges.discard_requests([(start, count)])  # refuses what is wrong, and sends nothing
        _run("discarding", target, start, count, ranges.discard, show_progress)
    _say("discarded", target, start, count, as_json)


@click.command("secure-erase")
@click.option("--yes-destroy-data", is_flag=True, help="Needed: nobody gets the data back.")
@_range_arguments
def secure_erase(
    target: str, offset: int | None, length: int | None, whole: bool, yes_destroy_data: bool,
    show_progress: bool | None, as_json: bool,
) -> None:  # fmt: skip
    """Erase LENGTH bytes from OFFSET on, and every copy that the disk has of them; with --all the whole disk."""
    _check_arguments(offset, length, whole)
    what = "everything on it" if whole else f"{length} bytes from byte {offset} on"
    if not yes_destroy_data:
        raise RefusedError(
            f"secure-erase would destroy data of {target} for ever, {what}; nothing was opened",
            remedy="say --yes-destroy-data if that is wanted",
        )
    with open_disk(target) as disk:
        start, count = _chosen(disk, offset, length)
        ranges = _ranges(disk, "VIRTIO_BLK_F_SECURE_ERASE")
        _check_offered(disk, disk.limits.secure_erase, "VIRTIO_BLK_F_SECURE_ERASE")
        ranges.secure_erase_requests([(start, count)])  # refuses what is wrong, and sends nothing
        _run("erasing", target, start, count, ranges.secure_erase, show_progress)
    _say("erased", target, start, count, as_json)


def _check_arguments(offset: int | None, length: int | None, whole: bool) -> None:
    if whole and offset is not None:
        raise click.UsageError("--all is the whole disk: leave OFFSET and LENGTH out")
    if not whole and length is None:
        raise click.UsageError("say what: OFFSET and LENGTH, or --all for the whole disk")


def _chosen(disk: BlockDevice, offset: int | None, length: int | None) -> tuple[int, int]:
    from hwloop.device.stream import check_range

    start = offset or 0
    count = disk.size() if length is None else length
    check_range(disk, start, count)
    return start, count


def _ranges(disk: BlockDevice, feature: str) -> BlkRanges:
    from hwloop.device.blk_ranges import BlkRanges

    if not isinstance(disk, BlkRanges):
        raise Unsupported(f"a {disk.device_name()} disk has no {feature}")
    return disk


def _check_offered(disk: BlockDevice, limits: object, feature: str) -> None:
    """Before anything is announced."""
    if limits is None:
        raise Unsupported(f"the disk does not offer {feature}", remedy="hwloop zero works on every disk")
    _check_writable(disk)


def _check_writable(disk: BlockDevice) -> None:
    if disk.readonly():
        raise ReadOnlyDisk("the disk is read-only; nothing was sent")


def _run(
    what: str, target: str, start: int, count: int, act: Callable[[int, int], None], show_progress: bool | None
) -> None:
    with progress(f"{what} {target}", count, wanted=show_progress) as report:
        _announce(what, target, start, count)
        for at, size in _steps(start, count):
            act(at, size)
            report(at + size - start)


def _steps(start: int, count: int) -> Iterator[tuple[int, int]]:
    for at in range(start, start + count, _STEP):
        yield at, min(_STEP, start + count - at)


def _announce(what: str, target: str, start: int, count: int) -> None:
    click.echo(f"{what} {bytes_text(count)} of {target}, from byte {start} on", err=True)


def _say(what: str, target: str, start: int, count: int, as_json: bool) -> None:
    if as_json:
        print_json({"target": target, "action": what, "offset": start, "length": count})
