"""What a child process must not keep: it would hold our connections open, and end what is ours."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Heirloom(Protocol):
    """What is the parent's, whatever is done with it in a child."""

    def disown(self) -> None:
        """Called in a child: give up the descriptors, and do nothing to what they led to."""


_OURS: WeakSet[Heirloom] = WeakSet()


def disown_in_children(thing: Heirloom) -> None:
    """Call `thing.disown()` in every child that this process forks while it is open."""
    _OURS.add(thing)


def keep_no_longer(thing: Heirloom) -> None:
    """The opposite, for what was closed. Idempotent."""
    _OURS.discard(thing)


def _in_the_child() -> None:
    for thing in list(_OURS):
        thing.disown()
    _OURS.clear()


os.register_at_fork(after_in_child=_in_the_child)
