"""The registers of a device by name, with what is in them: for people who look at a device."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from mmio import RegisterBlock
from mmio.register import Readable

CLEARS = "not read: reading it clears it"
WRITE_ONLY = "write only"


@dataclass(frozen=True)
class RegisterValue:
    """One register. `group` is what it belongs to (`device`, `queue 0`); `offset` is where it is in its structure, None
    for what has no register of its own; `width` in bytes; `value` None when it was not read, and `why_not` says why."""

    group: str
    name: str
    offset: int | None
    width: int
    value: int | None
    why_not: str = ""

    def of(self, group: str) -> RegisterValue:
        """The same for another group: registers of queues show the queue that is selected."""
        return replace(self, group=group)


def read_block(
    block: RegisterBlock,
    group: str,
    *,
    only: Collection[str] | None = None,
    leave_out: Collection[str] = (),
    at: int = 0,
) -> Iterator[RegisterValue]:
    """Read the registers of a block one after the other. `at` is added to the offsets. Registers that can only be
    written are listed without a value."""
    for declared in type(block).registers():
        if declared.name in leave_out or (only is not None and declared.name not in only):
            continue
        bound = getattr(block, declared.name)
        value = bound.read() if isinstance(bound, Readable) else None
        why_not = "" if value is not None else WRITE_ONLY
        yield RegisterValue(group, declared.name, declared.offset + at, declared.width, value, why_not)
