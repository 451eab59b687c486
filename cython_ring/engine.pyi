from typing import Final, final

from typing_extensions import Buffer

from cython_ring.layout import SlotMemory
from cython_ring.ring import Ring

REQUEST_BYTES: Final[int]
COMPLETION_BYTES: Final[int]

@final
class Engine:
    """Submits and reaps requests of one kind on `ring` by the batch; one thread at a time may use it."""

    def __init__(
        self,
        ring: Ring,
        slots: SlotMemory,
        *,
        indirect: bool = False,
        head_bytes: int = 16,
        tail_bytes: int = 1,
        good: int = 0,
        poison: int = 0xFF,
        publish_every: int = 16,
        owner: object = None,
    ) -> None: ...
    @property
    def ring(self) -> Ring: ...
    @property
    def failed(self) -> int: ...
    def submit(self, requests: Buffer) -> int: ...
    def reap(self, completions: Buffer, least: int = 0, timeout_ns: int = 0, spin_ns: int = 100_000) -> int: ...
    def tags(self) -> list[int]: ...
    def reset(self) -> list[int]: ...
