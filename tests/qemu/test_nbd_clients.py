"""Programs that know nothing of hwloop read and write a disk that it serves: as an NBD server, and through nbdkit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hwloop.deadline import wait_until

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
FAKE = "fake:64M?write-zeroes=on&write-cache=writeback"
Start = Callable[..., str]


def client(name: str) -> str:
    """Where a program is, or the reason to skip."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def call(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Server:
    """`hwloop serve nbd` as a process."""

    def __init__(self, target: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "hwloop", "serve", "nbd", target, *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate(timeout=60)[1])
        self.address = line.split(" at ")[-1].strip()

    def end(self, signum: int = signal.SIGTERM) -> tuple[int, str]:
        """The exit status, and what it has said."""
        if self.process.returncode is None:
            self.process.send_signal(signum)
        said = self.process.communicate(timeout=60)[1]
        return self.process.returncode, said


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Serves a target at a socket and gives its address; at the end it has ended well."""
    with ExitStack() as stack:

        def start(target: str, *arguments: str) -> str:
            server = Server(target, *(arguments or ("--socket", str(tmp_path / "s"))))
            stack.callback(lambda: check(server))
            return server.address

        def check(server: Server) -> None:
            assert server.end() == (0, "")

        yield start
    assert not (tmp_path / "s").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "served.img"
    path.touch()
    os.truncate(path, 64 * MIB)
    return path


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """As large as the disk, with a hole."""
    path = tmp_path / "content.img"
    path.write_bytes(random.Random(1).randbytes(5 * MIB))
    with path.open("r+b") as file:
        file.seek(40 * MIB + 12345)
        file.write(b"far behind the hole" * 1000)
    os.truncate(path, 64 * MIB)
    return path


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def test_qemu_img_converts_to_it_and_from_it(start: Start, disk: Path, content: Path, tmp_path: Path) -> None:
    tool = client("qemu-img")
    address = start(f"qemu:{disk}")
    call(tool, "convert", "-n", "-f", "raw", "-O", "raw", content, address)
    assert "identical" in call(tool, "compare", "-f", "raw", "-F", "raw", content, address)
    call(tool, "convert", "-f", "raw", "-O", "qcow2", address, tmp_path / "back.qcow2")
    assert "identical" in call(tool, "compare", content, tmp_path / "back.qcow2", "-f", "raw", "-F", "qcow2")
    assert same(disk, content)


def test_qemu_io_does_every_command(start: Start, disk: Path) -> None:
    tool = client("qemu-io")
    address = start(f"qemu:{disk}", "--port", "0")
    assert address.startswith("nbd://127.0.0.1:")
    commands = [
        "write -P 0xaa 1000 5000", "read -P 0xaa 1000 5000", "write -f -P 0xbb 8M 16M", "read -P 0xbb 8M 16M",
        "write -z 9M 64k", "read -P 0 9M 64k", "write -zu 10M 1M", "read -P 0 10M 1M", "discard 12M 1M", "flush",
        "aio_write -P 1 20M 64k", "aio_write -P 2 21M 64k", "aio_flush", "read -P 1 20M 64k", "read -P 2 21M 64k",
    ]  # fmt: skip
    said = call(tool, "-f", "raw", address, *(word for command in commands for word in ("-c", command)))
    assert "failed" not in said
    data = disk.read_bytes()
    assert data[1000:6000] == b"\xaa" * 5000
    assert data[9 * MIB : 9 * MIB + 65536] == bytes(65536)


def test_nbdcopy_copies_over_many_connections(start: Start, content: Path, tmp_path: Path) -> None:
    tool = client("nbdcopy")
    address = start(FAKE)
    call(tool, "--connections=4", content, address)
    call(tool, "--connections=4", address, tmp_path / "back.img")
    assert same(content, tmp_path / "back.img")


def test_nbdinfo_is_told_what_it_is(start: Start) -> None:
    said = call(client("nbdinfo"), start(f"{FAKE}&read-only=on"))
    for line in ("export-size: 67108864", "is_read_only: true", "can_multi_conn: true", "using structured packets"):
        assert line in said


@pytest.mark.parametrize("kind", ["qemu", "fake"])
def test_fio_verifies_what_it_wrote(start: Start, disk: Path, kind: str) -> None:
    """A few seconds; for longer: --runtime=60 (docs/nbd.md)."""
    tool = client("fio")
    if "nbd" not in call(tool, "--enghelp"):
        pytest.skip("this fio has no engine for NBD")
    address = start(f"qemu:{disk}" if kind == "qemu" else FAKE)
    said = call(
        tool, "--name=verify", "--ioengine=nbd", f"--uri={address}", "--rw=randrw", "--bsrange=512-64k",
        "--size=8M", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0",
    )  # fmt: skip
    assert "err= 0" in said


@pytest.mark.parametrize("kind", ["qemu", "fake"])
def test_a_file_system_made_elsewhere_is_sound(start: Start, disk: Path, tmp_path: Path, kind: str) -> None:
    """ext4 goes to the disk over NBD, comes back, and is checked and read."""
    mkfs, check, convert = client("mkfs.ext4"), client("e2fsck"), client("qemu-img")
    files = tmp_path / "files"
    files.mkdir()
    for number in range(200):
        (files / f"file{number}").write_bytes(random.Random(number).randbytes(number * 500))
    image, back = tmp_path / "ext4.img", tmp_path / "back.img"
    call(mkfs, "-q", "-d", files, image, "64M")
    address = start(f"qemu:{disk}" if kind == "qemu" else FAKE)
    call(convert, "convert", "-n", "-f", "raw", "-O", "raw", image, address)
    call(convert, "convert", "-f", "raw", "-O", "raw", address, back)
    call(check, "-f", "-n", back)
    call(client("debugfs"), "-R", f"dump file150 {tmp_path / 'out'}", back)
    assert same(tmp_path / "out", files / "file150")


# --- How it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_the_disk_is_flushed(disk: Path, tmp_path: Path, signum: int) -> None:
    tool = client("qemu-io")
    server = Server(f"qemu:{disk}", "--socket", str(tmp_path / "s"))
    call(tool, "-f", "raw", server.address, "-c", "write -P 5 0 1M")
    assert server.end(signum) == (0, "")
    assert disk.read_bytes()[:MIB] == b"\5" * MIB
    assert not (tmp_path / "s").exists()


def test_a_device_that_goes_is_exit_status_5(tmp_path: Path) -> None:
    tool = client("qemu-io")
    server = Server("fake:1M?filter=fault:gone-after=200", "--socket", str(tmp_path / "s"))
    for _ in range(300):
        if subprocess.run(
            [tool, "-f", "raw", server.address, "-c", "read 0 512"], capture_output=True, timeout=60
        ).returncode:
            break
    wait_until(lambda: server.process.poll() is not None, "the server to end", 60)
    status, said = server.end()
    assert status == 5
    assert "hwloop: " in said
    assert "Traceback" not in said


def test_a_name_is_asked_for(start: Start, tmp_path: Path) -> None:
    tool = client("qemu-io")
    address = start(FAKE, "--socket", str(tmp_path / "s"), "--name", "disk", "--read-only")
    assert "/disk?" in address
    call(tool, "-r", "-f", "raw", address, "-c", "read -P 0 0 512")
    wrong = subprocess.run(
        [tool, "-r", "-f", "raw", address.replace("/disk?", "/no?")], capture_output=True, timeout=60
    )
    assert wrong.returncode != 0


# --- nbdkit -----------------------------------------------------------------------------------------------------------


def test_nbdkit_serves_a_disk_through_the_plugin(disk: Path, content: Path, tmp_path: Path) -> None:
    nbdkit, tool = client("nbdkit"), client("nbdcopy")
    paths = [str(ROOT), sysconfig.get_path("purelib")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    known = subprocess.run([nbdkit, "python", "--dump-plugin"], capture_output=True, text=True, timeout=60)
    version = f"{sys.version_info.major}.{sys.version_info.minor}."
    if f"python_version={version}" not in known.stdout:
        pytest.skip(f"nbdkit has no plugin for Python {version[:-1]}")
    done = subprocess.run(
        [nbdkit, "-U", "-", "--foreground", "python", ROOT / "hwloop/nbd/nbdkit_plugin.py", f"target=qemu:{disk}",
         "--run", f"{tool} {content} \"$uri\" && {tool} \"$uri\" {tmp_path / 'back.img'}"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert same(content, tmp_path / "back.img")
    assert same(content, disk)
