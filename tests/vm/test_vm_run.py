"""The test VM itself, from the host: what goes in, what comes out, and that nothing is left. Four boots."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwloop import vm

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parents[2]
EVERY_BYTE = bytes(range(256)) * 400
"""100 KiB with every value, line ends and terminal controls among them."""

# Run in the guest with Python: writes what is expected, notes what it sees, and ends with a status of its own.
IN_THE_GUEST = """
import importlib, json, os, shutil, subprocess, sys, tempfile
from pathlib import Path

every = bytes(range(256)) * 400
sys.stdout.buffer.write(every)
sys.stdout.flush()
sys.stderr.buffer.write(every[::-1])
sys.stderr.flush()

devices = Path("/sys/bus/pci/devices")
blocks = {path.name: str(path.resolve()).split("/")[-4] for path in Path("/sys/block").iterdir()}
subprocess.run(["modprobe", "vfio-pci"], check=True)
seen = {
    "who": os.getuid(),
    "where": os.getcwd(),
    "stdin": sys.stdin.read(),
    "arguments": sys.argv[1:],
    "tools": [shutil.which(name) for name in ("hwloop", "python3", "pytest")],
    "help": subprocess.run(["hwloop", "--help"], capture_output=True).returncode,
    "writable": bool(tempfile.mkdtemp(dir="/tmp")),
    "virtio": sorted(p.name for p in devices.iterdir() if (p / "vendor").read_text().strip() == "0x1af4"),
    "blocks": blocks,
    "serial": Path("/sys/block/vda/serial").read_text(),
    "read-only": [Path(f"/sys/block/{name}/ro").read_text().strip() for name in sorted(blocks)],
    "queues": len(os.listdir("/sys/block/vdb/mq")),
    "groups": [os.path.exists(devices / address / "iommu_group") for address in sorted(blocks.values())],
    "word": "my.word=1" in Path("/proc/cmdline").read_text(),
    "shared": Path("/share/to-guest").read_bytes() == every,
    "interrupt": subprocess.run(["sh", "-c", "kill -INT $$; sleep 5"]).returncode,
}
names = [f"{path.parent.name}.{path.name.partition('.')[0]}" for path in Path().glob("*/*.so")]
seen["extensions"] = sorted(importlib.import_module(name).__name__ for name in names)
with open("/dev/vda", "r+b") as disk:
    disk.seek(4096)
    disk.write(b"written in the guest")
    disk.flush()
    os.fsync(disk.fileno())
