"""qemu-storage-daemon with a disk at a vhost-user socket that listens before the daemon is there, so nobody waits."""

from __future__ import annotations

import socket
from pathlib import Path

from hwloop.qtest.process import QemuProcess


def start(path: Path, node: str, export: str) -> QemuProcess:
    """Serve the block device `node`, which is called disk0, at `path`; `export` is what follows of the export."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(4)
        fd = listener.fileno()
        place = f"type=vhost-user-blk,id=export0,node-name=disk0,addr.type=fd,addr.str={fd}"
        arguments = ["--blockdev", f"{node},node-name=disk0", "--export", f"{place},{export}"]
        return QemuProcess("qemu-storage-daemon", arguments, pass_fds=[fd], package="qemu-system-common")
