"""`--disk PATH[,key=value]...`: parse it, and say it in QEMU's words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hwloop.vm.bus import Bus, Options
from hwloop.vm.errors import BadOption, MissingFile

DRIVE_KEYS = frozenset(
    ("format", "cache", "snapshot", "read-only", "readonly", "aio", "discard", "detect-zeroes", "copy-on-read")
)
"""Keys of QEMU's `-drive`; those that begin with `file.` or `throttling.` are as well. The rest is the device's."""

OURS = frozenset(("drive", "file", "if", "id", "driver", "node-name"))
"""Keys that we set, and that would break the link between the drive and the device."""

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
        """The options of QEMU's virtio-blk device."""
        return {key: value for key, value in self.options.items() if not _is_drive_key(key)}


def parse(text: str) -> Disk:
    """`PATH[,key[=value]]...`, commas in the path doubled as QEMU has them; a key alone means `on`.

    Raises BadOption.
    """
    source, *words = _split(text)
    if not source:
        raise BadOption(f"disk {text!r} has no path", remedy="write --disk PATH[,key=value]...")
    options = dict(_option(word, text) for word in words)
    return Disk(source, options)


def arguments(disks: Sequence[Disk], bus: Bus) -> list[str]:
    """QEMU's arguments for the disks, in their order, those that name no place at the places of their turn.

    Raises MissingFile for an image that is not there, BadOption as `Bus.places`.
    """
    places = bus.places([(disk.source, disk.device) for disk in disks])
    return [
        word
        for index, (disk, place) in enumerate(zip(disks, places, strict=True))
        for word in _one(index, disk, bus, place)
    ]


def _one(index: int, disk: Disk, bus: Bus, place: Options) -> list[str]:
    drive = {"file": _file(disk.source), "if": "none", "id": f"disk{index}", "format": _format(disk), **disk.drive}
    device = {"drive": f"disk{index}", **place, **bus.defaults, **disk.device}
    return ["-drive", _join("", drive), "-device", _join(f"virtio-blk-{bus.suffix}", device)]


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
