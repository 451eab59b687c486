"""`hwloop queues`."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from hwloop.cli.common import json_option, open_any, print_json, target_argument

if TYPE_CHECKING:
    from hwloop.device.block import BlockDevice
    from hwloop.hal.base import Hal

_WRITE, _BOTH = 2, 1 << 7 | 1 << 15
"""DESC_F_WRITE; and AVAIL and USED of a packed ring."""
_FLAGS = {1: "NEXT", 2: "WRITE", 4: "INDIRECT", 1 << 7: "AVAIL", 1 << 15: "USED"}
_TABLE_ENTRY = struct.Struct("<QIHH")
_EVENT_FLAGS = {0: "enabled", 1: "disabled", 2: "at a certain descriptor"}


@click.command("queues")
@target_argument
@click.option(
    "--request", type=click.Choice(["read", "flush", "none"]), default="read", show_default=True,
    help="What is put into the ring of a disk before it is shown.",
)  # fmt: skip
@json_option
def command(target: str, request: str, as_json: bool) -> None:
    """Show the rings of a device, both sides, and what is in them.

    The device is taken and initialised. So that there is something to see, one request is sent to a disk, and shown
    before its completion is taken.
    """
    from hwloop.device.block import BlockDevice

    with open_any(target) as device:
        token = _start(device, request) if isinstance(device, BlockDevice) else None
        dumps = [{"index": queue.index, **_plain(queue.ring.dump())} for queue in device.virtqueues]
        for chain in (chain for dump in dumps for chain in dump["outstanding"]):
            _add_table(chain, device.hal)
        if token is not None and isinstance(device, BlockDevice):
            device.wait(token)
    if as_json:
        print_json({"target": target, "queues": dumps})
        return
    for dump in dumps:
        for line in lines_of(dump):
            click.echo(line)


def _add_table(chain: dict[str, Any], hal: Hal) -> None:
    """The indirect table of a chain, as its memory has it now: each entry's address, length and two more fields."""
    first = chain["descriptors"][0]
    find = getattr(hal, "vaddr_of", None)
    if not first["indirect"] or chain.get("table") or find is None:
        return
    table = ctypes.string_at(find(first["address"]), first["length"])
    chain["table"] = [list(entry) for entry in _TABLE_ENTRY.iter_unpack(table)]


def _start(disk: BlockDevice, request: str) -> int | None:
    if request == "read" and disk.size():
        return disk.submit_read(0, disk.block_size())
    return disk.submit_flush() if request == "flush" else None


