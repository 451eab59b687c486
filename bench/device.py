"""The devices that are driven: processes that listen at a vhost-user socket, started and ended here."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import peers, quiet

_START_SECONDS = 10.0
_LIFE_SECONDS = 900


@dataclass(frozen=True)
class Device:
    """A device that listens at `socket`, and its process."""

    socket: str
    pid: int

    @property
    def target(self) -> str:
        return f"vhost-user:{self.socket}"


@contextmanager
def null_device(*options: str, fifo: bool) -> Iterator[Device]:
    """bench/nulldev.c; its options are described there."""
    with tempfile.TemporaryDirectory(prefix="hwloop-bench-") as folder:
        command = [str(peers.nulldev()), f"{folder}/sock", "-t", str(_LIFE_SECONDS), *options]
        with _listening(command, f"{folder}/sock", fifo) as device:
            yield device


@contextmanager
def storage_daemon(blockdev: str, *, fifo: bool, poll_ns: int = 1_000_000, queues: int = 1) -> Iterator[Device]:
    """qemu-storage-daemon with a block device `node`, served by an I/O thread that polls before it sleeps."""
    with tempfile.TemporaryDirectory(prefix="hwloop-bench-") as folder:
        socket = f"{folder}/sock"
        export = f"type=vhost-user-blk,id=e0,node-name=node,addr.type=unix,addr.path={socket},writable=on"
        command = [
            *("qemu-storage-daemon", "--object", f"iothread,id=io0,poll-max-ns={poll_ns}"),
            *("--blockdev", f"{blockdev},node-name=node"),
            *("--export", f"{export},iothread=io0,num-queues={queues}"),
        ]
        with _listening(command, socket, fifo) as device:
            yield device


@contextmanager
def memory_file(size: int) -> Iterator[Path]:
    """A file in memory with something in it."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="hwloop-bench-") as file:
        block = bytes(range(256)) * 4096
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        yield Path(file.name)


@contextmanager
def _listening(command: Sequence[str], socket: str, fifo: bool) -> Iterator[Device]:
    process = quiet.start_device(command, fifo)
    try:
        _wait_for(socket, process)
        yield Device(socket, process.pid)
    finally:
        quiet.end(process)


def _wait_for(socket: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not Path(socket).exists():
        if process.poll() is not None:
            raise RuntimeError(f"the device ended: {process.communicate()[0]}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"no device listens at {socket} after {_START_SECONDS:g} s")
        time.sleep(0.02)
    time.sleep(0.1)  # between bind and listen
