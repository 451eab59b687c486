"""What every door has: it finds the place that a target names, and opens it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from cython_ring.layout import MAX_SIZE
from hwloop.device import DRIVERS, Device, Driver
from hwloop.errors import InvalidParam, Unsupported
from hwloop.filter import Filter, FilterMaker
from hwloop.hal.base import Hal
from hwloop.hal.filter import HalFilter
from hwloop.queue_options import SWITCHES, QueueOptions
from hwloop.signals import shield
from hwloop.spec import DeviceType
from hwloop.target import Target
from hwloop.transport.base import Transport
from hwloop.waiting import MODES, POLL

SWITCH = ("on", "off")
"""The values of an option that is a switch."""
WAIT = {"wait": MODES}
"""The option of every door to a device with queues: how they wait."""
BLOCK_SIZES = (*(str(512 << shift) for shift in range(8)), *(f"{1 << shift}k" for shift in range(7)))
"""Sizes of a block in bytes or KiB, for `parse_size`."""
QUEUE_OPTIONS: dict[str, tuple[str, ...] | None] = {
    **dict.fromkeys(SWITCHES, SWITCH),
    "queues": None,
    "queue-size": None,
}
"""The options of every door to a virtio device that are about its queues."""
_MOST_QUEUES = 1024


@dataclass(frozen=True)
class Opened:
    """A device whose registers are reached and which is not initialised; the end of a `with` block gives it all back.

    `why` says why it is reached in this way, where there was a choice.
    """

    transport: Transport
    hal: Hal
    resources: ExitStack
    why: str = ""

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with shield():
            self.resources.close()


class Place(ABC):
    """One device that a target names, not opened. Making a place opens and changes nothing."""

    filters: Sequence[FilterMaker] = ()
    """What makes the filters of a device that is opened, the one nearest to the driver first."""
    _filters: Sequence[Filter] = ()

    def __init__(self, target: Target) -> None:
        self.target = target

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.target)

    @property
    def device_type(self) -> DeviceType | None:
        """What kind of device it is, where that can be known before it is opened."""
        return None

    @abstractmethod
    def open_transport(self) -> Opened:
        """Take the device and reach its registers, without initialising it; for tools that look at registers.

        Raises RefusedError for a device in use, SetupError for what the machine lacks, TransportError.
        """

    def open_filtered(self) -> Opened:
        """As `open_transport`, with `filters` in front of the device; without any it is the same."""
        if not self.filters:
            return self.open_transport()
        with ExitStack() as stack:
            with shield():
                self._filters = [stack.enter_context(make()) for make in self.filters]
                opened = self.open_transport()
                stack.push(opened.resources)
                hal = opened.hal if isinstance(opened.hal, HalFilter) else self.filtered(opened.hal)
                transport = opened.transport
                for one in reversed(self._filters):
                    transport = one.transport(transport)
            return Opened(transport, hal, stack.pop_all(), opened.why)

    def filtered(self, hal: Hal) -> Hal:
        """The Hal with filters in front. A door calls it before it reaches registers, for these to be seen."""
        for one in reversed(self._filters):
            hal = one.hal(hal)
        return hal

    def open(self) -> Driver:
        """Take the device, initialise it and return its driver, which gives everything back when it is closed.

        With `wait=irq` its queues wait on the device's interrupts, with `wait=adaptive` they poll a little before, and
        go on polling where there are none. Raises as `open_transport`; Unsupported for a device that we have no driver
        for, or with `irq` for one without an interrupt; DeviceError.
        """
        if self.device_type is not None:
            self._driver(self.device_type)
        wait, options = self.target.options.get("wait", POLL), queue_options(self.target)
        with ExitStack() as stack:
            with shield():
                opened = self.open_filtered()
                stack.push(opened.resources)
                driver = self._driver(opened.transport.device_type())
                device = driver(opened.transport, opened.hal, wait=wait, options=options)
                device.call_when_closed(stack.pop_all().close)
                stack.push(device)
            # A signal that came meanwhile was raised at the end of the shield, and `stack` has given everything back.
            stack.pop_all()
        return device

    def _driver(self, device_type: DeviceType) -> type[Device]:
        label = device_type.label
        if label not in DRIVERS:
            raise Unsupported(f"hwloop has no driver for {label} devices ({self.name})", remedy="see: hwloop list")
        return DRIVERS.get(label)


class KernelPlace(Place):
    """A device that the kernel of this machine knows: it can be bound to a driver, and given back.

    `bus` is `pci` or `platform`, `address` its name there.
    """

    bus = "pci"
    address = ""

    @property
    def name(self) -> str:
        return self.address


def queue_options(target: Target) -> QueueOptions:
    """What a target says of queues. Raises InvalidParam."""
    given = target.options
    size = given.get("queue-size")
    return QueueOptions(
        {name: given[name] == "on" for name in SWITCHES if name in given},
        parse_number("queues", given.get("queues", "1"), range(1, _MOST_QUEUES + 1)),
        None if size is None else parse_number("queue-size", size, range(1, MAX_SIZE + 1)),
    )


def check_options(target: Target, known: Mapping[str, tuple[str, ...] | None]) -> None:
    """Refuse options that the door does not have. `known` gives the values of each; None: any. Raises InvalidParam."""
    for key, value in target.options.items():
        if key not in known:
            choice = f"there is: {', '.join(known)}" if known else f"{target.kind}: takes none"
            raise InvalidParam(f"no option is called {key!r}", remedy=choice)
        allowed = known[key]
        if allowed is not None and value not in allowed:
            raise InvalidParam(f"option {key} cannot be {value!r}", remedy=f"choose one of: {', '.join(allowed)}")


def parse_number(key: str, text: str, allowed: range | None = None) -> int:
    """The number that an option is given, decimal or with 0x. Raises InvalidParam."""
    try:
        number = int(text, 0)
    except ValueError:
        raise InvalidParam(f"option {key} cannot be {text!r}", remedy="give a number") from None
    if allowed is not None and number not in allowed:
        raise InvalidParam(f"option {key} cannot be {text}", remedy=f"give {allowed.start} to {allowed.stop - 1}")
    return number
