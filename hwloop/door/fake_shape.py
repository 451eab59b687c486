"""What a fake disk is like, as `key=value` options say it: for `fake:` targets and for `hwloop testdev`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from hwloop.device.blk_formats import Lifetime, PreEol, ZonedModel
from hwloop.device.fake_blk import BlkFaults, FakeBlk
from hwloop.device.fake_zones import ZoneShape
from hwloop.door.base import BLOCK_SIZES, SWITCH, parse_number
from hwloop.errors import InvalidParam
from hwloop.hal.fake import FakeHal
from hwloop.size import parse_size
from hwloop.spec import SECTOR_SIZE, BlkFeature
from hwloop.transport.fake_device import Faults

D = TypeVar("D", bound=FakeBlk)

_MODELS = {"host-managed": ZonedModel.HOST_MANAGED, "host-aware": ZonedModel.HOST_AWARE, "none": ZonedModel.NONE}
_WORD = range(1 << 32)

SHAPE = {
    "block-size": BLOCK_SIZES,
    "queue-size": None,
    "queues": None,
    "read-only": SWITCH,
    "serial": None,
    "strict": SWITCH,
    "flush": SWITCH,
    "write-cache": ("writeback", "writethrough"),
    "size-max": None,
    "seg-max": None,
    "geometry": None,
    "physical-block-size": None,
    "alignment-offset": None,
    "min-io": None,
    "opt-io": None,
    "discard": SWITCH,
    "discard-max": None,
    "discard-segments": None,
    "discard-alignment": None,
    "write-zeroes": SWITCH,
    "write-zeroes-max": None,
    "write-zeroes-segments": None,
    "write-zeroes-may-unmap": SWITCH,
    "secure-erase": SWITCH,
    "secure-erase-max": None,
    "secure-erase-segments": None,
    "secure-erase-alignment": None,
    "lifetime": None,
    "zoned": tuple(_MODELS),
    "zone-size": None,
    "zone-capacity": None,
    "conventional-zones": None,
    "max-open-zones": None,
    "max-active-zones": None,
    "max-append": None,
    "write-granularity": None,
}
"""The options of the shape, and the values that each may have; None: any that can be parsed."""

_SWITCHES = {field.name.replace("_", "-"): field for kind in (Faults, BlkFaults) for field in fields(kind)}
FAULTS = {name: SWITCH if field.type == "bool" else None for name, field in _SWITCHES.items()}
"""The options that make it misbehave."""

_SECTORS = {
    "discard-max": "max_discard_sectors",
    "discard-alignment": "discard_sector_alignment",
    "write-zeroes-max": "max_write_zeroes_sectors",
    "secure-erase-max": "max_secure_erase_sectors",
    "secure-erase-alignment": "secure_erase_sector_alignment",
}
_COUNTS = {
    "discard-segments": "max_discard_seg",
    "write-zeroes-segments": "max_write_zeroes_seg",
    "secure-erase-segments": "max_secure_erase_seg",
    "alignment-offset": "alignment_offset",
}
_TOPOLOGY = ("physical-block-size", "alignment-offset", "min-io", "opt-io")


class FakeShape:
    """A disk of `size` bytes with these options, which were checked to be in `SHAPE` or `FAULTS`. Raises InvalidParam.

    Sizes are bytes, with a suffix where one is wanted; what the protocol counts in sectors must be whole ones.
    """

    def __init__(self, size: int, options: Mapping[str, str]) -> None:
        self.size = size
        self._options = options
        self.block_size = parse_size(options.get("block-size", str(SECTOR_SIZE)))
        self._zones = self._parse_zones()
        self._arguments: dict[str, Any] = {
            "queue_size": self._number("queue-size", range(1 << 16), 64),
            "queues": self._number("queues", range(1, 1 << 10), 1),
            "block_size": self.block_size,
            "serial": options.get("serial", "FAKE0").encode(),
            "size_max": self._size("size-max"),
            "seg_max": self._number("seg-max", _WORD, 126),
            "lifetime": self._parse_lifetime(),
            "zones": self._zones,
            "config": self._config(),
        }
        self._faults = {key: _fault(key, options[key]) for key in options if key in FAULTS}

    def make(self, hal: FakeHal, features: int, kind: Callable[..., D], **arguments: Any) -> D:
        """The device side, with its switches set; it offers `features` besides those of its shape."""
        device = kind(hal, self.size, features=features | self.features(), **self._arguments, **arguments)
        device.strict = not self._is("strict", "off")
        for key, value in self._faults.items():
            name = _SWITCHES[key].name
            setattr(device.faults if hasattr(device.faults, name) else device.blk_faults, name, value)
        return device

    def features(self) -> int:
        """The VIRTIO_BLK_F_... that the options mean."""
        wanted = {
            BlkFeature.BLK_SIZE: True,
            BlkFeature.SEG_MAX: True,
            BlkFeature.SIZE_MAX: bool(self._size("size-max")),
            BlkFeature.RO: self._is("read-only", "on"),
            BlkFeature.FLUSH: not self._is("flush", "off"),
            BlkFeature.CONFIG_WCE: "write-cache" in self._options,
            BlkFeature.MQ: self._number("queues", range(1, 1 << 10), 1) > 1,
            BlkFeature.GEOMETRY: "geometry" in self._options,
            BlkFeature.TOPOLOGY: any(key in self._options for key in _TOPOLOGY),
            BlkFeature.DISCARD: self._is("discard", "on"),
            BlkFeature.WRITE_ZEROES: self._is("write-zeroes", "on"),
            BlkFeature.SECURE_ERASE: self._is("secure-erase", "on"),
            BlkFeature.LIFETIME: "lifetime" in self._options,
            BlkFeature.ZONED: "zoned" in self._options,
        }
        return sum(int(feature) for feature, offered in wanted.items() if offered)

    # --- Configuration ------------------------------------------------------------------------------------------------

    def _config(self) -> dict[str, int]:
        """What the options say of fields that are not arguments of the device by themselves."""
        config = {name: self._sectors(key) for key, name in _SECTORS.items() if key in self._options}
        config |= {name: self._number(key, _WORD, 0) for key, name in _COUNTS.items() if key in self._options}
        config["writeback"] = int(not self._is("write-cache", "writethrough"))
        config["write_zeroes_may_unmap"] = int(not self._is("write-zeroes-may-unmap", "off"))
        if self._zones is not None and "secure-erase-alignment" not in self._options:
            config["secure_erase_sector_alignment"] = self._zones.zone_sectors
        return config | self._topology() | self._geometry()

    def _topology(self) -> dict[str, int]:
        blocks = {"min_io_size": self._blocks("min-io"), "opt_io_size": self._blocks("opt-io")}
        exponent = self._blocks("physical-block-size", self.block_size).bit_length() - 1
        if "physical-block-size" in self._options and self.block_size << exponent != self._size("physical-block-size"):
            raise self._wrong("physical-block-size", "give a power of two times the block size")
        return blocks | {"physical_block_exp": exponent}

    def _geometry(self) -> dict[str, int]:
        if "geometry" not in self._options:
            return {}
        parts = self._options["geometry"].split("/")
        if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts):
            raise self._wrong("geometry", "give cylinders/heads/sectors: 16383/16/63")
        numbers = [int(part) for part in parts]
        if numbers[0] >> 16 or max(numbers[1:]) >> 8:
            raise self._wrong("geometry", "at most 65535 cylinders, 255 heads, 255 sectors")
        return dict(zip(("cylinders", "heads", "sectors"), numbers, strict=True))

    def _parse_lifetime(self) -> Lifetime:
        text = self._options.get("lifetime", "1,1,1")
        try:
            pre_eol, a, b = (int(part) for part in text.split(","))
            if max(a, b) > 11 or min(a, b) < 0:
                raise ValueError
            return Lifetime(PreEol(pre_eol), a, b)
        except ValueError:
            raise self._wrong("lifetime", "give three numbers up to 3, 11 and 11: 1,2,0") from None

    def _parse_zones(self) -> ZoneShape | None:
        if "zoned" not in self._options:
            return None
        size = self._sectors("zone-size", 1 << 20)
        capacity = self._sectors("zone-capacity")
        granularity = self._size("write-granularity", self.block_size)
        if not size or capacity > size:
            raise self._wrong("zone-size", "a zone has a size, and its capacity is not more")
        if not granularity or granularity % SECTOR_SIZE or size * SECTOR_SIZE % granularity:
            raise self._wrong("write-granularity", "give a number of sectors of which zones are whole ones")
        return ZoneShape(
            model=_MODELS[self._options["zoned"]],
            zone_sectors=size,
            zone_capacity=capacity,
            conventional=self._number("conventional-zones", _WORD, 0),
            max_open=self._number("max-open-zones", _WORD, 0),
            max_active=self._number("max-active-zones", _WORD, 0),
            max_append=self._sectors("max-append", 128 << 10),
            write_granularity=granularity,
        )

    # --- Values -------------------------------------------------------------------------------------------------------

    def _is(self, key: str, value: str) -> bool:
        return self._options.get(key) == value

    def _number(self, key: str, allowed: range, usual: int) -> int:
        return parse_number(key, self._options[key], allowed) if key in self._options else usual

    def _size(self, key: str, usual: int = 0) -> int:
        size = parse_size(self._options[key]) if key in self._options else usual
        if size not in _WORD:
            raise self._wrong(key, "give a number of bytes that fits 32 bits")
        return size

    def _sectors(self, key: str, usual: int = 0) -> int:
        return self._units(key, SECTOR_SIZE, usual)

    def _blocks(self, key: str, usual: int = 0) -> int:
        return self._units(key, self.block_size, usual)

    def _units(self, key: str, unit: int, usual: int) -> int:
        count, rest = divmod(parse_size(self._options[key]) if key in self._options else usual, unit)
        if rest or count not in _WORD:
            raise self._wrong(key, f"give a multiple of {unit} bytes")
        return count

    def _wrong(self, key: str, remedy: str) -> InvalidParam:
        return InvalidParam(f"option {key} cannot be {self._options.get(key)!r}", remedy=remedy)


def _fault(key: str, text: str) -> Any:
    # -1 is for ever, where there is such a thing.
    return text == "on" if FAULTS[key] is SWITCH else parse_number(key, text, range(-1, 1 << 31))
