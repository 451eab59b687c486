from collections.abc import Callable
from typing import final

from cython_ring.device_side import Chain

@final
class DeviceSidePacked:
    """The device's side of one packed virtqueue, a strict mock."""

    def __init__(
        self,
        size: int,
        desc: int,
        driver: int,
        device: int,
        *,
        translate: Callable[[int, int, bool], int] | None = None,
        event_idx: bool = False,
        owner: object = None,
        indirect: bool = False,
        in_order: bool = False,
        quiet_flags: bool = False,
    ) -> None: ...
    @property
    def next_avail(self) -> tuple[int, int]: ...
    @property
    def next_used(self) -> tuple[int, int]: ...
    def available(self) -> int: ...
    def fetch(self) -> Chain | None: ...
    def complete(self, head: int, written: int) -> None: ...
    def serve(self, count: int, timeout_ns: int, tail: int = -1, *, stamp: bool = False) -> int: ...
    def needs_used_notification(self) -> bool: ...
    def read_driver_event(self) -> tuple[int, int]: ...
    def set_device_event(self, place: int, flags: int) -> None: ...
    def put_used(self, position: int, id: int, length: int, flags: int) -> None: ...  # noqa: A002
