"""What a filter is: it may put something in front of a Transport, of a Hal, or of both."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Self

from hwloop.errors import InvalidParam
from hwloop.hal.base import Hal
from hwloop.owner import Owner
from hwloop.transport.base import Transport

_TIME = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Filter(Owner):
    """One filter for one device that is being opened. `hal` is called first, before any register is reached."""

    @classmethod
    @abstractmethod
    def maker(cls, options: str, target: str) -> Callable[[], Self]:
        """What makes the filter, with its options checked. Raises InvalidParam."""

    def hal(self, inner: Hal) -> Hal:
        """What stands in front of the Hal: the Hal itself, where the filter has nothing to do there."""
        return inner

    def transport(self, inner: Transport) -> Transport:
        """What stands in front of the Transport."""
        return inner

    def close(self) -> None:
        """The device is closed, or was never opened."""


def parse_options(name: str, text: str, known: Mapping[str, str]) -> dict[str, str]:
    """`key=value:key=value` as a dictionary. `known` gives the meaning of each key. Raises InvalidParam."""
    options: dict[str, str] = {}
    for part in text.split(":") if text else ():
        key, _, value = part.partition("=")
        if key not in known:
            raise InvalidParam(f"filter {name} has no option {key!r}", remedy=f"there is: {', '.join(known)}")
        if key in options:
            raise InvalidParam(f"option {key} of filter {name} is given twice")
        options[key] = value
    return options


def parse_seconds(name: str, text: str) -> float:
    """`250us`, `5ms`, `1.5s` in seconds. Raises InvalidParam."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise InvalidParam(f"filter {name} cannot wait {text!r}", remedy="give a time like 250us, 5ms or 1.5s")
    return float(found[1]) * _SECONDS[found[2]]


def parse_count(name: str, key: str, text: str) -> int:
    """A number of times, at least one; nothing stands for one. Raises InvalidParam."""
    if not text:
        return 1
    if not (text.isascii() and text.isdecimal()) or not int(text):
        raise InvalidParam(f"option {key} of filter {name} cannot be {text!r}", remedy="give a number from 1 on")
    return int(text)
