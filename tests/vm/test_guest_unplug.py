"""A disk that is unplugged from a guest in which a command has it: `device_del`, as a person at the monitor does it."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from hwloop.qtest.qmp import QmpClient
from tests.vm.guest import MIB, image, run_in_guest


def test_a_disk_is_unplugged_while_a_command_has_it(tmp_path: Path) -> None:
    monitor, plugged = tmp_path / "qmp.sock", image(tmp_path, "plugged.img", MIB)
    qemu = [
        "-qmp", f"unix:{monitor},server=on,wait=off",
        "-device", "pcie-root-port,id=rp0,bus=pcie.0,addr=4,chassis=1,slot=1",
        "-drive", f"if=none,id=plugged,format=raw,file={plugged}",
        "-device", "virtio-blk-pci,id=hotplug,drive=plugged,bus=rp0,disable-legacy=on,iommu_platform=on",
    ]  # fmt: skip
    over = threading.Event()
    host = threading.Thread(target=unplug_when_asked, args=(tmp_path, monitor, over))
    host.start()
    try:
        run_in_guest("test_unplug.py", disks=[str(image(tmp_path, "disk.img", MIB))], qemu=qemu, share=tmp_path)
    finally:
        over.set()
        host.join()
    assert (tmp_path / "unplugged").exists()


def unplug_when_asked(share: Path, monitor: Path, over: threading.Event) -> None:
    """The guest makes a file when it is ready, and waits for another one."""
    while not (share / "unplug").exists():
        if over.wait(0.2):
            return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(monitor))
        with QmpClient(sock.dup()) as qmp:
            qmp.execute("device_del", id="hotplug")
            # The part of it that is on the bus inside goes first, and has no name.
            while qmp.wait_event("DEVICE_DELETED", 120)["data"].get("device") != "hotplug":
                pass
    (share / "unplugged").touch()
