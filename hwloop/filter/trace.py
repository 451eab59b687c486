"""`filter=trace`: what passes between a driver and its device, with the time, into a file or as the last events only.

filter=trace                  the last 64 events, which errors carry as notes
filter=trace:/tmp/blk.trace   into that file too; `hwloop trace show` and `hwloop trace export` read it
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from itertools import count
from typing import Any, Self

from hwloop.filter.base import Filter
from hwloop.filter.event import Kind
from hwloop.filter.file import TraceFile
from hwloop.filter.observe import ObservedHal, ObservedTransport
from hwloop.filter.text import lines
from hwloop.filter.watch import Watch
from hwloop.hal.base import Hal
from hwloop.spec import DeviceType
from hwloop.transport.base import Transport


class TraceFilter(Filter):
    """Traces one device into `path`, or only remembers the last events; `data` keeps the bytes of buffers too."""

    def __init__(self, path: str, target: str, *, data: bool = False) -> None:
        self._file = TraceFile(path, _header(target, data)) if path else None
        self.watch = Watch(self._file, data=data)
        self._hal = ""

    @classmethod
    def maker(cls, options: str, target: str) -> Callable[[], Self]:
        return lambda: cls(options, target)

    def hal(self, inner: Hal) -> Hal:
        self._hal = inner.name
        return ObservedHal(inner, self.watch)

    def transport(self, inner: Transport) -> Transport:
        device_type = inner.device_type()
        self.watch.device_type = device_type
        self.watch.event(Kind.DEVICE, payload=json.dumps(self._device(inner, device_type)).encode())
        return TracedTransport(inner, self)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _device(self, transport: Transport, device_type: DeviceType) -> dict[str, Any]:
        return {
            "type": int(device_type),
            "transport": transport.name,
            "hal": self._hal,
            "has_config_generation": transport.has_config_generation,
            "fixed_queue_size": transport.fixed_queue_size,
            "legacy_layout": transport.requires_legacy_layout(),
        }


class TracedTransport(ObservedTransport):
    """The transport of a device that is traced: it can tell what happened last."""

    def __init__(self, inner: Transport, trace: TraceFilter) -> None:
        super().__init__(inner, trace.watch)

    def last_events(self, count: int = 16) -> list[str]:
        return lines(list(self._watch.last)[-count:])


class TraceMaker:
    """Traces every device that is opened into a file of its own: PATH, PATH.2, PATH.3."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._numbers = count(1)

    def __call__(self, target: str) -> TraceFilter:
        number = next(self._numbers)
        return TraceFilter(self._path if number == 1 else f"{self._path}.{number}", target)


def _header(target: str, data: bool) -> dict[str, Any]:
    return {
        "target": target,
        "started": time.time(),
        "started_ns": time.monotonic_ns(),
        "pid": os.getpid(),
        "kernel": os.uname().release,
        "data": data,
    }
