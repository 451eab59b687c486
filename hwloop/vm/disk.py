"""`--disk PATH[,key=value]...`: parse it, and say it in QEMU's words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hwloop.vm.errors import BadOption, MissingFile

DRIVE_KEYS = frozenset(
    ("format", "cache", "snapshot", "read-only", "readonly", "aio", "discard", "detect-zeroes", "copy-on-read")
)
"""Keys of QEMU's `-drive`; those that begin with `file.` or `throttling.` are as well. The rest is the device's."""

OURS = frozenset(("drive", "file", "if", "id", "driver", "node-name"))
"""Keys that we set, and that would break the link between the drive and the device."""

DEVICE_DEFAULTS = {"iommu_platform": "on", "disable-legacy": "on"}

_QCOW2_MAGIC = b"QFI\xfb"
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*:")


@dataclass(frozen=True)
class Disk:
    """One virtio block device: `source` is a path or what QEMU calls a protocol (`null-co://`); options as given."""

    source: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def drive(self) -> dict[str, str]:
        """The options of `-drive`; `read-only` has another name there."""
        mine = {key: value for key, value in self.options.items() if _is_drive_key(key)}
        if "read-only" in mine:
            mine["readonly"] = mine.pop("read-only")
        return mine

    @property
    def device(self) -> dict[str, str]:
        """The options of `-device virtio-blk-pci`, over the defaults."""
        mine = {key: value for key, value in self.options.items() if not _is_drive_key(key)}
        return {**DEVICE_DEFAULTS, **mine}

    @property
    def has_place(self) -> bool:
        return "addr" in self.options or "bus" in self.options


def parse(text: str) -> Disk:
    """`PATH[,key[=value]]...`, commas in the path doubled as QEMU has them; a key alone means `on`.

    Raises BadOption.
    """
    source, *words = _split(text)
    if not source:
        raise BadOption(f"disk {text!r} has no path", remedy="write --disk PATH[,key=value]...")
    options = dict(_option(word, text) for word in words)
    return Disk(source, options)


def arguments(disks: Sequence[Disk], slots: range) -> list[str]:
    """QEMU's arguments for the disks, in their order, those without `addr=` or `bus=` at the slots of their turn.

    Raises MissingFile for an image that is not there, BadOption when the slots do not suffice.
    """
    places = _places(disks, slots)
    return [word for index, disk in enumerate(disks) for word in _one(index, disk, next(places))]


def _one(index: int, disk: Disk, place: dict[str, str]) -> list[str]:
    drive = {"file": _file(disk.source), "if": "none", "id": f"disk{index}", "format": _format(disk), **disk.drive}
    device = {"drive": f"disk{index}", **place, **disk.device}
    return ["-drive", _join("", drive), "-device", _join("virtio-blk-pci", device)]


def _places(disks: Sequence[Disk], slots: range) -> Iterator[dict[str, str]]:
    """For each disk its `addr`, or nothing for one that has a place: the n-th slot for disk n, or the next free."""
    taken = {_slot(disk.options["addr"]) for disk in disks if "addr" in disk.options and "bus" not in disk.options}
    for index, disk in enumerate(disks):
        if disk.has_place:
            yield {}
            continue
        free = next((slot for slot in slots[index:] if slot not in taken), None)
        if free is None:
            raise BadOption(f"no slot is left for disk {disk.source}", remedy="give it an addr= or a bus=")
        taken.add(free)
        yield {"addr": f"{free:02x}.0"}


def _slot(address: str) -> int:
    """The slot of QEMU's `addr=SLOT[.FUNCTION]`. Raises BadOption."""
    try:
        return int(address.partition(".")[0], 16)
    except ValueError:
        raise BadOption(f"disk address {address!r} is not SLOT.FUNCTION", remedy="write addr=07.0") from None


def _option(word: str, text: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not key:
        raise BadOption(f"disk {text!r} has an option without a name", remedy="write key=value, or ,, for a comma")
    if key in OURS:
        raise BadOption(f"disk {text!r}: {key}= cannot be set", remedy="leave it out; it ties the drive to its device")
    return key, value if equals else "on"


def _is_drive_key(key: str) -> bool:
    return key in DRIVE_KEYS or key.startswith(("file.", "throttling."))


def _file(source: str) -> str:
    """An absolute path, or the protocol as it stands."""
    path = Path(source)
    if path.exists():
        return str(path.absolute())
    if _PROTOCOL.match(source):
        return source
    raise MissingFile(f"disk image {source} does not exist", remedy=f"run: truncate -s 64M {source}")


def _format(disk: Disk) -> str:
    """qcow2 by its magic, otherwise raw: never guessed by QEMU, which a guest could fool by what it writes."""
    path = Path(disk.source)
    if not path.is_file():
        return "raw"
    with path.open("rb") as image:
        return "qcow2" if image.read(4) == _QCOW2_MAGIC else "raw"


def _split(text: str) -> list[str]:
    """At single commas; a doubled one is a comma."""
    return [word.replace("\0", ",") for word in text.replace(",,", "\0").split(",")]


def _join(head: str, options: dict[str, str]) -> str:
    words = [f"{key}={value.replace(',', ',,')}" for key, value in options.items()]
    return ",".join([head, *words] if head else words)
