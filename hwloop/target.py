"""What a user calls a device: `0000:00:05.0`, `vda`, `qemu:disk.img?legacy=on`: a kind, a name, and options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from hwloop.errors import InvalidParam

KINDS = ("pci", "block", "mmio", "qemu", "qtest", "fake", "replay", "svirtb", "vhost-user", "vhost-vdpa")
_PCI_ADDRESS = re.compile(r"(?:[0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_BLOCK_NAME = re.compile(r"[a-z][a-z0-9]*")
_EXAMPLE_OF = {
    "mmio": "the address of registers: mmio:0xfeb02e00",
    "qemu": "a disk image: qemu:disk.img",
    "qtest": "the socket of a QEMU that you started: qtest:/tmp/qtest.sock",
    "fake": "a size: fake:16M",
    "replay": "a recording: replay:blk.rec",
    "svirtb": "a disk image: svirtb:disk.img",
    "vhost-user": "the socket of a back end: vhost-user:/tmp/vhost.sock",
    "vhost-vdpa": "a node of the kernel: vhost-vdpa:/dev/vhost-vdpa-0",
}
_EXAMPLES = "a PCI address (0000:00:05.0), the kernel's name of a disk (vda), mmio:0xADDRESS, or qemu:DISK.img"


@dataclass(frozen=True)
class Target:
    """A parsed target. `kind` is one of `KINDS`; `name` what it is called there: a PCI address, a block device, the
    address of registers, a path, a size; `options` the `key=value` pairs behind the last question mark."""

    kind: str
    name: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises InvalidParam for text that names no device."""
        body, options = split_options(text)
        scheme, separator, rest = body.partition(":")
        if separator and scheme == "pci":
            return cls("pci", _pci_address(rest, text), options)
        if separator and scheme in KINDS and scheme != "block":
            if not rest:
                raise InvalidParam(
                    f"{text!r} has nothing behind {scheme}:", remedy=f"give {_EXAMPLE_OF.get(scheme, _EXAMPLES)}"
                )
            return cls(scheme, rest, options)
        if _PCI_ADDRESS.fullmatch(body):
            return cls("pci", _pci_address(body, text), options)
        name = body.removeprefix("/dev/")
        if _BLOCK_NAME.fullmatch(name):
            return cls("block", name, options)
        raise InvalidParam(f"{text!r} names no device", remedy=f"give {_EXAMPLES}")

    def __str__(self) -> str:
        return self.name if self.kind == "block" else f"{self.kind}:{self.name}"


def _pci_address(text: str, whole: str) -> str:
    if not _PCI_ADDRESS.fullmatch(text) or int(text[-4:-2], 16) > 31:
        raise InvalidParam(f"{whole!r} is not a PCI address", remedy="one looks like 0000:00:05.0")
    return (text if text.count(":") == 2 else f"0000:{text}").lower()


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """A path may have a question mark of its own: options are behind the last one, and have an equals sign."""
    body, mark, query = text.rpartition("?")
    if not mark or ("=" not in query and ":" in body):
        return text, {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise InvalidParam(f"the options of {text!r} are not key=value pairs joined by &") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise InvalidParam(f"an option of {text!r} is given twice")
    return body, options
