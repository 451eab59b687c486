from collections.abc import Callable, Iterable
from typing import Final, final

from typing_extensions import Buffer

from cython_ring.buffer import DmaBuffer
from cython_ring.doorbell import Doorbell
from cython_ring.layout import SlotMemory
from cython_ring.ring import Ring

REQUEST_BYTES: Final[int]
COMPLETION_BYTES: Final[int]

@final
class InsideEngine:
    """What a `waiter` may do with the ring of an engine whose call waits."""

    def wait(self, timeout_ns: int, spin_ns: int) -> bool: ...
    def set_used_notifications(self, enabled: bool) -> None: ...

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
        doorbell: Doorbell | None = None,
        whole: bool = False,
    ) -> None: ...
    @property
    def ring(self) -> Ring: ...
    @property
    def doorbell(self) -> Doorbell | None: ...
    waiter: Callable[[float, InsideEngine], object] | None
    @property
    def notifications(self) -> int: ...
    @property
    def failed(self) -> int: ...
    def submit(self, requests: Buffer) -> int: ...
    def reap(self, completions: Buffer, least: int = 0, timeout_ns: int = 0, spin_ns: int = 100_000) -> int: ...
    def put(
        self, head0: int, head1: int, parts: Iterable[tuple[int, int]], writable: bool, tag: int, answers: int = 0
    ) -> bool: ...
    def call(
        self, head0: int, head1: int, address: int, length: int, writable: bool, timeout_ns: int = 30_000_000_000
    ) -> tuple[int, int] | None: ...
    def notify(self) -> None: ...
    def requests(self) -> list[tuple[int, int, int, int, int, bool]]: ...
    def keep(self, buffer: DmaBuffer) -> None: ...
    def forget(self, buffer: DmaBuffer) -> None: ...
    def uses(self, device_address: int, length: int) -> bool: ...
    def tags(self) -> list[int]: ...
    def reset(self) -> list[int]: ...
