"""Commands on QEMU's devices, as a user types them."""

from __future__ import annotations

import json
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from hwloop import schema
from hwloop.cli.main import run
from tests.contract.qemu_machines import QEMU

pytestmark = [pytest.mark.qemu, pytest.mark.parametrize("way", QEMU)]


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a socket may be: its path has 107 bytes at most."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "console"


def answer(path: Path, said: bytearray) -> None:
    """Connect to a console's socket, say hello, and greet back whoever says something."""
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(10)
        for _ in range(1000):
            try:
                end.connect(str(path))
                break
            except OSError:
                time.sleep(0.005)
        while not said.endswith(b"\n"):
            said += end.recv(4096)
        end.sendall(b"hello, " + said)
        end.recv(1)


def test_random_bytes_are_written_to_a_file(way: str, tmp_path: Path) -> None:
    out = tmp_path / "random"
    assert run(["rng", f"qemu:none?device=rng&{QEMU[way]}", "64k", "-o", str(out)]) == 0
    data = out.read_bytes()
    assert len(data) == 65536
    assert set(data) == set(range(256))


def test_a_script_talks_to_a_console(way: str, path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    said = bytearray()
    other = threading.Thread(target=answer, args=(path, said))
    other.start()
    target = f"qemu:none?device=console&socket={path}&{QEMU[way]}"
    status = run(["console", target, "--send", "driver\n", "--expect", "hello, driver", "--timeout", "10"])
    other.join(10)
    assert status == 0
    assert said == b"driver\n"
    assert capfdbinary.readouterr().out.startswith(b"hello, driver")


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """A file of 4 MiB with a hole in it, and an empty image of the same size."""
    source, disk = tmp_path / "source.img", tmp_path / "disk.img"
    with source.open("wb") as file:
        file.write(random.Random(1).randbytes(1 << 20))
        file.seek(3 << 20)
        file.write(random.Random(2).randbytes(1 << 20))
    with disk.open("wb") as file:
        file.truncate(4 << 20)
    return source, disk


def test_an_image_goes_to_a_disk_and_comes_back(way: str, images: tuple[Path, Path], tmp_path: Path) -> None:
    source, disk = images
    target, back = f"qemu:{disk}?{QEMU[way]}", tmp_path / "back.img"
    assert run(["copy", str(source), target, "--verify"]) == 0
    assert disk.read_bytes() == source.read_bytes()
    assert disk.stat().st_blocks * 512 <= 3 << 20, "the hole is one again"
    assert run(["copy", target, str(back)]) == 0
    assert back.read_bytes() == source.read_bytes()
    assert run(["compare", target, str(source)]) == 0
    assert run(["exec", target, "-c", "write -P 0xaa 5 4k", "-c", "read -P 0xaa 5 4k", "-c", "write -zu 0 64k"]) == 0
    assert run(["compare", target, str(source)]) == 1
    assert run(["zero", target, "1000", "1M"]) == 0
    assert disk.read_bytes()[1000 : 1000 + (1 << 20)] == bytes(1 << 20)


def test_a_pattern_is_written_and_given_up(way: str, images: tuple[Path, Path]) -> None:
    _, disk = images
    target = f"qemu:{disk}?{QEMU[way]}"
    assert run(["verify", target, "--pattern", "stamp:5", "--write"]) == 0
    assert run(["verify", target, "--pattern", "stamp:5"]) == 0
    if "legacy" not in QEMU[way] and "version=1" not in QEMU[way]:
        assert run(["discard", target, "--all"]) == 0
        assert disk.stat().st_blocks == 0


def test_a_device_is_looked_at(way: str, images: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    _, disk = images
    target = f"qemu:{disk}?{QEMU[way]}"
    for words in (["regs", target], ["regs", target, "--live"], ["queues", target], ["features", target]):
        assert run([*words, "--json"]) == 0
        Draft202012Validator(schema.load(words[0])).validate(json.loads(capfd.readouterr().out))
    assert run(["caps", target]) == (0 if "microvm" not in QEMU[way] and "machine=virt" not in QEMU[way] else 2)
    assert run(["cache", target]) == 0
