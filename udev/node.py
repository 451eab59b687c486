"""Waiting for device nodes and for conditions, always with an end."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

from udev.errors import BindTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_INTERVAL = 0.01


def wait_until(predicate: Callable[[], bool], what: str, seconds: float) -> None:
    """Return as soon as `predicate()` is true; raise `BindTimeout`, naming `what`, when it is not after `seconds`.

    The predicate is asked at least once, and once more when the time is up.
    """
    end = time.monotonic() + seconds
    while not predicate():
        left = end - time.monotonic()
        if left <= 0:
            raise BindTimeout(f"{what}: not so after {seconds:.1f} s; `dmesg | tail` may say why")
        time.sleep(min(_INTERVAL, left))


def is_char_device(path: str | Path) -> bool:
    """Whether `path` exists and is a character device, or a link to one."""
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def wait_for_node(path: str | Path, deadline: float) -> None:
    """Wait up to `deadline` seconds for the character device `path` (`/dev/vfio/7`, `/dev/uio0`); devtmpfs makes it.

    Raises `BindTimeout`, and says whether something else is there under that name.
    """
    try:
        wait_until(lambda: is_char_device(path), f"{path}: a character device", deadline)
    except BindTimeout:
        found = "something else has that name" if os.path.lexists(path) else "nothing has that name"
        raise BindTimeout(
            f"{path}: no character device after {deadline:.1f} s ({found}); is devtmpfs mounted on /dev "
            "(`mount -t devtmpfs dev /dev`) and is the driver bound?"
        ) from None
