"""A process that writes to a disk until somebody kills it."""

from __future__ import annotations

import os
import random

import hwloop
from hwloop.device.blk import VirtioBlk
from hwloop.spec import SECTOR_SIZE


def start_writing(target: str, data: bytes, sectors: int | None = None) -> int:
    """Returns the process id of a child that has as many writes of `data` in flight as there is room for, all over the
    first `sectors` of the disk, or all of it."""
    told, ready = os.pipe()
    child = os.fork()
    if not child:
        try:
            _write_for_ever(target, data, sectors, ready)
        finally:
            os._exit(1)
    os.close(ready)
    assert os.read(told, 1) == b"r", "the driver did not come to write"
    os.close(told)
    return child


def _write_for_ever(target: str, data: bytes, sectors: int | None, ready: int) -> None:
    with hwloop.open(target) as disk:
        assert isinstance(disk, VirtioBlk)
        places = (sectors or disk.capacity()) - len(data) // SECTOR_SIZE
        choose = random.Random(os.getpid())
        while True:
            while disk.requests_free:
                disk.submit_write(choose.randrange(places), data)
            if ready:
                # It has all the memory that it will want.
                os.write(ready, b"r")
                ready = 0
            for token in disk.poll():
                disk.complete(token)
