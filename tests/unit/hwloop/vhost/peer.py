"""A strict back end with a disk, and what a test opens on it; nothing of either is left over."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.hal.fake import FakeHal
from hwloop.hal.vhost import VhostHal
from hwloop.spec import BlkFeature, Feature
from hwloop.transport.vhost_user import VhostUserTransport
from hwloop.vhost.fake_backend import EVERYTHING, FakeBackEnd, PeerFaults
from hwloop.vhost.front_end import FrontEnd
from hwloop.vhost.messages import ProtocolFeature

SIZE = 1 << 20
FEATURES = Feature.VERSION_1 | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX | BlkFeature.FLUSH


def descriptors() -> list[str]:
    """What this process has open, without the descriptor that lists it."""
    return sorted(link for fd in os.listdir("/proc/self/fd") if (link := _link(fd)))


def _link(fd: str) -> str:
    try:
        return f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}"
    except OSError:
        return ""


class Peer:
    """As a context manager: at its end everything is closed, no rule was broken, and no descriptor is left.

    `violations` at the end are those that a test says it expects. `seconds` is how long an answer may take.
    """

    def __init__(
        self, protocol: ProtocolFeature = EVERYTHING, *, seconds: float = 5.0, features: int = FEATURES, **faults: Any
    ) -> None:
        self._before = descriptors()
        self.seconds = seconds
        self.device = FakeBlk(FakeHal(), SIZE, features=features)
        self.back_end = FakeBackEnd(self.device, protocol)
        self.back_end.faults = PeerFaults(**faults)
        self.resources = ExitStack()
        self.expected_violations: list[str] = []

    def front_end(self) -> FrontEnd:
        front_end = FrontEnd(self.back_end.connect(), seconds=self.seconds)
        self.resources.push(front_end)
        self.connection = front_end
        return front_end

    def parts(self, **options: Any) -> tuple[VhostUserTransport, VhostHal]:
        front_end = self.front_end()
        transport, hal = VhostUserTransport(front_end, **options), VhostHal(front_end)
        self.resources.push(transport)
        self.resources.push(hal)
        return transport, hal

    def disk(self, **options: Any) -> VirtioBlk:
        disk = VirtioBlk(*self.parts(largest_queue=64), **options)
        self.resources.push(disk)
        return disk

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.resources.close()
        finally:
            self.back_end.close()
        if kind is None:
            assert self.back_end.violations == self.expected_violations
            assert descriptors() == self._before
