"""What `make bench` measures: a group of rows each, by the name that `make bench ROWS=name,name` takes."""

from bench.group import asyncio as asyncio_group
from bench.group import guest, instructions, memory, null, peak, read, ring, start, storage
from bench.group.base import Group

GROUPS: dict[str, Group] = {
    "instructions": Group("What a request costs", instructions.rows),
    "null": Group("A device that completes at once (bench/nulldev.c)", null.rows),
    "memory": Group("The same with a disk in memory: data is moved", memory.rows),
    "qsd": Group("qemu-storage-daemon", storage.rows),
    "asyncio": Group("asyncio", asyncio_group.rows),
    "guest": Group("A guest without KVM, hwloop over VFIO", guest.rows),
    "read": Group("A whole disk read to a file, in that guest", read.rows),
    "ring": Group("The ring alone, against plain Python", ring.rows),
    "start": Group("Beginning", start.rows),
    "peak": Group("Peak memory", peak.rows),
}
