"""Virtqueue rings in memory shared with a device, and the loop that submits and reaps requests.

`SplitRing` is the driver's side of the split format (VIRTIO 1.4, 2.7), over three areas that `split_layout` places. It
knows bytes and indices: what a request means, where the memory comes from and how a device is notified are other
packages' business. `DeviceSideSplit` is the other side, a strict mock for tests, and `Loopback` joins the two.
"""

from cython_ring.device_side import Chain, DeviceSideSplit
from cython_ring.errors import DriverViolation, RingBroken, RingError, RingFull, RingUsageError
from cython_ring.layout import SplitLayout, split_layout
from cython_ring.loopback import Loopback
from cython_ring.split import SplitRing

__all__ = [
    "Chain",
    "DeviceSideSplit",
    "DriverViolation",
    "Loopback",
    "RingBroken",
    "RingError",
    "RingFull",
    "RingUsageError",
    "SplitLayout",
    "SplitRing",
    "split_layout",
]
