"""`--trace FILE`, `hwloop trace show` and `hwloop trace export`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from hwloop import session
from hwloop.cli.main import COMMANDS, OPENING_NOTHING, main, run


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path, out = tmp_path / "blk.trace", tmp_path / "out"
    assert run(["read", "fake:1M", "1k", "2k", "-o", str(out), "--trace", str(path)]) == 0
    assert out.read_bytes() == bytes(2048)
    return path


def show(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert run(["trace", "show", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_show_prints_a_line_an_event(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = show(capsys, trace)
    assert any(line.endswith("queue 0: head 0 is read at sector 2") for line in found)
    assert any("status := 0x0f" in line for line in found)


def test_show_filters(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everything = show(capsys, trace)
    assert show(capsys, trace, "--queue", 1) == []
    assert all("queue 0" in line for line in show(capsys, trace, "--queue", 0))
    ring = show(capsys, trace, "--kind", "ring")
    assert [line.split(":")[1].split()[0] for line in ring] == ["published", "head", "used"]
    assert len(show(capsys, trace, "--kind", "notify", "--kind", "ring")) == 4
    assert show(capsys, trace, "--to", 0) == show(capsys, trace, "--from", 1e6) == []
    assert show(capsys, trace, "--from", 0, "--to", 1e6) == everything


def test_export_is_json(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run(["trace", "export", str(trace), "-o", str(out)]) == 0
    entries = json.loads(out.read_text())["traceEvents"]
    assert [entry["name"] for entry in entries if entry["ph"] == "X"] == ["read"]


def test_what_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("nothing of the kind")
    assert run(["trace", "show", str(tmp_path / "x")]) == 2
    assert "is not a trace of hwloop" in capsys.readouterr().err
    assert run(["trace", "show", str(tmp_path / "none")]) == 6


def test_a_trace_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["read", "fake:1M", "0", "512", "--trace", str(tmp_path / "none" / "t")]) == 6
    assert "cannot write the trace" in capsys.readouterr().err


def test_the_next_command_is_not_traced(trace: Path) -> None:
    before = trace.read_bytes()
    assert session.EVERY_DEVICE == []
    assert run(["id", "fake:1M"]) == 0
    assert trace.read_bytes() == before


def test_an_error_is_traced_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t"
    assert run(["read", "fake:1M?io-error=1", "0", "512", "-o", str(tmp_path / "out"), "--trace", str(path)]) == 4
    assert "the last events:" in capsys.readouterr().err
    assert show(capsys, path)[-1].endswith("registers closed")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - OPENING_NOTHING))
def test_each_command_that_opens_a_device_can_be_traced(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert any("--trace" in parameter.opts for parameter in command.params)


def test_the_option_is_there_once(trace: Path) -> None:
    for _ in range(2):
        command = main.get_command(click.Context(main), "read")
    assert command is not None
    assert [parameter.name for parameter in command.params].count("trace_file") == 1
