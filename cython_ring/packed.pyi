from typing import final

from cython_ring.layout import IndirectTables
from cython_ring.layout import PackedLayout as PackedLayout
from cython_ring.layout import packed_layout as packed_layout
from cython_ring.ring import Ring

@final
class PackedRing(Ring):
    """The driver's side of one packed virtqueue; one thread at a time may use it."""

    def __init__(
        self,
        size: int,
        desc: int,
        driver: int,
        device: int,
        *,
        owner: object = None,
        event_idx: bool = False,
        platform_order: bool = False,
        clamp_used_length: bool = False,
        in_order: bool = False,
        tables: IndirectTables | None = None,
    ) -> None: ...
