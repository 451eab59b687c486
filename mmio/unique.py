"""A window of registers that has one owner.

Two drivers on one set of registers each undo what the other does, one access at a time, and nothing shows it. So
whoever opens registers by their address says so here first, and the second one is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from threading import Lock
from weakref import WeakSet

from mmio.errors import RegionInUse
from mmio.region import Region, Window, check_window

Opener = Callable[[int, int], Region]
"""`(address, size)` to the registers there."""

_ADDRESSES_END = 1 << 64


class UniqueMmioPointer(Window):
    """The only owner, in this process, of `size` bytes of registers at `address`.

    `registers` is the region itself, or an opener that makes it once the range is ours. `space` says what the address
    is an address of: equal numbers in two spaces (two simulated machines) do not meet. Raises RegionInUse when a part
    of the range has an owner already, and what the opener raises; nothing is held then. `close()` closes the region
    and frees the range; so does dropping the last reference. Other processes are not kept out: lock a file for that.
    """

    def __init__(self, registers: Region | Opener, address: int, size: int, *, space: object = None) -> None:
        check_window(address, size, _ADDRESSES_END, "range of registers")
        self.addresses, self.space = range(address, address + size), space
        with ExitStack() as stack:
            # Before the registers are opened: whoever comes second must not even map them.
            _OWNERS.take(self)
            stack.callback(_OWNERS.drop, self)
            region = registers if isinstance(registers, Region) else registers(address, size)
            stack.callback(region.close)
            super().__init__(region, 0, size)
            self._held = stack.pop_all()

    @property
    def address(self) -> int:
        """Where the registers start, in their space."""
        return self.addresses.start

    def window(self, offset: int, size: int) -> Window:
        """A part of the registers, borrowed: it is good until the owner is closed. Raises RegionBoundsError."""
        return Window(self, offset, size)

    def close(self) -> None:
        """Close the region and let others have the range. May be called again."""
        super().close()
        self._held.close()

    def __repr__(self) -> str:
        return f"UniqueMmioPointer({self.address:#x}, {self.size:#x})"


class _Owners:
    """The open ones. An owner that was forgotten without being closed owns nothing any more."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: WeakSet[UniqueMmioPointer] = WeakSet()

    def take(self, owner: UniqueMmioPointer) -> None:
        with self._lock:
            for other in self._open:
                if other.space == owner.space and _overlap(other.addresses, owner.addresses):
                    raise RegionInUse(owner.addresses, other.addresses)
            self._open.add(owner)

    def drop(self, owner: UniqueMmioPointer) -> None:
        with self._lock:
            self._open.discard(owner)


def _overlap(first: range, second: range) -> bool:
    return first.start < second.stop and second.start < first.stop


_OWNERS = _Owners()
