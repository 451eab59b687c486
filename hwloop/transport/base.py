"""The registers of one virtio device, whatever carries them.

The methods are those of the seeds' `Transport`, exactly. What is the same on every transport stands here: the order of
initialisation with its read-backs and deadlines, and reading the configuration consistently.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, takewhile
from typing import TypeVar

from cython_ring import Doorbell
from hwloop.deadline import CONFIG_ATTEMPTS_SECONDS, RESET_SECONDS, Deadline, wait_until
from hwloop.errors import DeadlineExpired, DeviceError, DeviceLost, FeaturesRefused
from hwloop.owner import Owner
from hwloop.spec import PAGE_SIZE, DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr, feature_names
from hwloop.transport.register_value import RegisterValue

T = TypeVar("T")
Q = TypeVar("Q")

log = logging.getLogger("hwloop.transport")

_NEGOTIATING = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER
_LIVE = _NEGOTIATING | DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK


class Transport(Owner):
    """A VirtIO transport layer. Owns its register windows: `close()` gives them up, and is idempotent."""

    name = ""
    negotiated = 0
    """The features that `begin_init` settled on, as bits."""
    has_config_generation = True
    """The device counts the changes of its configuration. A legacy one does not (VIRTIO 1.4, 2.5.4)."""
    fixed_queue_size = False
    """The device sets the size of its queues, and the driver has to take it (VIRTIO 1.4, 4.1.5.1.3.1)."""
    config_vector: int | None = None
    """The MSI-X vector of configuration changes, written before DRIVER_OK; None: no interrupt."""
    may_come_back = False
    """A device that is gone may be `gone_for_now`."""
    reset_pending = False
    """A reset was begun and did not complete: nothing but the status may be touched (VIRTIO 1.4, 4.1.4.3.2)."""

    def __init__(self) -> None:
        self.queue_vectors: dict[int, int] = {}
        """Queue index to MSI-X vector; a queue takes its own when it is set up. Others do not interrupt by MSI-X."""
        self.queue_bases: dict[int, int] = {}
        """Queue index to where a device that came back goes on with it; others begin at their beginning."""

    # --- What each transport implements -------------------------------------------------------------------------------

    @abstractmethod
    def device_type(self) -> DeviceType:
        """Gets the device type."""

    @abstractmethod
    def read_device_features(self) -> int:
        """Reads the offered feature bits 0 to 63."""

    @abstractmethod
    def write_driver_features(self, driver_features: int) -> None:
        """Writes the accepted feature bits 0 to 63."""

    @abstractmethod
    def max_queue_size(self, queue: int) -> int:
        """The largest size, in descriptors, that the queue may have; 0 when the device has no such queue."""

    @abstractmethod
    def notify(self, queue: int, data: int | None = None) -> None:
        """Tells the device that the queue has new buffers. `data` is the 32 bits that this carries where
        NOTIFICATION_DATA was negotiated (VIRTIO 1.4, 2.9), which a transport that cannot carry them does not offer."""

    def doorbell(self, queue: int) -> Doorbell | None:
        """What notifies a queue that is set up, where a loop without the GIL can do that; None: only `notify` can."""
        return None

    @abstractmethod
    def get_status(self) -> DeviceStatus:
        """Reads the device status."""

    @abstractmethod
    def set_status(self, status: DeviceStatus) -> None:
        """Writes the device status. Writing 0 starts a reset; `reset` waits for its end."""

    @abstractmethod
    def set_guest_page_size(self, guest_page_size: int) -> None:
        """Tells a legacy MMIO device the page size in bytes; other transports have no such register."""

    @abstractmethod
    def requires_legacy_layout(self) -> bool:
        """Whether queues must have the legacy layout (VIRTIO 1.4, 2.7.2)."""

    @abstractmethod
    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        """Gives the queue its size and the device addresses of its three areas, and enables it."""

    @abstractmethod
    def queue_unset(self, queue: int) -> None:
        """Disables and resets the queue where the transport can; the others stop it at the next device reset."""

    @abstractmethod
    def queue_used(self, queue: int) -> bool:
        """Whether the queue is in use: enabled, or with a page frame number that is not 0."""

    @abstractmethod
    def ack_interrupt(self) -> InterruptStatus:
        """Reads and acknowledges what was pending; falsy when nothing was."""

    @abstractmethod
    def read_config_generation(self) -> int:
        """Reads the generation of the configuration space; constant where there is none."""

    @abstractmethod
    def read_config_space(self, offset: int, width: int) -> int:
        """Reads 1, 2, 4 or 8 little-endian bytes of the device's configuration; 8 as two of 4, low half first.

        Raises ConfigSpaceMissing, ConfigSpaceTooSmall.
        """

    @abstractmethod
    def write_config_space(self, offset: int, width: int, value: int) -> None:
        """Writes 1, 2, 4 or 8 little-endian bytes. Raises as `read_config_space`."""

    @abstractmethod
    def close(self) -> None:
        """Give up the registers. Does not reset the device: its driver has done that."""

    # --- What is the same on all of them ------------------------------------------------------------------------------

    def reset(self, seconds: float = RESET_SECONDS) -> None:
        """Reset the device and wait until it reports status 0; no other register is touched meanwhile.

        Raises DeadlineExpired (VIRTIO 1.4, 4.1.4.3.2).
        """
        self.set_status(DeviceStatus(0))
        try:
            wait_until(
                lambda: self.get_status() == 0,
                "the device to finish its reset (status 0)",
                seconds,
                remedy="the device is stuck; its memory will not be used again by this process",
                section="4.1.4.3.2",
            )
        except DeadlineExpired:
            self.reset_pending = True
            raise
        self.reset_pending = False

    def read_registers(self) -> Iterator[RegisterValue]:
        """What every register holds, in order, for people: nothing that changes the device is read or written, but for
        the registers that select a queue or a word. Here: what can be asked of any transport."""
        yield RegisterValue("device", "device_features", None, 8, self.read_device_features())
        yield RegisterValue("device", "driver_features", None, 8, self.negotiated)
        yield RegisterValue("device", "device_status", None, 1, int(self.get_status()))
        if self.has_config_generation:
            yield RegisterValue("device", "config_generation", None, 4, self.read_config_generation())
        for queue in self._existing_queues():
            yield RegisterValue(f"queue {queue}", "max_size", None, 2, self.max_queue_size(queue))
            yield RegisterValue(f"queue {queue}", "enabled", None, 1, int(self.queue_used(queue)))

    def _existing_queues(self) -> Iterator[int]:
        """The numbers of the queues that the device has."""
        return takewhile(self.max_queue_size, count())

    def set_config_vector(self) -> None:
        """Write `config_vector` where there is such a register. Raises TransportError when the device refuses it."""

    def takes_vector(self, queue: int | None, vector: int) -> bool:
        """Whether the device takes a vector for a queue that is not set up yet, or for its configuration (None). It may
        have no resources for it (VIRTIO 1.4, 4.1.5.1.2.2); the vector is told again when the queue is set up."""
        return True

    def watch_queue(self, queue: Q) -> Q:
        """What a driver is to use in place of a queue that it has just set up: the queue itself, or what a filter puts
        in front of it. Asked once for each queue, so that nothing is asked while requests run."""
        return queue

    def last_events(self, count: int = 16) -> list[str]:
        """What happened to the device last, a line each, for the notes of an error; nothing where nobody traces."""
        return []

    def prepare_dma(self) -> None:
        """Let the device read and write memory. Called once the reset is confirmed; PCI turns on bus mastering."""

    def stop_dma(self) -> None:
        """The opposite of `prepare_dma`, after the last reset. Never fails on a device that is gone."""

    def gone_for_now(self) -> bool:
        """Whether the device has gone and `reconnect` may find it again: only a process can come back."""
        return False

    def reconnect(self) -> bool:
        """Find a device that is `gone_for_now`, and negotiate with it what was negotiated before.

        It knows no memory and no queue then: those, and `finish_init`, are to follow. Returns whether it will know by
        itself which buffers of those queues it had not used. Raises DeviceLost when it stays away, DeviceError when it
        is another one.
        """
        raise DeviceLost("the device is gone", remedy="open it again")

    def begin_init(self, supported_features: int | Callable[[int], int]) -> int:
        """Reset the device and negotiate features (VIRTIO 1.4, 3.1.1, steps 1 to 6).

        `supported_features` is the set of feature bits that the driver knows, or a function from the offered set to
        the accepted one. Returns the negotiated bits, which are also `self.negotiated`. Once the reset is over, a
        device whose initialisation fails is marked FAILED. Raises FeaturesRefused, DeadlineExpired.
        """
        self.reset()
        try:
            return self._negotiate(supported_features)
        except BaseException:
            with suppress(OSError):
                self.fail()
            raise

    def _negotiate(self, supported_features: int | Callable[[int], int]) -> int:
        self.prepare_dma()
        self.set_status(DeviceStatus.ACKNOWLEDGE)
        self.set_status(_NEGOTIATING)
        offered = self.read_device_features()
        log.debug("Device features: %s", feature_names(offered, self.device_type()))
        self.negotiated = self._choose(offered, supported_features)
        self.write_driver_features(self.negotiated)
        self._confirm_features(offered)
        self.set_guest_page_size(PAGE_SIZE)
        return self.negotiated

    def finish_init(self) -> None:
        """Tell the device that the driver is ready: from here on it may process buffers.

        Raises DeviceLost when the device does not stay ready, TransportError when it refuses `config_vector`.
        """
        self.set_config_vector()
        self.set_status(_LIVE if self.negotiated & Feature.VERSION_1 else _LIVE & ~DeviceStatus.FEATURES_OK)
        status = self.get_status()
        if status & DeviceStatus.DEVICE_NEEDS_RESET or not status & DeviceStatus.DRIVER_OK:
            raise DeviceLost(f"the device did not become ready: its status is {status!r}", section="3.1.1")

    def fail(self) -> None:
        """Tell the device that its driver has given up on it (FAILED): once, and not in the middle of a reset."""
        if self.reset_pending:
            return
        status = self.get_status()
        if not status & DeviceStatus.FAILED:
            self.set_status(status | DeviceStatus.FAILED)

    def read_consistent(self, f: Callable[[], T], seconds: float = CONFIG_ATTEMPTS_SECONDS) -> T:
        """Call `f`, which reads configuration fields, until the generation is the same before and after it; where there
        is none, until two calls in a row agree.

        What `f` raises while the configuration is stable is raised. Raises DeviceError (VIRTIO 1.4, 2.5.3).
        """
        deadline = Deadline(seconds)
        attempt = self._between_generations if self.has_config_generation else _twice
        while True:
            stable, result, error = attempt(f)
            if stable:
                if error is not None:
                    raise error
                return result[0]
            if deadline.expired():
                text = f"the configuration of the device did not stop changing for {seconds:g} s"
                raise DeviceError(text, section="2.5.3")

    def _between_generations(self, f: Callable[[], T]) -> tuple[bool, list[T], OSError | None]:
        before = self.read_config_generation()
        result, error = _outcome(f)
        return self.read_config_generation() == before, result, error

    def _choose(self, offered: int, supported: int | Callable[[int], int]) -> int:
        chosen = supported(offered) if callable(supported) else offered & (supported | always_accepted(offered))
        unoffered = chosen & ~offered
        if unoffered:
            names = ", ".join(feature_names(unoffered, self.device_type()))
            raise FeaturesRefused(f"the driver chose features that the device does not offer: {names}", section="2.2.1")
        if offered & Feature.VERSION_1:
            if __debug__ and not chosen & Feature.VERSION_1:
                # No `assert` statement: a test runner that rewrites those would change the seeds' words.
                raise AssertionError(
                    "Driver must accept VIRTIO_F_VERSION_1 in supported features because it is offered by the device."
                )
        elif not self.requires_legacy_layout():
            raise FeaturesRefused("the device does not offer VIRTIO_F_VERSION_1", section="6.2")
        return chosen

    def _confirm_features(self, offered: int) -> None:
        """Set FEATURES_OK and read it back. A device without VERSION_1 has no such step (VIRTIO 1.4, 3.1.2)."""
        if not self.negotiated & Feature.VERSION_1:
            return
        self.set_status(_NEGOTIATING | DeviceStatus.FEATURES_OK)
        if self.get_status() & DeviceStatus.FEATURES_OK:
            return
        accepted = ", ".join(feature_names(self.negotiated, self.device_type())) or "none"
        raise FeaturesRefused(
            f"the device refused the accepted features ({accepted}) of those it offers ({offered:#x})", section="3.1.1"
        )


def always_accepted(offered: int) -> int:
    """ANY_LAYOUT of a legacy device: a driver that also drives modern ones must accept it (VIRTIO 1.4, 6.3)."""
    return 0 if offered & Feature.VERSION_1 else int(Feature.ANY_LAYOUT)


def _twice(f: Callable[[], T]) -> tuple[bool, list[T], OSError | None]:
    """A legacy device has no generation, so the only sign of a torn value is another one (VIRTIO 1.4, 2.5.4)."""
    first, first_error = _outcome(f)
    second, error = _outcome(f)
    return first == second and type(first_error) is type(error), second, error


def _outcome(f: Callable[[], T]) -> tuple[list[T], OSError | None]:
    try:
        return [f()], None
    except OSError as error:
        return [], error
