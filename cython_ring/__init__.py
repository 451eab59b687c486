"""Virtqueue rings in memory shared with a device, and the loop that submits and reaps requests.

`Ring` is the driver's side of one queue: a `SplitRing` (VIRTIO 1.4, 2.7) or a `PackedRing` (2.8), over three areas that
`split_layout` and `packed_layout` place. It knows bytes and indices: what a request means, where the memory comes from
and how a device is notified are other packages' business. `DeviceSideSplit` and `DeviceSidePacked` are the other side,
strict mocks for tests; `Loopback` and `PackedLoopback` join the two.
"""

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
