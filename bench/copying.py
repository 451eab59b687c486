"""`python -m bench.copying`: `hwloop copy` against `qemu-img convert`, for time and bytes.

Both copy the same image to a disk of qemu-storage-daemon's, back from it, and to a file; hwloop has the disk over
vhost-user, qemu-img over NBD, which is what it knows. Each run has a fresh daemon and a fresh destination, the whole
command is timed, and both end with a flush (qemu-img with `-t writeback`). The two run in turns, and the ratio is that
of a round. Bytes: what the daemon wrote to its file and read from it, and what the destination takes up at the end.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine

MIB = 1 << 20
_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
"""Python keeps what it has compiled, as it does for whoever has hwloop installed."""
HWLOOP = (sys.executable, "-m", "hwloop")
CONVERT = ("qemu-img", "convert", "-f", "raw", "-O", "raw", "-t", "writeback")


@dataclass(frozen=True)
class Sample:
    """Of one run: seconds, bytes that the daemon read from and wrote to its file, bytes of the destination."""

    seconds: float
    read: int
    written: int
    allocated: int


@dataclass(frozen=True)
class Daemon:
    """qemu-storage-daemon with one disk, at two sockets."""

    pid: int
    vhost: str
    nbd: str

    def counted(self) -> tuple[int, int]:
        """Bytes that it has read and written, with what little goes through its sockets and eventfds."""
        lines = dict(line.split(": ") for line in Path(f"/proc/{self.pid}/io").read_text().splitlines())
        return int(lines["rchar"]), int(lines["wchar"])


@contextmanager
def daemon(disk: Path, folder: Path) -> Iterator[Daemon]:
    vhost, nbd = folder / "vhost.sock", folder / "nbd.sock"
    node = f"driver=raw,node-name=n0,discard=unmap,file.driver=file,file.filename={disk},file.discard=unmap"
    command = [
        *("qemu-storage-daemon", "--blockdev", node, "--nbd-server", f"addr.type=unix,addr.path={nbd}"),
        *("--export", f"type=vhost-user-blk,id=v,node-name=n0,addr.type=unix,addr.path={vhost},writable=on"),
        *("--export", "type=nbd,id=n,node-name=n0,name=,writable=on"),
    ]
    with subprocess.Popen(command) as process:
        try:
            while not (vhost.exists() and nbd.exists()):
                assert process.poll() is None, "qemu-storage-daemon did not start"
                time.sleep(0.002)
            yield Daemon(process.pid, f"vhost-user:{vhost}", f"nbd+unix:///?socket={nbd}")
        finally:
            process.terminate()
            vhost.unlink(missing_ok=True)
            nbd.unlink(missing_ok=True)


# --- What is copied ---------------------------------------------------------------------------------------------------


def make_full(path: Path, size: int) -> None:
    piece = random.Random(1).randbytes(MIB)
    path.write_bytes(piece * (size // MIB))


def make_sparse(path: Path, size: int) -> None:
    """An eighth of it is data, in pieces of 1 MiB with holes between."""
    piece = random.Random(1).randbytes(MIB)
    with path.open("wb") as file:
        file.truncate(size)
        for at in range(0, size, 8 * MIB):
            file.seek(at)
            file.write(piece)


IMAGES: dict[str, Callable[[Path, int], None]] = {"full": make_full, "an eighth full": make_sparse}


# --- Ways -------------------------------------------------------------------------------------------------------------


def to_disk(command: Sequence[str], image: Path, folder: Path, end: Callable[[Daemon], str]) -> Sample:
    disk = _empty(folder / "disk.img", image.stat().st_size)
    with daemon(disk, folder) as running:
        seconds, read, written = _timed([*command, str(image), end(running)], running)
        return Sample(seconds, read, written, _allocated(disk))


def from_disk(command: Sequence[str], image: Path, folder: Path, end: Callable[[Daemon], str]) -> Sample:
    out = folder / "out.img"
    out.unlink(missing_ok=True)
    with daemon(image, folder) as running:
        seconds, read, written = _timed([*command, end(running), str(out)], running)
        return Sample(seconds, read, written, _allocated(out))


def to_file(command: Sequence[str], image: Path, folder: Path, end: Callable[[Daemon], str]) -> Sample:
    out = folder / "out.img"
    out.unlink(missing_ok=True)
    return Sample(_timed([*command, str(image), str(out)])[0], 0, 0, _allocated(out))


WAYS = {"to a disk": to_disk, "from a disk": from_disk, "file to file": to_file}


def _empty(path: Path, size: int) -> Path:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def _timed(command: Sequence[str], running: Daemon | None = None) -> tuple[float, int, int]:
    before = running.counted() if running else (0, 0)
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_ENVIRONMENT)
    seconds = time.monotonic() - began
    after = running.counted() if running else (0, 0)
    return seconds, after[0] - before[0], after[1] - before[1]


# --- The table --------------------------------------------------------------------------------------------------------


def contest(way: str, image: Path, folder: Path, rounds: int) -> Iterator[tuple[Sample, Sample]]:
    """Ours and theirs, a pair a round; who is first changes from round to round."""
    run, convert = WAYS[way], [*CONVERT, "-n"] if way == "to a disk" else list(CONVERT)
    for number in range(rounds + 1):
        turns = {
            "ours": lambda: run([*HWLOOP, "copy"], image, folder, lambda running: running.vhost),
            "theirs": lambda: run(convert, image, folder, lambda running: running.nbd),
        }
        found = {name: turns[name]() for name in (sorted(turns) if number % 2 else sorted(turns, reverse=True))}
        if number:  # the first round warms up
            yield found["ours"], found["theirs"]


def row(way: str, kind: str, pairs: Sequence[tuple[Sample, Sample]]) -> str:
    ratios = sorted(ours.seconds / theirs.seconds for ours, theirs in pairs)
    ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"| {way}, {kind} | {ratio} | {_side(pairs, 0)} | {_side(pairs, 1)} |"


def _side(pairs: Sequence[tuple[Sample, Sample]], which: int) -> str:
    samples = [pair[which] for pair in pairs]
    last = samples[-1]
    moved = f", {last.written // MIB} MiB written by the daemon" if last.written > MIB else ""
    moved = f", {last.read // MIB} MiB read by it" if last.read > max(last.written, MIB) else moved
    return f"{statistics.median(s.seconds for s in samples):.2f} s{moved}, {last.allocated // MIB} MiB in the end"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.copying", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=256, help="of the image in MiB")
    parser.add_argument("--folder", default="/dev/shm", help="where the images are")
    given = parser.parse_args()
    print("| what | hwloop's time over qemu-img's | hwloop copy | qemu-img convert |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="hwloop-bench-") as name:
        folder = Path(name)
        for kind, make in IMAGES.items():
            image = folder / "image"
            make(image, given.size * MIB)
            for way in WAYS:
                print(row(way, kind, list(contest(way, image, folder, given.rounds))), flush=True)
            image.unlink()
    print(f"\n{given.rounds} rounds, {given.size} MiB in {given.folder}; {machine.describe()}.")


if __name__ == "__main__":
    main()
