"""What a user calls a device: `0000:00:05.0`, `pci:0000:00:05.0`, `vda`, with options behind a question mark."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from hwloop.errors import InvalidParam

KINDS = ("pci", "block")
_PCI_ADDRESS = re.compile(r"(?:[0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_BLOCK_NAME = re.compile(r"[a-z][a-z0-9]*")
_EXAMPLES = "a PCI address (0000:00:05.0), pci:ADDRESS, or the kernel's name of a disk (vda)"


@dataclass(frozen=True)
class Target:
    """A parsed target. `kind` is one of `KINDS`; `name` a PCI address or the name of a block device; `options` the
    `key=value` pairs behind the question mark."""

    kind: str
    name: str
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Target:
        """Raises InvalidParam for text that names no device."""
        body, _, query = text.partition("?")
        options = _parse_options(text, query)
        scheme, separator, rest = body.partition(":")
        if separator and scheme == "pci":
            return cls("pci", _pci_address(rest, text), options)
        if _PCI_ADDRESS.fullmatch(body):
            return cls("pci", _pci_address(body, text), options)
        name = body.removeprefix("/dev/")
        if _BLOCK_NAME.fullmatch(name):
            return cls("block", name, options)
        raise InvalidParam(f"{text!r} names no device", remedy=f"give {_EXAMPLES}")

    def __str__(self) -> str:
        return f"pci:{self.name}" if self.kind == "pci" else self.name


def _pci_address(text: str, whole: str) -> str:
    if not _PCI_ADDRESS.fullmatch(text) or int(text[-4:-2], 16) > 31:
        raise InvalidParam(f"{whole!r} is not a PCI address", remedy="one looks like 0000:00:05.0")
    return (text if text.count(":") == 2 else f"0000:{text}").lower()


def _parse_options(text: str, query: str) -> dict[str, str]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise InvalidParam(f"the options of {text!r} are not key=value pairs joined by &") from None
    return dict(pairs)
