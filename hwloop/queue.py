"""A virtqueue: its memory from a Hal, its ring from `cython_ring`, its notification by a Transport."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from cython_ring import (
    Doorbell,
    Engine,
    PackedRing,
    Ring,
    RingBroken,
    RingFull,
    RingGivenUp,
    RingUsageError,
    SlotMemory,
    SplitRing,
)
from hwloop.deadline import Deadline
from hwloop.errors import (
    AlreadyUsed,
    DeadlineExpired,
    DeviceClosed,
    DeviceError,
    DeviceLost,
    QueueBroken,
    QueueFull,
    Unsupported,
)
from hwloop.hal.base import Dma, Hal
from hwloop.hal.interrupt import Interrupt
from hwloop.queue_areas import LARGEST_SIZE, choose_size, make_areas, make_slots, make_tables
from hwloop.spec import Feature, PhysAddr
from hwloop.transport.base import Transport
from hwloop.waiting import ADAPTIVE, IRQ, POLL, Waiter

if TYPE_CHECKING:
    from typing_extensions import Buffer

Part = tuple[PhysAddr, int]
"""A piece of a buffer: its device address and its length in bytes."""

__all__ = ["LARGEST_SIZE", "Part", "VirtQueue", "ring_failure"]

P = ParamSpec("P")
T = TypeVar("T")


def ring_failure(index: int, error: RingBroken) -> DeviceError:
    """What is raised of queue `index` whose ring says this: its device broke it, or it was given up with its device."""
    if isinstance(error, RingGivenUp):
        return DeviceLost(f"queue {index}: the device is out of order", remedy="recover it, or open it again")
    return QueueBroken(f"queue {index}: {error.strerror}", section="2.7.8")


def _named(method: Callable[Concatenate[VirtQueue, P], T]) -> Callable[Concatenate[VirtQueue, P], T]:
    """Raises DeviceLost and QueueBroken, of this queue, for what the ring raises."""

    @wraps(method)
    def call(self: VirtQueue, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except RingBroken as error:
            raise ring_failure(self.index, error) from error

    return call


class Engaged(Protocol):
    """What submits and reaps through an engine of its own; `reset` begins anew and returns the tags that were lost."""

    @property
    def engine(self) -> Engine: ...
    def reset(self) -> list[int]: ...


class VirtQueue:
    """Virtqueue `index` of a device between `begin_init` and its reset, of the format that was negotiated.

    `size` descriptors, or the largest that the device and `LARGEST_SIZE` allow; on a transport with a fixed queue size,
    the device's. A split queue has a power of two of them. Where INDIRECT_DESC was negotiated, a buffer of 2 to
    `table_parts` parts takes one descriptor. `waiter` is how it waits.

    Raises TransportError when the device has no such queue, InvalidParam for a size that it cannot have, AlreadyUsed
    when the queue is set up already, DmaError. Every method that uses the ring raises QueueBroken once what the device
    put there is impossible, and DeviceLost once `give_up` was called.
    """

    def __init__(
        self, hal: Hal, transport: Transport, index: int, size: int | None = None, *, table_parts: int = 0
    ) -> None:
        self.index = index
        self.size = choose_size(transport, index, size)
        if transport.queue_used(index):
            raise AlreadyUsed(f"queue {index} is set up already", remedy="reset the device first")
        self._hal = hal
        self._transport = transport
        self._memory: list[Dma] = []
        self._areas = make_areas(hal, transport, self.size)
        self._memory += self._areas.memory
        self._notified = 0
        self._doorbell: Doorbell | None = None
        self._user: Engaged | None = None
        self._ring: Ring | None = self._make_ring(table_parts)
        self.waiter = Waiter(self._ring, lambda: transport.ack_interrupt())
        self._hand_over()

    def _make_ring(self, table_parts: int) -> Ring:
        tables = None
        if table_parts and self.has(Feature.INDIRECT_DESC):
            memory, tables = make_tables(self._hal, self.size, table_parts)
            self._memory.append(memory)
        areas = self._areas
        return (PackedRing if self.has(Feature.RING_PACKED) else SplitRing)(
            self.size,
            areas.desc[1],
            areas.driver[1],
            areas.device[1],
            owner=areas.memory,
            event_idx=self.has(Feature.EVENT_IDX),
            platform_order=self.has(Feature.ORDER_PLATFORM),
            in_order=self.has(Feature.IN_ORDER),
            tables=tables,
        )

    def _hand_over(self) -> None:
        areas = self._areas
        if self._doorbell is not None:
            self._doorbell.silence(False)
        self._transport.queue_set(self.index, self.size, areas.desc[0], areas.driver[0], areas.device[0])

    def has(self, feature: Feature) -> bool:
        """Whether this was negotiated."""
        return bool(self._transport.negotiated & feature)

    @property
    def ring(self) -> Ring:
        """The driver's side of the ring. Raises DeviceClosed."""
        return self._live()

    def slots(self) -> SlotMemory:
        """Memory for the requests of an engine, as long as the queue is open. Raises DmaError."""
        memory, slots = make_slots(self._hal, self.size)
        self._memory += memory
        return slots

    def doorbell(self) -> Doorbell:
        """What an engine tells the device with: the transport's own where a loop without the GIL can ring it."""
        if self._doorbell is None:
            bell = self._transport.doorbell(self.index)
            with_position = self.has(Feature.NOTIFICATION_DATA)
            self._doorbell = bell or Doorbell.call(self._ring_bell, self.index, with_position=with_position)
        return self._doorbell

    def _ring_bell(self, data: int) -> None:
        if self.has(Feature.NOTIFICATION_DATA):
            self._transport.notify(self.index, data)
        else:
            self._transport.notify(self.index)

    def engage(self, user: Engaged) -> None:
        """From now on requests go through the engine of `user`, and no others: `restart` resets that."""
        self._user = user
        self._wake_user()

    def _wake_user(self) -> None:
        """Let calls of the engine sleep as `wait` does; on the descriptor itself where that is all there is to do."""
        if self._user is not None:
            self._user.engine.waiter = self.waiter.wait_inside if self.waiter.mode != POLL else None
            fd = self.waiter.plain_fileno()
            self._user.engine.wake_by(-1 if fd is None else fd, self.waiter.mode == ADAPTIVE)

    @_named
    def reap(self, completions: Buffer) -> int:
        """Take what completed of the requests of `engage`'s user, two 64-bit words each (Engine.reap); how many."""
        assert self._user is not None, "the queue has no engine"
        return self._user.engine.reap(completions)

    @property
    def notifications(self) -> int:
        """How often the device was notified."""
        return self._notified + (self._doorbell.count if self._doorbell is not None else 0)

    @property
    def free(self) -> int:
        """How many descriptors are free."""
        return self._live().free

    def needs(self, parts: int) -> int:
        """How many descriptors a buffer of so many parts takes."""
        return 1 if 1 < parts <= self._live().table_parts else parts

    @property
    def outstanding(self) -> int:
        """How many requests the device has."""
        return self._live().outstanding

    @_named
    def add(self, readable: Sequence[Part], writable: Sequence[Part], token: object) -> None:
        """Put one buffer into the ring; the device does not see it before `submit`.

        `token` comes back from `pop`. Raises QueueFull.
        """
        ring = self._live()
        try:
            ring.add(readable, writable, token)
        except RingFull:
            raise QueueFull from None

    @_named
    def submit(self) -> None:
        """Make everything added since the last `submit` available, and notify the device if it wants that."""
        if self._live().publish():
            self.notify_if_wanted()

    @_named
    def notify_if_wanted(self) -> None:
        """Notify the device of what an engine has published, if it wants that."""
        if self._live().needs_notification():
            self.notify()

    @_named
    def notify(self) -> None:
        """Notify the device, wanted or not."""
        if self._user is not None:
            self._user.engine.notify()
            return
        self._notified += 1
        self._ring_bell(self._live().notification_data(self.index))

    @_named
    def pop(self) -> tuple[Any, int] | None:
        """The token of a buffer that the device has used and how many bytes it wrote, or None."""
        return self._live().pop()

    @_named
    def can_pop(self) -> bool:
        """Whether the device has used a buffer that was not popped yet."""
        return self._live().can_pop()

    @_named
    def should_notify(self) -> bool:
        """Whether the device wants to be notified of what was published last."""
        return self._live().needs_notification()

    @_named
    def set_dev_notify(self, enable: bool) -> None:
        """Ask the device to interrupt when it uses buffers, or not to; it may all the same (VIRTIO 1.4, 2.7.7)."""
        self._live().set_used_notifications(enable)

    def add_notify_wait_pop(self, readable: Sequence[Part], writable: Sequence[Part], seconds: float) -> int:
        """Put one buffer into an idle queue, wait for it and return how many bytes the device wrote.

        Raises QueueFull, AlreadyUsed when other buffers are outstanding, QueueBroken, DeadlineExpired: the device has
        the buffer then, until it is reset.
        """
        if self.outstanding:
            raise AlreadyUsed(f"queue {self.index} has {self.outstanding} buffers outstanding", remedy="pop them first")
        self.add(readable, writable, None)
        self.submit()
        deadline = Deadline(seconds)
        while (used := self.pop()) is None:
            if not self.wait(deadline.remaining()) and deadline.expired():
                raise DeadlineExpired(f"a buffer of queue {self.index}", seconds)
        return used[1]

    @_named
    def wait(self, seconds: float) -> bool:
        """Wait for a used buffer, at most so long, in the way that `use_interrupt` said; False when there is none."""
        self._live()
        return self.waiter.wait(seconds)

    def use_interrupt(self, line: Interrupt | None, mode: str = IRQ, *, shared: bool = False) -> None:
        """Wait on this interrupt from now on, in a mode of `hwloop.waiting`, and have it sent; None: poll, and
        ask it for none."""
        self._live()
        self.waiter.use(line, mode, shared=shared)
        self._wake_user()

    @property
    def interrupts(self) -> int:
        """How many interrupts this queue has taken."""
        return self.waiter.interrupts + (self._user.engine.woken if self._user is not None else 0)

    def fileno(self) -> int | None:
        """A descriptor that is readable once a buffer was used, for `select`: see `Waiter.arm`. None while it polls."""
        return self.waiter.fileno()

    def dump(self) -> str:
        """Both sides of the ring, a line each, for a person who wants to know why nothing completes."""
        state = self._live().dump()
        return "\n".join(f"queue {self.index}: {key} = {value}" for key, value in state.items())

    def stop(self) -> None:
        """Take the queue from the device, and return when it has let go of every buffer (VIRTIO 1.4, 2.6.1).

        Raises Unsupported where RING_RESET was not negotiated, DeadlineExpired.
        """
        if not self.has(Feature.RING_RESET):
            raise Unsupported(
                f"queue {self.index} cannot be reset by itself: VIRTIO_F_RING_RESET was not negotiated",
                remedy="reset the device",
            )
        self.silence()
        self._transport.queue_unset(self.index)

    def restart(self) -> list[Any]:
        """Give a queue that was stopped back to the device, empty; returns the tokens, or the engine's tags, of what
        was outstanding: these never complete. Raises TransportError."""
        lost = self._live().reset() if self._user is None else self._user.reset()
        self._hand_over()
        return lost

    def resume(self) -> None:
        """Give the queue with all that is in it to a device that came back and knows by itself what it did not use."""
        self._transport.queue_bases[self.index] = used_index(self._areas.device[1])
        self._hand_over()

    def silence(self) -> None:
        """The device is about to be reset: it is not notified any more, whoever asks for that in which thread."""
        if self._doorbell is not None:
            self._doorbell.silence()

    def give_up(self) -> None:
        """The device was reset: whoever uses the queue, or waits for it, gets an error at once."""
        if self._ring is not None:
            self._ring.give_up()

    def close(self) -> None:
        """Forget the ring and free its memory. Idempotent. The device must have been reset."""
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()
            if self._doorbell is not None:
                self._doorbell.close()
            while self._memory:
                self._memory.pop().close()

    def disown(self) -> None:
        """Called in a child of the process, which has not the memory: every later call raises DeviceClosed, and those
        of an engine that the queue was given to say that the ring is closed."""
        ring, self._ring = self._ring, None
        # Another thread of the parent may have been using it, and is not here.
        with suppress(RingUsageError):
            if ring is not None:
                ring.close()

    def _live(self) -> Ring:
        if self._ring is None:
            raise DeviceClosed(f"queue {self.index} is closed")
        return self._ring


def used_index(device_area: int) -> int:
    """Where the device of a split queue has got to: the index of its used ring at this address of ours."""
    return ctypes.c_uint16.from_address(device_area + 2).value
