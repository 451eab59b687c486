"""`filter=fault:lose-notifications=2`: a device that misbehaves, in front of any that does not.

lose-notifications=N   the next N notifications do not arrive
needs-reset-after=N    from the Nth notification on the status says DEVICE_NEEDS_RESET
gone-after=N           from the Nth notification on the device is gone
no-features-ok         FEATURES_OK does not stick
no-driver-ok           DRIVER_OK does not stick
stuck-reset            a reset never ends, once the device was live
lose-bus-master-after=N  bus mastering is turned off at the Nth notification, as by somebody else
withhold=0x...         features that the device does not offer any more
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from hwloop.errors import DeviceLost, InvalidParam
from hwloop.filter.base import Filter, parse_count, parse_options
from hwloop.spec import DeviceStatus
from hwloop.transport.base import Transport
from hwloop.transport.filter import TransportFilter

_KNOWN = {
    "lose-notifications": "so many do not arrive",
    "needs-reset-after": "so many notifications",
    "gone-after": "so many notifications",
    "lose-bus-master-after": "so many notifications",
    "no-features-ok": "a switch",
    "no-driver-ok": "a switch",
    "stuck-reset": "a switch",
    "withhold": "feature bits",
}
_SWITCHES = ("no-features-ok", "no-driver-ok", "stuck-reset")


@dataclass
class TransportFaults:
    """The ways to misbehave; all are off by default."""

    lose_notifications: int = 0
    needs_reset_after: int = 0
    gone_after: int = 0
    lose_bus_master_after: int = 0
    no_features_ok: bool = False
    no_driver_ok: bool = False
    stuck_reset: bool = False
    withhold: int = 0


class FaultFilter(Filter):
    """Puts faults in front of one device; `faults` may be changed while it runs."""

    def __init__(self, faults: TransportFaults) -> None:
        self.faults = faults

    @classmethod
    def maker(cls, options: str, target: str) -> Callable[[], Self]:
        given = parse_options("fault", options, _KNOWN)
        if not given:
            raise InvalidParam("filter fault names no fault", remedy=f"there is: {', '.join(_KNOWN)}")
        values: dict[str, Any] = {key.replace("-", "_"): _value(key, text) for key, text in given.items()}
        faults = TransportFaults(**values)
        return lambda: cls(replace(faults))

    def transport(self, inner: Transport) -> Transport:
        return FaultyTransport(inner, self.faults)


class FaultyTransport(TransportFilter):
    """A transport whose device misbehaves as `faults` says."""

    def __init__(self, inner: Transport, faults: TransportFaults) -> None:
        super().__init__(inner)
        self.faults = faults
        self._notified = 0
        self._was_live = False

    def read_device_features(self) -> int:
        return self.inner.read_device_features() & ~self.faults.withhold

    def doorbell(self, queue: int) -> None:
        """None: what is rung past us would not be lost."""

    def notify(self, queue: int, *data: Any) -> None:
        self._notified += 1
        self._check_there()
        if self._reached(self.faults.lose_bus_master_after):
            self.inner.stop_dma()
        if self.faults.lose_notifications:
            self.faults.lose_notifications -= 1
            return
        self.inner.notify(queue, *data)

    def get_status(self) -> DeviceStatus:
        self._check_there()
        status = self.inner.get_status()
        faults = self.faults
        if faults.stuck_reset and self._was_live and not status:
            return DeviceStatus.ACKNOWLEDGE
        if status and self._reached(faults.needs_reset_after):
            status |= DeviceStatus.DEVICE_NEEDS_RESET
        return status

    def set_status(self, status: DeviceStatus) -> None:
        self._check_there()
        self._was_live = self._was_live or bool(status & DeviceStatus.DRIVER_OK)
        if self.faults.no_features_ok:
            status &= ~DeviceStatus.FEATURES_OK
        if self.faults.no_driver_ok:
            status &= ~DeviceStatus.DRIVER_OK
        self.inner.set_status(status)

    def _reached(self, after: int) -> bool:
        return bool(after) and self._notified >= after

    def _check_there(self) -> None:
        if self._reached(self.faults.gone_after):
            raise DeviceLost("the device is gone (filter fault)")


def _value(key: str, text: str) -> int | bool:
    if key in _SWITCHES:
        if text not in ("", "on", "off"):
            raise InvalidParam(f"option {key} of filter fault cannot be {text!r}", remedy="it is on or off")
        return text != "off"
    if key == "withhold":
        try:
            return int(text, 0)
        except ValueError:
            raise InvalidParam(
                f"option withhold of filter fault cannot be {text!r}", remedy="give bits: 0x200"
            ) from None
    return parse_count("fault", key, text)