def _plain(value: Any) -> Any:
    """As JSON has it; what a token is, only its owner knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | str | None) else str(value)


def lines_of(dump: dict[str, Any]) -> Iterator[str]:
    """A ring for a person: what each side says, and what that means."""
    size, free = dump["size"], dump["free"]
    yield f"queue {dump['index']}: {dump['format']} ring of {size} descriptors, {free} free"
    options = [name for name in ("event_idx", "in_order", "platform_order") if dump[name]]
    if dump["table_parts"]:
        options.append(f"indirect tables of {dump['table_parts']} parts")
    yield f"  in use         {', '.join(options) or 'nothing beyond the basic ring'}"
    yield f"  interrupts     {'wanted by us' if dump['used_notifications'] else 'not wanted by us: we poll'}"
    if dump["broken"]:
        yield f"  BROKEN         the device broke the rules of the ring: {dump['broken']}"
    yield from (_split_lines if dump["format"] == "split" else _packed_lines)(dump)
    for chain in dump["outstanding"]:
        yield from _chain_lines(chain, dump["format"])
    if not dump["outstanding"]:
        yield "  no buffer is outstanding"


def _split_lines(dump: dict[str, Any]) -> Iterator[str]:
    shared = dump["shared"]
    if shared is None:
        return
    waiting = (shared["used_idx"] - dump["popped_idx"]) & 0xFFFF
    with_device = (shared["avail_idx"] - shared["used_idx"]) & 0xFFFF
    yield f"  avail.idx      {shared['avail_idx']:5}  we have made so many buffers available{_ours(dump)}"
    yield f"  used.idx       {shared['used_idx']:5}  the device has used so many; {with_device} are with it"
    yield f"  taken by us    {dump['popped_idx']:5}  used buffers that wait to be taken: {waiting}"
    yield f"  avail.flags    {shared['avail_flags']:5}  {'no interrupt, please' if shared['avail_flags'] & 1 else '-'}"
    told = "need not be notified" if shared["used_flags"] & 1 else "wants to be notified"
    yield f"  used.flags     {shared['used_flags']:5}  the device {told}"
    if dump["event_idx"]:
        yield f"  used_event     {shared['used_event']:5}  we want an interrupt at this used.idx"
        yield f"  avail_event    {shared['avail_event']:5}  the device wants a notification at this avail.idx"
    for head, length in shared["used_waiting"]:
        yield f"  used           head {head}: the device wrote {length} bytes"


def _ours(dump: dict[str, Any]) -> str:
    hidden = (dump["added_idx"] - dump["published_idx"]) & 0xFFFF
    return f"; {hidden} more are written and not shown yet" if hidden else ""


def _packed_lines(dump: dict[str, Any]) -> Iterator[str]:
    for key, meaning in (
        ("next_avail", "where we write the next descriptor, and our wrap counter"),
        ("next_used", "where the device writes the next used descriptor, and its wrap counter"),
    ):
        place, wrap = dump[key]
        yield f"  {key:14} {place:5}  wrap {wrap}: {meaning}"
    shared = dump["shared"]
    if shared is None:
        return
    for key, whose in (("driver_event", "our interrupts"), ("device_event", "the device's notifications")):
        place, flags = shared[key]
        state = _EVENT_FLAGS.get(flags & 3, "reserved")
        yield f"  {key:14} {flags:5}  {whose} are {state}{f' {place & 0x7FFF}' if flags & 3 == 2 else ''}"
    address, length, buffer_id, flags = shared["at_next_used"]
    yield f"  at next_used   {address:#x}, {length} bytes, id {buffer_id}, flags {_flag_names(flags)}"
    if flags & _BOTH == (_BOTH if dump["next_used"][1] else 0):
        yield f"  used           buffer {buffer_id}: the device wrote {length} bytes; it waits to be taken by us"
    else:
        yield "  used           nothing that waits to be taken: AVAIL and USED would both be as the wrap counter"


def _chain_lines(chain: dict[str, Any], ring_format: str) -> Iterator[str]:
    state = "available" if chain["published"] else "not shown to the device yet"
    yield f"  buffer {chain['head']}, {state}"
    for descriptor in chain["descriptors"]:
        yield f"    {_descriptor(descriptor, ring_format)}"
    for address, length, *rest in chain.get("table") or ():
        who = "the device writes" if rest[ring_format == "packed"] & _WRITE else "the device reads"
        yield f"      table entry  {address:#014x}  {length:7} bytes  {who}"


def _descriptor(descriptor: dict[str, Any], ring_format: str) -> str:
    who = "the device writes" if descriptor["writable"] else "the device reads"
    if descriptor.get("indirect"):
        who = "a table of descriptors"
    text = f"desc {descriptor['index']:3}  {descriptor['address']:#014x}  {descriptor['length']:7} bytes  {who}"
    shared = descriptor["shared"]
    if not shared:
        return text
    flags = shared[2] if ring_format == "split" else shared[3]
    changed = ring_format == "split" and shared[:2] != [descriptor["address"], descriptor["length"]]
    return f"{text}  {_flag_names(flags)}{'  CHANGED in memory since we wrote it' if changed else ''}"


def _flag_names(flags: int) -> str:
    return " ".join(name for bit, name in _FLAGS.items() if flags & bit) or "-"
