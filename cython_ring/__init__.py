"""Virtqueue rings in memory shared with a device, and the loop that submits and reaps requests.

`Ring` is the driver's side of one queue: a `SplitRing` (VIRTIO 1.4, 2.7) or a `PackedRing` (2.8), over three areas that
`split_layout` and `packed_layout` place. It knows bytes and indices: what a request means, where the memory comes from
and how a device is notified are other packages' business. `DeviceSideSplit` and `DeviceSidePacked` are the other side,
strict mocks for tests; `Loopback` and `PackedLoopback` join the two.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cython_ring.buffer import DmaBuffer, address_of
    from cython_ring.device_packed import DeviceSidePacked
    from cython_ring.device_side import Chain, DeviceSideSplit
    from cython_ring.doorbell import Doorbell
    from cython_ring.engine import COMPLETION_BYTES, REQUEST_BYTES, Engine
    from cython_ring.errors import DriverViolation, RingBroken, RingError, RingFull, RingGivenUp, RingUsageError
    from cython_ring.layout import IndirectTables, PackedLayout, SlotMemory, SplitLayout, packed_layout, split_layout
    from cython_ring.loopback import Loopback, PackedLoopback
    from cython_ring.packed import PackedRing
    from cython_ring.ring import Ring
    from cython_ring.split import SplitRing

# Imported when they are first used: a command needs few of these, and an emulated guest takes long over each.
_HOMES = {
    "COMPLETION_BYTES": "cython_ring.engine",
    "Chain": "cython_ring.device_side",
    "DeviceSidePacked": "cython_ring.device_packed",
    "DeviceSideSplit": "cython_ring.device_side",
    "DmaBuffer": "cython_ring.buffer",
    "Doorbell": "cython_ring.doorbell",
    "DriverViolation": "cython_ring.errors",
    "Engine": "cython_ring.engine",
    "IndirectTables": "cython_ring.layout",
    "Loopback": "cython_ring.loopback",
    "PackedLayout": "cython_ring.layout",
    "PackedLoopback": "cython_ring.loopback",
    "PackedRing": "cython_ring.packed",
    "REQUEST_BYTES": "cython_ring.engine",
    "Ring": "cython_ring.ring",
    "RingBroken": "cython_ring.errors",
    "RingError": "cython_ring.errors",
    "RingFull": "cython_ring.errors",
    "RingGivenUp": "cython_ring.errors",
    "RingUsageError": "cython_ring.errors",
    "SlotMemory": "cython_ring.layout",
    "SplitLayout": "cython_ring.layout",
    "SplitRing": "cython_ring.split",
    "address_of": "cython_ring.buffer",
    "packed_layout": "cython_ring.layout",
    "split_layout": "cython_ring.layout",
}

__all__ = [
    "COMPLETION_BYTES",
    "REQUEST_BYTES",
    "Chain",
    "DeviceSidePacked",
    "DeviceSideSplit",
    "DmaBuffer",
    "Doorbell",
    "DriverViolation",
    "Engine",
    "IndirectTables",
    "Loopback",
    "PackedLayout",
    "PackedLoopback",
    "PackedRing",
    "Ring",
    "RingBroken",
    "RingError",
    "RingFull",
    "RingGivenUp",
    "RingUsageError",
    "SlotMemory",
    "SplitLayout",
    "SplitRing",
    "address_of",
    "packed_layout",
    "split_layout",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
