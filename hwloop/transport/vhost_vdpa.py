"""A virtio device behind the kernel's vhost-vdpa: system calls on a node in place of registers.

Linux, drivers/vhost/vdpa.c and include/uapi/linux/vhost.h. A call that the kernel refuses is an error at once, with
what it was; the kernel itself bounds how long a process behind the node (VDUSE) may keep it waiting.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

from hwloop.errors import AlreadyUsed, ConfigSpaceMissing, DeviceLost, InvalidParam, SetupError, TransportError
from hwloop.hal import vhost_vdpa_ioctl as vdpa
from hwloop.hal.eventfd_interrupt import take_events
from hwloop.hal.vhost_vdpa import VhostVdpaHal
from hwloop.spec import DeviceStatus, DeviceType, DeviceTypeError, Feature, InterruptStatus, PhysAddr
from hwloop.transport.base import Transport
from hwloop.transport.pci_common import check_config_field

T = TypeVar("T")

# What vhost-vdpa has no call for: to notify with data, to reset one queue, to suspend, to see other functions.
_NOT_CARRIED = (
    Feature.NOTIFICATION_DATA
    | Feature.NOTIF_CONFIG_DATA
    | Feature.RING_RESET
    | Feature.SUSPEND
    | Feature.SR_IOV
    | Feature.ADMIN_VQ
)

_SPLIT_BASE = 0
# Available and used index 0, each with its wrap counter 1 in bit 15.
_PACKED_BASE = 0x8000_8000

_GONE = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT)


class VhostVdpaTransport(Transport):
    """The device behind the node that `hal` has open; the node stays open when this is closed.

    Constructing it reads what does not change: type, how many queues, how long they may be, how large the
    configuration is. Raises TransportError for a type that does not exist, SetupError for a kernel too old.
    """

    name = "vhost-vdpa"
    has_config_generation = False
    """There is no call that reads it: `read_consistent` reads twice."""

    def __init__(self, hal: VhostVdpaHal) -> None:
        super().__init__()
        self._hal = hal
        self._kicks: dict[int, int] = {}
        self._resources = ExitStack()
        self._type = self._read_type()
        self._queue_count = self._known(vdpa.read_queue_count, "tell how many queues there are")
        self._largest = self._known(vdpa.read_largest_queue, "tell how long a queue may be")
        self._config_size = self._known(vdpa.read_config_size, "tell how large the configuration is")

    @property
    def config_size(self) -> int:
        """Bytes of the device's configuration."""
        return self._config_size

    def device_type(self) -> DeviceType:
        return self._type

    # --- Features and status ------------------------------------------------------------------------------------------

    def read_device_features(self) -> int:
        """Without those that this transport cannot carry."""
        with self._calling("read the features"):
            return vdpa.read_features(self._hal.fd) & ~_NOT_CARRIED

    def write_driver_features(self, driver_features: int) -> None:
        with self._calling(f"accept the features {driver_features:#x}"):
            vdpa.write_features(self._hal.fd, driver_features)

    def get_status(self) -> DeviceStatus:
        """Raises DeviceLost when nobody answers any more."""
        with self._calling("read the device status"):
            return DeviceStatus(vdpa.read_status(self._hal.fd))

    def set_status(self, status: DeviceStatus) -> None:
        """Writing 0 returns when the device is reset, or raises DeviceLost."""
        with self._calling(f"write the device status {int(status):#x}"):
            vdpa.write_status(self._hal.fd, int(status))
        if not status:
            self._forget_queues()

    def set_guest_page_size(self, guest_page_size: int) -> None:
        """There is no such call."""

    def requires_legacy_layout(self) -> bool:
        return False

    # --- Queues -------------------------------------------------------------------------------------------------------

    def max_queue_size(self, queue: int) -> int:
        return self._largest if 0 <= queue < self._queue_count else 0

    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        """Before DRIVER_OK. Raises InvalidParam for a queue or a size that the device has not, AlreadyUsed,
        TransportError."""
        if self.queue_used(queue):
            raise AlreadyUsed(f"queue {queue} is set up already", remedy="reset the device first")
        if not 0 < size <= self.max_queue_size(queue):
            raise InvalidParam(
                f"queue {queue} cannot have {size} descriptors; {self.max_queue_size(queue)} is the most"
            )
        if size & (size - 1):
            raise InvalidParam(f"queue {queue} cannot have {size} descriptors", remedy="vhost takes powers of two only")
        with ExitStack() as stack, self._calling(f"set up queue {queue}"):
            kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(os.close, kick)
            self._describe(queue, size, vdpa.VringAddresses(descriptors, driver_area, device_area))
            vdpa.set_vring_kick(self._hal.fd, queue, kick)
            vdpa.set_vring_call(self._hal.fd, queue, self._hal.call_line(self.queue_vectors.get(queue)))
            vdpa.enable_vring(self._hal.fd, queue)
            self._kicks[queue] = kick
            self._resources.push(stack.pop_all())

    def _describe(self, queue: int, size: int, at: vdpa.VringAddresses) -> None:
        fd = self._hal.fd
        vdpa.set_vring_size(fd, queue, size)
        vdpa.set_vring_base(fd, queue, _PACKED_BASE if self.negotiated & Feature.RING_PACKED else _SPLIT_BASE)
        vdpa.set_vring_addresses(fd, queue, at)

    def queue_unset(self, queue: int) -> None:
        """Only a reset of the device stops a queue here."""

    def queue_used(self, queue: int) -> bool:
        return queue in self._kicks

    def notify(self, queue: int, data: int | None = None) -> None:
        """One write of an eventfd. Raises InvalidParam for a queue not set up."""
        if queue not in self._kicks:
            raise InvalidParam(f"queue {queue} is not set up, so it cannot be notified")
        with suppress(BlockingIOError):  # nobody has looked for 2**64 notifications, and will find this one
            os.eventfd_write(self._kicks[queue], 1)

    # --- Interrupts and configuration ---------------------------------------------------------------------------------

    def set_config_vector(self) -> None:
        """Changes of the configuration call the eventfd of `config_vector`; without one, one of their own."""
        line = self._hal.config_line if self.config_vector is None else self._hal.call_line(self.config_vector)
        with self._calling("tell of changes of its configuration"):
            vdpa.set_config_call(self._hal.fd, line)

    def ack_interrupt(self) -> InterruptStatus:
        """Only changes of the configuration, and those only without a vector: used buffers are told by eventfds."""
        changed = take_events(self._hal.config_line)
        return InterruptStatus(InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT if changed else 0)

    def read_config_generation(self) -> int:
        """Always 0: there is no call for it."""
        return 0

    def read_config_space(self, offset: int, width: int) -> int:
        """One call also for 8 bytes."""
        self._check_config(offset, width)
        with self._calling(f"read {width} bytes of its configuration"):
            return int.from_bytes(vdpa.read_config(self._hal.fd, offset, width), "little")

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        """One call also for 8 bytes. A process behind the node (VDUSE) never sees it, and nothing says so."""
        self._check_config(offset, width)
        if not 0 <= value < 1 << 8 * width:
            raise InvalidParam(f"{value:#x} does not fit {width} bytes")
        with self._calling(f"write {width} bytes of its configuration"):
            vdpa.write_config(self._hal.fd, offset, value.to_bytes(width, "little"))

    def close(self) -> None:
        self._forget_queues()

    # --- Private ------------------------------------------------------------------------------------------------------

    def _forget_queues(self) -> None:
        self._kicks.clear()
        self._resources.close()

    def _check_config(self, offset: int, width: int) -> None:
        if not self._config_size:
            raise ConfigSpaceMissing("the device has no configuration space of its own")
        check_config_field(offset, width, self._config_size)

    def _read_type(self) -> DeviceType:
        number = self._known(vdpa.read_device_id, "tell its type")
        try:
            return DeviceType.from_id(number)
        except DeviceTypeError as error:
            raise TransportError(f"{self._hal.path} is of type {number}, which is no virtio device") from error

    def _known(self, call: Callable[[int], T], what: str) -> T:
        with self._calling(what):
            return call(self._hal.fd)

    @contextmanager
    def _calling(self, what: str) -> Iterator[None]:
        """Explain what the kernel says of a call; what we say ourselves stays as it is."""
        try:
            yield
        except (DeviceLost, InvalidParam):
            raise
        except OSError as error:
            raise self._refusal(what, error) from error

    def _refusal(self, what: str, error: OSError) -> OSError:
        if error.errno in _GONE:
            return DeviceLost(f"{self._hal.path} does not answer any more: it did not {what} ({error.strerror})")
        if error.errno == errno.ENOTTY:
            return SetupError(
                f"the kernel's vhost-vdpa is too old: it cannot {what}",
                errno=errno.ENOTTY,
                remedy="use Linux 5.18 or newer",
            )
        return TransportError(f"{self._hal.path} did not {what}: {error.strerror}", errno=error.errno)
