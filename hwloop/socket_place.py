"""Where a socket of ours is to be."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hwloop.errors import AlreadyUsed


@contextmanager
def socket_place(path: Path) -> Iterator[None]:
    """A free place for a socket, which is removed from there at the end. One that nobody listens at is replaced; raises
    AlreadyUsed for one that somebody does, and for a file."""
    if path.exists():
        if not path.is_socket() or _is_live(path):
            raise AlreadyUsed(f"there is a {'socket that is served' if path.is_socket() else 'file'} at {path}")
        path.unlink()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        try:
            sock.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