Path("/share/from-guest").write_text(json.dumps(seen))
subprocess.Popen(["sleep", "1000"])  # keeps the output open; the guest must end all the same
sys.exit(42)
"""


def gone(pid: int) -> bool:
    """Ended, whether or not somebody has taken its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_gone(pids: list[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not all(gone(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    return all(gone(pid) for pid in pids)


def image(path: Path, size: int = 1 << 20) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


class Run:
    """One run of the command line, and what the guest noted."""

    def __init__(self, folder: Path) -> None:
        share = folder / "share"
        share.mkdir()
        (share / "to-guest").write_bytes(EVERY_BYTE)
        self.disk = image(folder / "a.img")
        other = image(folder / "b.img")
        self.seen: dict[str, object] = {}
        words = ["--disk", f"{self.disk},serial=FIRST", "--disk", f"{other},num-queues=2,packed=on,read-only"]
        words += ["--qemu", "-device pcie-root-port,id=rp0,addr=04.0"]
        words += ["--disk", f"{image(folder / 'c.img')},bus=rp0", "--append", "my.word=1", "--share", str(share)]
        command = ["python3", "-c", IN_THE_GUEST, "two words", "", "-x"]
        self.done = vm_command(*words, "--", *command)
        if (share / "from-guest").exists():
            self.seen = json.loads((share / "from-guest").read_text())


def vm_command(*words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "hwloop.vm", "run", "--timeout", "300", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL, timeout=900, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    vm.build()  # so that nothing is said about building while the command runs
    return Run(tmp_path_factory.mktemp("run"))


def test_the_exit_status_comes_back(run: Run) -> None:
    assert run.done.returncode == 42, run.done.stderr[-3000:].decode(errors="replace")


def test_both_outputs_come_back_apart_and_byte_for_byte(run: Run) -> None:
    assert run.done.stdout == EVERY_BYTE
    assert run.done.stderr == EVERY_BYTE[::-1]


def test_the_share_works_both_ways(run: Run) -> None:
    assert run.seen["shared"] is True


def test_the_command_runs_as_root_in_the_checkout_with_its_words_and_no_input(run: Run) -> None:
    assert (run.seen["who"], run.seen["where"], run.seen["stdin"]) == (0, "/hwloop", "")
    assert run.seen["arguments"] == ["two words", "", "-x"]
    assert run.seen["writable"] is True


def test_the_commands_are_on_the_path_and_run(run: Run) -> None:
    assert run.seen["tools"] == ["/usr/local/bin/hwloop", "/usr/bin/python3", "/usr/local/bin/pytest"]
    assert run.seen["help"] == 0


def test_every_extension_was_compiled_for_the_guest_and_loads(run: Run) -> None:
    sources = [path.relative_to(ROOT) for path in ROOT.glob("*/*.pyx")]
    assert run.seen["extensions"] == sorted(f"{path.parent}.{path.stem}" for path in sources)


def test_the_disks_are_where_they_should_be_and_nothing_else_is_virtio(run: Run) -> None:
    assert run.seen["blocks"] == {"vda": "0000:00:05.0", "vdb": "0000:00:06.0", "vdc": "0000:01:00.0"}
    assert run.seen["virtio"] == ["0000:00:05.0", "0000:00:06.0", "0000:00:1e.0", "0000:01:00.0"]
    assert run.seen["groups"] == [True, True, True]


def test_options_of_disks_have_their_effect(run: Run) -> None:
    assert (run.seen["serial"], run.seen["queues"]) == ("FIRST", 2)
    assert run.seen["read-only"] == ["0", "1", "0"]


def test_what_the_guest_writes_is_in_the_image(run: Run) -> None:
    assert run.disk.read_bytes()[4096:4116] == b"written in the guest"


def test_words_reach_the_kernel_and_signals_work_as_usual(run: Run) -> None:
    assert run.seen["word"] is True
    assert run.seen["interrupt"] == -signal.SIGINT


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return image(tmp_path / "disk.img")


@pytest.fixture
def launcher(run: Run, disk: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`hwloop vm run` with a disk and a command that does not end, once its guest is up."""
    command = [sys.executable, "-m", "hwloop.vm", "run", "--disk", str(disk), "--", "sh", "-c", "echo up; sleep 1000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def test_a_disk_in_use_is_refused_in_qemus_words_and_sigterm_ends_the_first_guest(
    launcher: subprocess.Popen[bytes], disk: Path
) -> None:
    with pytest.raises(vm.GuestFailed, match=r'Failed to get "write" lock'):
        vm.run(["true"], disks=[str(disk)], accel="tcg")
    pids = children(launcher.pid)
    assert pids
    assert not any(gone(pid) for pid in pids)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 128 + signal.SIGTERM
    assert wait_until_gone(pids)


def test_a_timeout_ends_qemu_and_keeps_what_was_said_until_then(run: Run) -> None:
    with pytest.raises(vm.GuestTimeout) as caught:
        vm.run(["sh", "-c", "echo started; sleep 1000"], timeout=20)
    assert caught.value.exit_code == 124
    assert caught.value.stdout == b"started\n"
    assert not [pid for pid in children(os.getpid()) if not gone(pid)]


def test_a_panic_is_an_error_with_the_kernels_words(run: Run) -> None:
    with pytest.raises(vm.GuestFailed, match="sysrq triggered crash") as caught:
        vm.run(["sh", "-c", "echo up; echo c > /proc/sysrq-trigger"])
    assert caught.value.exit_code == 6
