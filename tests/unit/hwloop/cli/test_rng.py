"""`hwloop rng`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hwloop.cli.main import run
from hwloop.device.fake_blk import FakeBlk
from hwloop.device.fake_rng import FakeRng
from hwloop.hal.fake import FakeHal
from tests.unit.hwloop.cli.fake_place import TARGET, put


@pytest.fixture
def rng(monkeypatch: pytest.MonkeyPatch) -> FakeRng:
    device = FakeRng(FakeHal())
    put(device, monkeypatch)
    return device


@pytest.mark.parametrize(("length", "count"), [("0", 0), ("1", 1), ("0x20", 32), ("100k", 100 << 10)])
def test_so_many_bytes_come_out_as_they_are(
    rng: FakeRng, capfdbinary: pytest.CaptureFixture[bytes], length: str, count: int
) -> None:
    assert run(["rng", TARGET, length]) == 0
    assert capfdbinary.readouterr() == (bytes(rng.given), b"")
    assert len(rng.given) == count
    assert rng.hal.leaks() == []


def test_they_go_into_a_file(rng: FakeRng, tmp_path: Path) -> None:
    out = tmp_path / "seed"
    assert run(["rng", TARGET, "1M", "-o", str(out)]) == 0
    assert out.read_bytes() == rng.given
    assert len(rng.given) == 1 << 20


@pytest.mark.parametrize("option", [True, False])
def test_a_terminal_gets_a_hex_dump_and_so_does_who_asks(
    rng: FakeRng, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: bool
) -> None:
    if not option:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(["rng", TARGET, "20", *(["--hexdump"] if option else [])]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith(f"00000000  {rng.given[:8].hex(' ')}")
    assert lines[-1] == "00000014"


@pytest.mark.parametrize("length", ["-1", "some", "1x", ""])
def test_a_length_that_cannot_be_is_a_usage_error(rng: FakeRng, length: str) -> None:
    assert run(["rng", TARGET, length]) == 2
    assert rng.given == b""


def test_a_device_that_answers_without_a_byte_is_exit_status_4(rng: FakeRng, capfd: pytest.CaptureFixture[str]) -> None:
    rng.rng_faults.zero = 1
    assert run(["rng", TARGET, "8"]) == 4
    assert "answered a request for 8 random bytes with none" in capfd.readouterr().err


@pytest.mark.parametrize("command", [["rng", TARGET, "8"], ["console", TARGET, "--list-ports"]])
def test_a_disk_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    disk = FakeBlk(FakeHal())
    put(disk, monkeypatch)
    assert run(command) == 2
    assert f"{TARGET} is a virtio-blk disk, not a" in capsys.readouterr().err
    assert disk.status == 0
    assert disk.hal.leaks() == []


def test_an_entropy_device_is_no_disk(rng: FakeRng, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["read", TARGET, "0", "1"]) == 2
    assert f"{TARGET} is an entropy device, not a disk" in capsys.readouterr().err
