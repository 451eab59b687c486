"""`hwloop rng` and `hwloop console` on QEMU's devices, as a user types them."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

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
