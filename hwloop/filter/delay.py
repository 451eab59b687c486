"""`filter=delay:5ms`: a device that is slow, for whoever waits for it.

delay:5ms                      every notification reaches the device 5 ms late
delay:notify=5ms:register=1ms  and every other access of its registers 1 ms late
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from hwloop.errors import InvalidParam
from hwloop.filter.base import Filter, parse_options, parse_seconds
from hwloop.transport.base import Transport
from hwloop.transport.filter import TransportFilter

_KNOWN = {"notify": "before each notification", "register": "before each other access"}
_REGISTERS = (
    "read_device_features", "write_driver_features", "max_queue_size", "get_status", "set_status", "queue_set",
    "queue_unset", "queue_used", "ack_interrupt", "read_config_generation", "read_config_space", "write_config_space",
)  # fmt: skip


@dataclass(frozen=True)
class Delays:
    """Seconds before a notification, and before any other access."""

    notify: float = 0.0
    register: float = 0.0


class DelayFilter(Filter):
    """Delays what a driver does to one device."""

    def __init__(self, delays: Delays) -> None:
        self.delays = delays

    @classmethod
    def maker(cls, options: str, target: str) -> Callable[[], Self]:
        text = options if not options or "=" in options else f"notify={options}"
        seconds = {key: parse_seconds("delay", value) for key, value in parse_options("delay", text, _KNOWN).items()}
        if not seconds:
            raise InvalidParam("filter delay has no time", remedy="write filter=delay:5ms")
        return lambda: cls(Delays(**seconds))

    def transport(self, inner: Transport) -> Transport:
        return DelayedTransport(inner, self.delays)


class DelayedTransport(TransportFilter):
    """A transport whose device hears everything late."""

    def __init__(self, inner: Transport, delays: Delays) -> None:
        super().__init__(inner)
        self._delays = delays

    def doorbell(self, queue: int) -> None:
        """None: what is rung past us would not be late."""

    def notify(self, queue: int, *data: Any) -> None:
        time.sleep(self._delays.notify)
        self.inner.notify(queue, *data)


def _late(name: str) -> Callable[..., Any]:
    def access(self: DelayedTransport, *args: Any) -> Any:
        time.sleep(self._delays.register)
        return getattr(self.inner, name)(*args)

    return access


for _name in _REGISTERS:
    setattr(DelayedTransport, _name, _late(_name))
