"""A virtio device in process, without its transport and without a meaning: status, features, queues, configuration.

It is strict where QEMU forgives. A driver that breaks a rule gets a `RuleBroken` at once, in the call that broke it.
Each way of misbehaving is a switch in `Faults`; all are off by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from cython_ring import Chain, DeviceSidePacked, DeviceSideSplit
from hwloop.hal.fake import FakeHal
from hwloop.hal.fake_interrupt import FakeInterrupts
from hwloop.spec import DeviceStatus, DeviceType, Feature, InterruptStatus, feature_names

_STEPS = (DeviceStatus.ACKNOWLEDGE, DeviceStatus.DRIVER, DeviceStatus.FEATURES_OK, DeviceStatus.DRIVER_OK)


class RuleBroken(AssertionError):
    """The driver did what the specification forbids; the text names the section."""


@dataclass
class Faults:
    """One switch for each way in which the device may misbehave."""

    reset_reads: int = 0
    """How many reads of the status it takes until a reset shows; -1: for ever."""
    refuse_features: bool = False
    """FEATURES_OK does not stick."""
    ignore_driver_ok: bool = False
    """DRIVER_OK does not stick."""
    drop: bool = False
    """Buffers are taken and never used."""
    lose_notifications: int = 0
    """So many notifications are not seen."""
    generation_steps: int = 0
    """The configuration changes at so many further reads of the generation; -1: at every one."""
    queue_reset_reads: int = 0
    """How many looks it takes until the reset of one queue shows; -1: for ever."""
    refuse_vectors: bool = False
    """No MSI-X vector can be given to an event."""
    refuse_vectors_from: int = 0
    """No MSI-X vector from this one on can be given to an event; 0: all can."""
    gone: bool = False
    """The device was unplugged: every register reads all ones."""


class Step(Enum):
    """What has happened to a buffer last."""

    FETCHED = "fetched"
    SERVED = "served"
    """Done, and the driver does not know."""
    USED = "used"
    """With IN_ORDER, and all those before it."""


@dataclass
class FakeQueue:
    """What the driver told about one queue."""

    max_size: int
    size: int = 0
    desc: int = 0
    driver: int = 0
    device: int = 0
    enabled: bool = False
    was_reset: bool = False
    vector: int | None = None
    first_index: int = 0
    """Where both rings of a split queue stand when it is enabled: not at 0 where a device goes on with the work of one
    before it."""
    ring: DeviceSideSplit | DeviceSidePacked | None = None
    held: list[Chain] = field(default_factory=list)


class FakeDevice:
    """A device of `device_type` that offers `features`, has queues of `queue_sizes` and `config` bytes.

    A subclass gives requests a meaning in `serve`. Buffers are served inside `notify`, in order. With `hold` set,
    they are only fetched, and served by `release`.
    """

    def __init__(
        self, hal: FakeHal, device_type: DeviceType, features: int, queue_sizes: list[int], config: bytes
    ) -> None:
        self.hal = hal
        self.device_type = device_type
        self.features = features
        self.queues = [FakeQueue(size) for size in queue_sizes]
        self.config = bytearray(config)
        self.faults = Faults()
        self.hold = False
        self.status = DeviceStatus(0)
        self.driver_features = 0
        self.generation = 0
        self.bus_master = False
        self.legacy = False
        """Driven through a legacy interface: 32 features, no FEATURES_OK. A register bank of that kind sets it."""
        self.drive_line: Callable[[bool], object] | None = None
        """Raises and lowers the line of the device, where there is one."""
        self._interrupt_status = InterruptStatus(0)
        self.config_vector: int | None = None
        self.send_message: Callable[[int | None], bool] | None = None
        """Set by a register bank with MSI-X: sends the message of a vector, False where messages are off."""
        self.on_step: Callable[[Step, int, int], None] | None = None
        """Told of each step of each buffer, with its queue and its head."""
        self._resetting = 0
        self._stopping: dict[int, int] = {}
        self.status_writes: list[int] = []

    @property
    def offered(self) -> int:
        """The features that the interface in use can show."""
        return self.features & 0xFFFF_FFFF if self.legacy else self.features

    @property
    def is_resetting(self) -> bool:
        """Whether a reset is under way: no register but the status may be touched (VIRTIO 1.4, 4.1.4.3.2)."""
        return self._resetting != 0

    def reset_itself(self) -> None:
        """Forget everything, as after a reset that somebody else did."""
        self._reset()

    # --- Registers ----------------------------------------------------------------------------------------------------

    def read_status(self) -> int:
        if self.faults.gone:
            return 0xFF
        if self._resetting:
            self._resetting -= 1
            return int(self.status)
        if self.status_writes and self.status_writes[-1] == 0:
            self._reset()
        return int(self.status)

    def write_status(self, value: int) -> None:
        """VIRTIO 1.4, 2.1.1: bits are only added; 0 resets."""
        self.status_writes.append(value)
        if value == 0:
            self._start_reset()
            return
        self._refuse_if_resetting()
        new = DeviceStatus(value)
        if self.status & ~new & ~DeviceStatus.DEVICE_NEEDS_RESET:
            raise RuleBroken(f"status {self.status!r} was followed by {new!r}, which clears a bit (2.1.1)")
        if self.status & DeviceStatus.FAILED:
            raise RuleBroken("a status was written to a device marked FAILED without a reset (2.1.1)")
        self._check_step(new)
        self.status = self._kept(new)

    def _check_step(self, new: DeviceStatus) -> None:
        if self.legacy and new & DeviceStatus.FEATURES_OK:
            raise RuleBroken(f"status {new!r} has a bit that a legacy device does not know (3.1.2)")
        order = [step for step in _STEPS if not (self.legacy and step == DeviceStatus.FEATURES_OK)]
        missing = False
        for step in order:
            if missing and new & step:
                raise RuleBroken(f"status {new!r} skips a step of initialisation (3.1.1)")
            missing = missing or not new & step
        accepting = new & DeviceStatus.FEATURES_OK and not self.status & DeviceStatus.FEATURES_OK
        if accepting and self.offered & ~self.driver_features & Feature.VERSION_1:
            raise RuleBroken("VERSION_1 is offered and was not accepted (6.1)")

    def _kept(self, new: DeviceStatus) -> DeviceStatus:
        if self.faults.refuse_features:
            new &= ~DeviceStatus.FEATURES_OK
        if self.faults.ignore_driver_ok:
            new &= ~DeviceStatus.DRIVER_OK
        return new

    def write_features(self, value: int) -> None:
        """VIRTIO 1.4, 2.2.1 and 3.1.1."""
        self._refuse_if_resetting()
        if value & ~self.offered:
            names = feature_names(value & ~self.offered, self.device_type)
            raise RuleBroken(f"features were accepted that are not offered: {names} (2.2.1)")
        if not self.status & DeviceStatus.DRIVER or self.status & (DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK):
            raise RuleBroken(f"features were written while the status was {self.status!r} (3.1.1)")
        self.driver_features = value

    def read_generation(self) -> int:
        if self.faults.generation_steps:
            self.faults.generation_steps -= 1
            self.generation = self.generation + 1 & 0xFF
        return self.generation

    def read_config(self, offset: int, width: int) -> int:
        if self.faults.gone:
            return (1 << 8 * width) - 1
        return int.from_bytes(self.config[offset : offset + width], "little")

    def write_config(self, offset: int, width: int, value: int) -> None:
        if not self.status & self._negotiated_step:
            raise RuleBroken("the configuration was written before FEATURES_OK (3.1.1)")
        self.config[offset : offset + width] = value.to_bytes(width, "little")

    # --- Interrupts ---------------------------------------------------------------------------------------------------

    @property
    def interrupt_status(self) -> InterruptStatus:
        """What the device interrupted for and nobody has acknowledged; its line is raised as long as there is any."""
        return self._interrupt_status

    @interrupt_status.setter
    def interrupt_status(self, causes: InterruptStatus) -> None:
        self._interrupt_status = causes
        if self.drive_line is not None:
            self.drive_line(bool(causes))

    def connect(self, interrupts: FakeInterrupts) -> None:
        """The line of the device, and its messages unless a register bank sends them, go there."""
        self.drive_line = interrupts.set_line
        if self.send_message is None:
            self.send_message = interrupts.send

    def takes_vector(self, vector: int) -> bool:
        """Whether the device has what it takes to give an event this vector."""
        most = self.faults.refuse_vectors_from
        return not self.faults.refuse_vectors and not 0 < most <= vector

    def config_changed(self) -> None:
        """Tell the driver that the configuration is another one: the generation, and an interrupt once it is live."""
        self.generation = self.generation + 1 & 0xFF
        if self.status & DeviceStatus.DRIVER_OK:
            self._interrupt(InterruptStatus.DEVICE_CONFIGURATION_INTERRUPT, self.config_vector)

    def acknowledge(self, causes: int) -> None:
        """The driver has seen these causes of an interrupt."""
        self.interrupt_status = InterruptStatus(self.interrupt_status & ~causes)

    def _interrupt(self, cause: InterruptStatus, vector: int | None) -> None:
        """With MSI-X on there is no interrupt status, and an event without a vector stays silent (4.1.4.5.1)."""
        if self.send_message is None or not self.send_message(vector):
            self.interrupt_status |= cause

    # --- Queues -------------------------------------------------------------------------------------------------------

    def enable(self, index: int) -> None:
        """VIRTIO 1.4, 4.1.4.3.2: size and addresses stand before the queue is enabled."""
        self._refuse_if_resetting()
        queue = self.queues[index]
        if queue.enabled:
            raise RuleBroken(f"queue {index} was enabled twice (4.1.4.3.2)")
        late = self.status & DeviceStatus.DRIVER_OK and not queue.was_reset
        if not self.status & self._negotiated_step or late:
            raise RuleBroken(f"queue {index} was enabled while the status was {self.status!r} (3.1.1)")
        if not self.allows_size(queue, queue.size):
            raise RuleBroken(f"queue {index} was given {queue.size} descriptors of {queue.max_size} (4.1.4.3.2)")
        queue.ring = self._make_ring(queue)
        queue.enabled = True

    def allows_size(self, queue: FakeQueue, size: int) -> bool:
        """Whether a queue may have so many descriptors: in a split queue, a power of two (VIRTIO 1.4, 2.7 and 2.8)."""
        return 0 < size <= queue.max_size and (self._has(Feature.RING_PACKED) or not size & (size - 1))

    def area_lengths(self, size: int) -> tuple[int, int, int]:
        """Bytes of a queue's descriptor area, driver area and device area."""
        return (16 * size, 4, 4) if self._has(Feature.RING_PACKED) else (16 * size, 6 + 2 * size, 6 + 8 * size)

    def _make_ring(self, queue: FakeQueue) -> DeviceSideSplit | DeviceSidePacked:
        """Of either format, with what was negotiated. A packed descriptor area is written by both sides."""
        packed = self._has(Feature.RING_PACKED)
        desc, driver, device = self.area_lengths(queue.size)
        options: dict[str, Any] = {} if packed else {"first_index": queue.first_index}
        return (DeviceSidePacked if packed else DeviceSideSplit)(
            queue.size,
            self.hal.translate(queue.desc, desc, packed),
            self.hal.translate(queue.driver, driver, False),
            self.hal.translate(queue.device, device, True),
            translate=self.hal.translate,
            owner=self.hal,
            event_idx=self._has(Feature.EVENT_IDX),
            indirect=self._has(Feature.INDIRECT_DESC),
            in_order=self._has(Feature.IN_ORDER),
            **options,
        )

    def _has(self, feature: Feature) -> bool:
        return bool(self.driver_features & feature)

    def reset_queue(self, index: int) -> None:
        """What the driver asks for with VIRTIO_F_RING_RESET (VIRTIO 1.4, 2.6.1)."""
        if not self._has(Feature.RING_RESET):
            raise RuleBroken(f"queue {index} was reset without RING_RESET (2.6.1)")
        self.forget_queue(index)
        self._stopping[index] = self.faults.queue_reset_reads

    def forget_queue(self, index: int) -> None:
        """Let go of a queue and of every buffer of it."""
        self.queues[index] = FakeQueue(self.queues[index].max_size, was_reset=True)

    def queue_is_stopping(self, index: int) -> bool:
        """Whether the reset of a queue is under way; each look brings its end nearer."""
        left = self._stopping.get(index, 0)
        self._stopping[index] = max(left - 1, 0) if left >= 0 else left
        return left != 0

    def notify(self, index: int, data: int | None = None) -> None:
        """`data` is what the notification carries with NOTIFICATION_DATA (VIRTIO 1.4, 2.9)."""
        if self.faults.gone:
            return
        self._refuse_if_resetting()
        if self.faults.lose_notifications:
            self.faults.lose_notifications -= 1
            return
        if not self.status & DeviceStatus.DRIVER_OK:
            raise RuleBroken(f"queue {index} was notified before DRIVER_OK (3.1.1)")
        if not self.bus_master:
            raise RuleBroken("the device was asked to do DMA while bus mastering is off")
        self.run(index)
        self._check_data(index, data)

    def _check_data(self, index: int, data: int | None) -> None:
        """Everything available was fetched just now: so far the notification says that it reaches."""
        if (data is not None) != self._has(Feature.NOTIFICATION_DATA):
            raise RuleBroken(f"queue {index} was notified with the data {data}, against what was negotiated (2.9)")
        if data is None:
            return
        ring = self.queues[index].ring
        reached = ring.next_avail if ring is not None else 0
        expected = reached if isinstance(reached, int) else reached[0] | reached[1] << 15
        if data != index | expected << 16:
            raise RuleBroken(f"queue {index} was notified with {data:#x}; its next place is {expected:#x} (2.9)")

    def run(self, index: int) -> None:
        """Take every available buffer of a queue, and serve what is not held."""
        queue = self.queues[index]
        if queue.ring is None:
            raise RuleBroken(f"queue {index} was notified and is not enabled (4.1.4.3.2)")
        while (chain := queue.ring.fetch()) is not None:
            queue.held.append(chain)
            self._step(Step.FETCHED, index, chain)
        if not self.hold and not self.faults.drop:
            self.release(index)

    def release(self, index: int = 0, count: int | None = None, *, backwards: bool = False) -> None:
        """Serve buffers that are held: the first `count`, or all; the last one first with `backwards`."""
        queue = self.queues[index]
        chosen = queue.held[:count]
        del queue.held[: len(chosen)]
        if self._has(Feature.IN_ORDER):
            self._complete_in_order(index, chosen)
        else:
            for chain in reversed(chosen) if backwards else chosen:
                self._give_back(index, chain, self._serve(index, chain))
        if chosen and queue.ring is not None and queue.ring.needs_used_notification():
            self._interrupt(InterruptStatus.QUEUE_INTERRUPT, queue.vector)

    def _complete_in_order(self, index: int, chains: list[Chain]) -> None:
        """One used element for as many as it may stand for: buffers that were written completely (2.7.9, 2.8.8)."""
        for chain in chains:
            written = self._serve(index, chain)
            if chain is chains[-1] or written != chain.writable_bytes:
                self._give_back(index, chain, written)

    def _serve(self, index: int, chain: Chain) -> int:
        written = self.serve(chain)
        self._step(Step.SERVED, index, chain)
        return written

    def _give_back(self, index: int, chain: Chain, written: int) -> None:
        ring = self.queues[index].ring
        assert ring is not None, "it was fetched from there"
        ring.complete(chain.head, written)
        self._step(Step.USED, index, chain)

    def _step(self, step: Step, index: int, chain: Chain) -> None:
        if self.on_step is not None:
            self.on_step(step, index, chain.head)

    def serve(self, chain: Chain) -> int:
        """Do what a buffer asks for; returns how many bytes were written."""
        raise NotImplementedError

    @property
    def _negotiated_step(self) -> DeviceStatus:
        """The status bit that shows that features are settled; a legacy device has none, and takes DRIVER for it."""
        return DeviceStatus.DRIVER if self.legacy else DeviceStatus.FEATURES_OK

    # --- Private ------------------------------------------------------------------------------------------------------

    def _start_reset(self) -> None:
        # A device that is at 0 already shows no reset at all.
        self._resetting = self.faults.reset_reads if self.status else 0
        if not self._resetting:
            self._reset()

    def _reset(self) -> None:
        self.status = DeviceStatus(0)
        self.driver_features = 0
        self.interrupt_status = InterruptStatus(0)
        self.config_vector = None
        self._stopping.clear()
        self.queues = [FakeQueue(queue.max_size) for queue in self.queues]

    def _refuse_if_resetting(self) -> None:
        if self._resetting:
            raise RuleBroken("a register was written while the device was being reset (4.1.4.3.2)")


MODERN = Feature.VERSION_1 | Feature.ACCESS_PLATFORM
"""The features that a modern device behind an IOMMU offers at least."""
RINGS = (
    Feature.RING_PACKED
    | Feature.INDIRECT_DESC
    | Feature.EVENT_IDX
    | Feature.IN_ORDER
    | Feature.NOTIFICATION_DATA
    | Feature.RING_RESET
    | Feature.ORDER_PLATFORM
)
"""Everything about queues that a device may offer."""
