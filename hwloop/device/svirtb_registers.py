"""The driver's side of svirtb's registers: the initialisation in its six steps, the doorbell, and the reset."""

from __future__ import annotations

from hwloop.deadline import RESET_SECONDS, wait_until
from hwloop.device.svirtb_protocol import Interpretation, ResetEndedBy, VirtIoMmioHeader, VirtIoStatus
from hwloop.errors import DeviceError, DeviceLost, NotReady, QueueBroken, TransportError
from hwloop.spec import PhysAddr
from mmio import Region
from mmio.register import ReadableWritable

_ALL_ONES = 0xFFFF_FFFF
"""What a register reads where no device answers."""


def probe_svirtb(region: Region) -> bool:
    """Whether the registers are those of a svirtb device that waits for a driver: its status is MAGIC (seed 002, 2).

    Reads, and writes nothing. A device in use does not show it.
    """
    return VirtIoMmioHeader(region).status.read() == VirtIoStatus.MAGIC


class SvirtbRegisters:
    """The registers of one device, in `region`, of which the first 24 bytes are used.

    Never writes MAGIC or `queue_tail`, and `queue_head` only between `connect` and the next reset.
    """

    def __init__(self, region: Region, interpretation: Interpretation, step_seconds: float = RESET_SECONDS) -> None:
        self.region = region
        self.header = VirtIoMmioHeader(region)
        self.interpretation = interpretation
        self.size = 0
        self.head = 0
        self._step_seconds = step_seconds
        self._begun = self._live = False

    @property
    def begun(self) -> bool:
        """Whether the device was written to since its last reset, so that it may know our memory."""
        return self._begun

    def connect(self, ring: PhysAddr, size: int) -> None:
        """Initialise the device with a ring of `size` entries at device address `ring` (seed 002, 3, steps 1 to 6).

        Raises TransportError when there is no svirtb device that waits for a driver, DeviceError when it does not
        keep what it is told, DeviceLost when it asks for a reset, DeadlineExpired.
        """
        self._check_magic()
        self._begun = True
        self.header.status.write(VirtIoStatus.DRIVER_OK)
        self._wait_for(VirtIoStatus.DRIVER_OK)
        self._configure(self.header.queue_size, size)
        self._configure(self.header.queue_addr_hi, ring >> 32)
        self._configure(self.header.queue_addr_lo, ring & 0xFFFF_FFFF)
        self.header.status.write(VirtIoStatus.READY)
        self._wait_for(VirtIoStatus.READY)
        self.size, self.head, self._live = size, 0, True

    def notify(self, head: int) -> None:
        """Write the doorbell: everything below `head` (which counts up for ever) is in the ring.

        The write is a register access, so it is ordered after the entries that were written to memory before.
        Raises NotReady before READY (seed 002, 3).
        """
        if not self._live:
            raise NotReady("the device is not READY, and its doorbell must not be written before", remedy="recover it")
        self.head = self.interpretation.wrap(head, self.size)
        self.header.queue_head.write(self.head)

    def consumed(self, done: int, outstanding: int) -> int:
        """Read how many more than `done` entries the device has consumed. Raises QueueBroken for an impossible tail."""
        tail = self.header.queue_tail.read()
        new = self.interpretation.consumed(done, tail, self.size)
        if new is None or new > outstanding:
            where = f"{done} entries were consumed and {outstanding} are outstanding in a ring of {self.size}"
            raise QueueBroken(f"the device says that its queue_tail is {tail}, where {where}")
        return new

    def status_fault(self) -> str:
        """What the status says is wrong with a device that was READY, or ""."""
        status = self.header.status.read()
        if status == VirtIoStatus.RESET:
            return "the device met an error and asks to be reset: its status is RESET"
        if status != VirtIoStatus.READY:
            return f"the device is not READY any more: its status is {status_text(status)}"
        return ""

    def fault(self) -> str:
        """As `status_fault`, and whether the device wrote `queue_head`, which it must not (seed 002, 2)."""
        if fault := self.status_fault():
            return fault
        head = self.header.queue_head.read()
        return "" if head == self.head else f"the device changed queue_head from {self.head} to {head}"

    def reset(self) -> None:
        """End the connection, and wait until the device shows MAGIC, so that it touches no memory any more.

        Raises DeviceLost when nothing answers any more, DeadlineExpired.
        """
        self._live = False
        theirs = self.interpretation.reset_ended_by is ResetEndedBy.DEVICE
        status = self.header.status.read()
        if status == _ALL_ONES:
            raise DeviceLost("the device is gone: its registers read all ones")
        if status != VirtIoStatus.MAGIC and not (theirs and status == VirtIoStatus.RESET):
            self.header.status.write(VirtIoStatus.RESET)
        wait_until(self._shows_magic, "the device to show MAGIC after a reset", self._step_seconds)
        self._begun = False

    def _shows_magic(self) -> bool:
        return self.header.status.read() == VirtIoStatus.MAGIC

    def _check_magic(self) -> None:
        if probe_svirtb(self.region):
            return
        status = self.header.status.read()
        if status in list(VirtIoStatus):
            raise TransportError(
                f"the status register holds {status_text(status)} and not MAGIC: a driver uses the device, or died",
                remedy="end that driver, and open the device with reset=on",
            )
        raise TransportError(f"the status register holds {status:#x} and not MAGIC: there is no svirtb device")

    def _wait_for(self, wanted: VirtIoStatus) -> None:
        """Raises DeviceLost at once when the device answers with RESET."""

        def shows() -> bool:
            status = self.header.status.read()
            if status == VirtIoStatus.RESET:
                raise DeviceLost(f"the device answered {wanted.name} with RESET")
            return status == wanted

        wait_until(shows, f"the status {wanted.name} to show", self._step_seconds)

    def _configure(self, register: ReadableWritable, value: int) -> None:
        register.write(value)
        kept = register.read()
        if kept != value:
            raise DeviceError(f"the device took {value:#x} as {register.name} and shows {kept:#x}")


def status_text(status: int) -> str:
    """The name of a status, or its number."""
    return VirtIoStatus(status).name if status in list(VirtIoStatus) else f"{status:#x}"
