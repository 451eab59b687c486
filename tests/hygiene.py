"""What a process leaves behind, however it ends: for the tests of every door that runs here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hwloop.deadline import wait_until

ROOT = Path(__file__).parents[1]
CLOEXEC = 0o2000000
SHARED = [Path("/dev/shm"), Path("/dev/hugepages"), Path("/run"), Path("/run/hwloop")]
_MARK = "HWLOOP_HYGIENE"

START = """
import os, sys, threading, time
import hwloop
from hwloop import testdev
what = sys.argv[1]
if what.startswith("testdev:"):
    device = testdev.start(what.removeprefix("testdev:"), tolerant=True)
    what = device.target
disk = hwloop.open(what)
data = b"h" * 4096
tokens = [disk.submit_write(8 * at, data) for at in range(min(8, disk.requests_free))]
"""
"""A disk of the target in the first argument, with requests in flight."""

WRITE_FOR_EVER = (
    START
    + """
print("ready", flush=True)
while True:
    for token in tokens:
        disk.wait(token)
    tokens = [disk.submit_write(8 * at, data) for at in range(min(8, disk.requests_free))]
"""
)

END_IN_FLIGHT = (
    START
    + """
threading.Thread(target=disk.wait, args=(tokens[0],), daemon=True).start()
print("ready", flush=True)
sys.exit(7)
"""
)


def inheritable() -> list[str]:
    """The descriptors of this process that a program started by it would have, beside the three that it should."""
    found = []
    for info in Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):
            flags = next(line.split()[1] for line in info.read_text().splitlines() if line.startswith("flags:"))
            if int(info.name) > 2 and not int(flags, 8) & CLOEXEC:
                found.append(os.readlink(f"/proc/self/fd/{info.name}"))
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def process(program: str, target: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program that opens `target`; it is ready, with requests in flight. When it has ended, in whatever way,
    nothing of it is left: no process, no file."""
    # A folder of pytest's may be too long for a socket in it.
    with tempfile.TemporaryDirectory(prefix="hygiene-") as folder:
        yield from _run(program, target, Path(folder))


def _run(program: str, target: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    mark, before = uuid.uuid4().hex, _shared()
    environment = os.environ | {_MARK: mark, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, target]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        line = started.stdout.readline()
        if line != "ready\n":
            started.kill()
            raise AssertionError(started.stderr.read())
        try:
            yield started
        finally:
            started.kill()
    wait_until(lambda: not _processes(mark), "the last of its processes to end", 60)
    wait_until(lambda: not list(folder.iterdir()), f"nothing to be in {folder}", 60)
    assert _shared() <= before


def _processes(mark: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{_MARK}={mark}".encode() in place.read_bytes().split(b"\0"):
                found.append(place.parent.name)
    return found


def _shared() -> set[str]:
    """What is ours in places that other programs use as well."""
    return {str(path) for folder in SHARED if folder.is_dir() for path in folder.iterdir() if "hwloop" in path.name}
