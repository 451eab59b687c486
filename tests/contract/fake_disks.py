"""The fake disk that a test wants, whatever it is reached through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hwloop.device.fake_blk import FakeBlk
from hwloop.door.fake_shape import FakeShape
from hwloop.hal.fake import FakeHal
from tests.contract.door import Wants

D = TypeVar("D", bound=FakeBlk)


def options_of(wants: Wants) -> dict[str, str]:
    """As `fake:` and `hwloop testdev` take them; the serial is not among them, since it may be no text."""
    options = {
        "block-size": str(wants.block_size),
        "queue-size": str(wants.queue_size),
        "seg-max": str(wants.seg_max),
    }
    options |= {"size-max": str(wants.size_max)} if wants.size_max else {}
    options |= {"read-only": "on"} if wants.read_only else {}
    options |= {} if wants.flush else {"flush": "off"}
    options |= {"discard": "on"} if wants.discard else {}
    options |= {"write-zeroes": "on"} if wants.write_zeroes else {}
    options |= {"write-cache": wants.write_cache} if wants.write_cache else {}
    return options | dict(pair.split("=") for pair in wants.shape.split("&") if pair)


def make_fake(hal: FakeHal, size: int, wants: Wants, features: int, kind: Callable[..., D], **arguments: Any) -> D:
    device = FakeShape(size, options_of(wants)).make(hal, features, kind, **arguments)
    device.serial = wants.serial
    return device
