"""What a user may choose about the queues of a device: their number, their size, and the features of rings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hwloop.errors import Unsupported
from hwloop.spec import Feature

SWITCHES: dict[str, tuple[Feature, bool]] = {
    "packed": (Feature.RING_PACKED, False),
    "indirect": (Feature.INDIRECT_DESC, True),
    "event-idx": (Feature.EVENT_IDX, True),
    "in-order": (Feature.IN_ORDER, True),
    "notification-data": (Feature.NOTIFICATION_DATA, True),
    "ring-reset": (Feature.RING_RESET, False),
}
"""By name: the feature, and whether it is accepted where nobody says otherwise.

Packed rings gain nothing on devices that share our caches, and lose with many requests in flight. RING_RESET is left
out because QEMU's disks do not stop the requests of a queue that they confirm to be reset: a read would still land in
memory that is somebody else's by then (tests/qemu/test_faults.py).
"""


@dataclass(frozen=True)
class QueueOptions:
    """`chosen` has the switches that were given, by their names in `SWITCHES`; `queues` how many a device with several
    is to use, `size` how many descriptors each."""

    chosen: Mapping[str, bool] = field(default_factory=dict)
    queues: int = 1
    size: int | None = None

    @property
    def accepted(self) -> int:
        """The features of rings that the driver takes where they are offered."""
        return sum(feature for name, (feature, usual) in SWITCHES.items() if self.chosen.get(name, usual))

    def require(self, negotiated: int) -> None:
        """Raises Unsupported where what was asked for is not what came out."""
        for name, wanted in self.chosen.items():
            feature = SWITCHES[name][0]
            if wanted and not negotiated & feature:
                raise Unsupported(f"the device does not offer {feature.name}", remedy=f"leave {name} out")
