from typing import final

from cython_ring.layout import IndirectTables
from cython_ring.layout import SplitLayout as SplitLayout
from cython_ring.layout import split_layout as split_layout
from cython_ring.ring import Ring

@final
class SplitRing(Ring):
    """The driver's side of one split virtqueue; one thread at a time may use it."""

    def __init__(
        self,
        size: int,
        desc: int,
        avail: int,
        used: int,
        *,
        owner: object = None,
        event_idx: bool = False,
        platform_order: bool = False,
        clamp_used_length: bool = False,
        first_index: int = 0,
        in_order: bool = False,
        tables: IndirectTables | None = None,
    ) -> None: ...
