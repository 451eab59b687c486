"""What the tests in the guest look at: drivers, disks, and the command."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hwloop import guardian

RUN_DIR = Path("/run/hwloop")


def hwloop(*arguments: str, stdin: bytes | None = None, timeout: float = 120) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a user would."""
    return subprocess.run(["hwloop", *arguments], input=stdin, capture_output=True, timeout=timeout, check=False)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the command with pipes that nobody reads, in a process group of its own."""
    pipe = subprocess.PIPE
    return subprocess.Popen(["hwloop", *arguments], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)


def function(address: str, bus: str = "pci") -> Path:
    return Path("/sys/bus") / bus / "devices" / address


def driver(address: str, bus: str = "pci") -> str | None:
    try:
        return os.readlink(function(address, bus) / "driver").rsplit("/", 1)[-1]
    except FileNotFoundError:
        return None


def override(address: str, bus: str = "pci") -> str:
    text = (function(address, bus) / "driver_override").read_text().strip()
    return "" if text == "(null)" else text


def disk_name(address: str, bus: str = "pci") -> str:
    """The kernel's name of the disk behind a device, such as `vda`. Raises IndexError while it has none."""
    return sorted(function(address, bus).glob("virtio*/block/*"))[0].name


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def guardians_of(pid: int) -> list[int]:
    """The guardians of a process's devices."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The kernel keeps the first 15 characters of a name.
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            if name == guardian.NAME[:15] and int(rest.split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def huge_pages(which: str) -> int:
    """`Total` or `Free` huge pages of the guest."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"HugePages_{which}:"))


def given_back(address: str, bus: str = "pci", driver_name: str = "virtio-pci") -> None:
    """Assert that nothing of ours is left: the kernel's driver, its disk, no override, no journal, no lock."""
    assert driver(address, bus) == driver_name
    assert override(address, bus) == ""
    assert not list(RUN_DIR.glob("*")), "a journal or a lock is left over"
    with open(f"/dev/{disk_name(address, bus)}", "rb", buffering=0) as disk:
        assert len(disk.read(4096)) == 4096
