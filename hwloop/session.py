"""Opens a target: the door for its kind finds the device and opens it, and every way out of the program closes it."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from hwloop.device import Driver
from hwloop.door import DOORS, KernelPlace, Place
from hwloop.errors import Unsupported
from hwloop.filter import Filter, FilterMaker, parse_filters
from hwloop.signals import shield
from hwloop.target import Target
from udev import Sysfs


def find(target: str | Target, sysfs: Sysfs | None = None) -> Place:
    """The place that a target names. Nothing is opened or changed.

    Raises InvalidParam, udev.DeviceNotFound, Unsupported for a device that is not virtio.
    """
    parsed = Target.parse(target) if isinstance(target, str) else target
    text = parsed.options.get("filter")
    if text is not None:
        parsed = replace(parsed, options={key: value for key, value in parsed.options.items() if key != "filter"})
    place = DOORS.get(parsed.kind)(parsed, sysfs or Sysfs())
    place.filters = [*_for_all(str(target)), *(parse_filters(text, str(target)) if text is not None else ())]
    return place


EVERY_DEVICE: list[Callable[[str], Filter]] = []
"""Filters for each device that is found from now on, given its target: `--trace` of the command line adds one."""


def _for_all(target: str) -> list[FilterMaker]:
    return [lambda make=make: make(target) for make in EVERY_DEVICE]  # type: ignore[misc]


def find_in_kernel(target: str | Target, sysfs: Sysfs | None = None) -> KernelPlace:
    """As `find`, for what is about drivers of the kernel. Raises Unsupported for a target that it does not know."""
    place = find(target, sysfs)
    if not isinstance(place, KernelPlace):
        raise Unsupported(
            f"the kernel of this machine has no part in {place.name}: there is no driver to bind or restore"
        )
    return place


def open(target: str | Target, sysfs: Sysfs | None = None) -> Driver:  # noqa: A001
    """Take the device that a target names, initialise it and return its driver.

    `with hwloop.open("0000:00:05.0") as disk:` gives it back at the end. A block device is a `VirtioBlk`. Raises
    InvalidParam, RefusedError for a disk in use, SetupError for what the machine lacks, DeviceError.
    """
    return open_place(find(target, sysfs))


def open_place(place: Place) -> Driver:
    """As `open`, for a place that was found before."""
    with ExitStack() as stack:
        with shield():
            device = stack.enter_context(place.open())
            _close_at_exit(device)
        stack.pop_all()
    return device


def _close_at_exit(device: Driver) -> None:
    """A program that forgets to close its device, or ends by an exception, still gives it back."""
    atexit.register(device.close)
    device.call_when_closed(lambda: atexit.unregister(device.close))
