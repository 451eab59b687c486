"""What can go wrong with a ring, by whose fault: ours (RingFull, RingUsageError), the device's (RingBroken), or, in
the device-side mock, the driver's (DriverViolation)."""

from __future__ import annotations

import errno


class RingError(OSError):
    """Base of every error of a ring; an `OSError` whose text is one sentence and what to do about it."""

    default_errno = errno.EIO

    def __init__(self, text: str) -> None:
        super().__init__(self.default_errno, text)

    def __str__(self) -> str:
        return self.strerror or ""


class RingFull(RingError):
    """Too few descriptors are free; nothing was added."""

    default_errno = errno.ENOSPC

    def __init__(self, text: str = "Virtqueue is full; take a completion first") -> None:
        super().__init__(text)


class RingUsageError(RingError):
    """The caller's mistake; nothing was written to shared memory."""

    default_errno = errno.EINVAL


class RingBroken(RingError):
    """The device broke the rules of the used ring (VIRTIO 1.4, 2.7.8); the ring is poisoned from then on.

    Attributes: `kind`, one of "used id out of range", "used id not outstanding", "used length too long" and "used index
    jumped"; `id` and `length`, as the device wrote them (0 when the index jumped); `index`, the 16-bit index of the
    element, or the used.idx that was read when the index jumped.
    """

    default_errno = errno.EIO

    def __init__(self, kind: str, used_id: int, length: int, index: int) -> None:
        super().__init__(
            f"the device broke the used ring: {kind} (id {used_id:#x}, length {length}, index {index}); "
            "reset the device and set the queue up again"
        )
        self.kind = kind
        self.id = used_id
        self.length = length
        self.index = index


class RingGivenUp(RingBroken):
    """Our own side has given the ring up, and its device with it: `Ring.give_up`."""

    def __init__(self, kind: str) -> None:
        RingError.__init__(self, "the ring was given up with its device; set the queue up again")
        self.kind, self.id, self.length, self.index = kind, 0, 0, 0


class DriverViolation(RingError, AssertionError):
    """The driver broke a rule of the available ring; only the device-side mock raises it.

    Attributes: `rule`, the sentence that was broken, with its section of VIRTIO 1.4; `value`, what was found instead.
    """

    default_errno = errno.EPROTO

    def __init__(self, rule: str, value: int) -> None:
        super().__init__(f"the driver broke the available ring: {rule}; found {value:#x}")
        self.rule = rule
        self.value = value
