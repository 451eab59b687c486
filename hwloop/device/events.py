"""What a device says when nobody has asked: that its configuration is another one, that somebody wants it back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from hwloop.spec import InterruptStatus

if TYPE_CHECKING:
    from hwloop.device.base import Device

log = logging.getLogger("hwloop.device")

Callback = Callable[[], object]


class DeviceEvents:
    """Finds out about changes of `device`, as cheaply as it can be: by a vector of their own, by what came with a
    queue's interrupt, by the generation of the configuration, or else by the interrupt status."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.config_callbacks: list[Callback] = []
        self.removal_callbacks: list[Callback] = []
        self._generation = 0
        self._noted = False
        self._removal_told = False

    def begin(self) -> None:
        """The configuration is about to be read for the first time: what changes from now on is a change."""
        self._generation = self._device.transport.read_config_generation()

    def note_change(self) -> None:
        """An interrupt has said that the configuration changed; the next `look` sees to it."""
        self._noted = True

    def look(self) -> None:
        """See whether something has changed, and call those who want to know. Raises what reading it again raises."""
        if self._has_changed():
            self._noted = False
            # Before the fields: a change between the two is found the next time.
            self._generation = self._device.transport.read_config_generation()
            self._device.read_config_again()
            _call(self.config_callbacks)
        if self.removal_callbacks and not self._removal_told and self._device.hal.removal_requested:
            self._removal_told = True
            _call(self.removal_callbacks)

    def _has_changed(self) -> bool:
        transport, line = self._device.transport, self._device.lines.config
        if line is not None and line.take():
            return True
        if self._noted or line is not None:
            return self._noted
        if transport.has_config_generation:
            return transport.read_config_generation() != self._generation
        return bool(transport.ack_interrupt() & InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT)


def _call(callbacks: list[Callback]) -> None:
    for callback in list(callbacks):
        try:
            callback()
        except Exception:
            log.exception("a callback for changes of the device failed")
