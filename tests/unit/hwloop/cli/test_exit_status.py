"""Each way in which a command can end has one exit status, and says why in one line (docs/errors.md)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwloop import session
from hwloop.cli.main import COMMANDS, main, run
from hwloop.errors import DmaError
from hwloop.signals import Interrupted
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

ROOT = Path(__file__).parents[4]


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    return new_machine()


def io_error(machine: Machine) -> None:
    machine.disk.blk_faults.io_error = 1


def refused_features(machine: Machine) -> None:
    machine.disk.faults.refuse_features = True


def hostile_ring(machine: Machine) -> None:
    run_queue = machine.disk.run

    def hostile(index: int) -> None:
        machine.disk.hold = True
        run_queue(index)
        ring = machine.disk.queues[0].ring
        assert ring is not None
        ring.put_used(0, 0xFFFF_FFFF, 1)
        ring.set_used_idx(1)

    machine.disk.run = hostile  # type: ignore[method-assign]


def never_completes(machine: Machine) -> None:
    machine.disk.faults.drop = True


def unplugged(machine: Machine) -> None:
    read_config = machine.disk.read_config

    def gone_soon(offset: int, width: int) -> int:
        value = read_config(offset, width)
        machine.disk.faults.gone = True
        return value

    machine.disk.read_config = gone_soon  # type: ignore[method-assign]


def mounted(machine: Machine) -> None:
    machine.tree.add_mount("vda", "/")


def no_group(machine: Machine) -> None:
    machine.tree.add_pci("0000:00:05.1", 0x8086, 0x100E, driver="e1000", iommu_group=7)


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [
        (mounted, 3, f"{DISK} is in use (mount@vda:/); it was not touched; unmount it"),
        (io_error, 4, "IN at sector 0: the device reports an I/O error"),
        (refused_features, 4, "the device refused the accepted features"),
        (hostile_ring, 4, "the device broke the used ring: used id out of range"),
        (never_completes, 5, "timed out after 0.2 s waiting for a request to complete; it was taken from the device"),
        (unplugged, 5, "0xff"),
        (no_group, 6, "also holds 0000:00:05.1 (e1000)"),
    ],
)
def test_the_exit_status_says_whose_fault_it_was(
    machine: Machine,
    capfd: pytest.CaptureFixture[str],
    trouble: Callable[[Machine], None],
    status: int,
    words: str,
) -> None:
    trouble(machine)
    assert run(["read", DISK, "0", "512"]) == status
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hwloop: ")
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert machine.given_back()


def test_a_timeout_shows_both_sides_of_the_ring_below_the_error(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    never_completes(machine)
    assert run(["read", DISK, "0", "512"]) == 5
    first, *notes = capfd.readouterr().err.splitlines()
    assert first.startswith("hwloop: timed out")
    assert all(note.startswith("  ") for note in notes)
    assert any("outstanding" in note for note in notes)


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (DmaError("cannot pin", remedy="ulimit -l unlimited"), 6, "hwloop: cannot pin; ulimit -l unlimited"),
        (PermissionError(errno.EACCES, "Permission denied", "/dev/vfio/7"), 6, "/dev/vfio/7: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), 6, "hwloop: Input/output error"),
        (KeyboardInterrupt(), 130, "hwloop: ended by SIGINT"),
        (Interrupted(signal.SIGINT), 130, "hwloop: ended by SIGINT"),
        (Interrupted(signal.SIGTERM), 143, "hwloop: ended by SIGTERM"),
        (Interrupted(signal.SIGHUP), 129, "hwloop: ended by SIGHUP"),
    ],
)
def test_other_ends_have_their_exit_status_too(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    raised: BaseException,
    status: int,
    words: str,
) -> None:
    def fail(*arguments: Any) -> None:
        raise raised

    monkeypatch.setattr(session, "open", fail)
    assert run(["flush", DISK]) == status
    assert words in capfd.readouterr().err


# --- The group of commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_help_text(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    text = capfd.readouterr().out
    assert text.startswith(f"Usage: hwloop {name}")
    assert len(text.splitlines()) > 4


def test_the_help_lists_every_command_and_every_exit_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capfd.readouterr().out
    for name, (_, _, line) in COMMANDS.items():
        assert name in text
        assert line[:40] in text
    for status in ("0 ok", "2 wrong arguments", "3 refused", "130/143"):
        assert status in text


def test_the_help_imports_no_command() -> None:
    script = (
        "import sys; from hwloop.cli.main import run; run(['--help'])\n"
        "loaded = [name for name in sys.modules if name.startswith('hwloop.cli.') and name != 'hwloop.cli.main']\n"
        "assert not loaded, loaded\nassert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_the_version_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capfd.readouterr().out.startswith("hwloop ")


def test_an_unknown_command_is_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["raed"]) == 2
    assert "No such command 'raed'" in capfd.readouterr().err


def test_no_command_is_a_usage_error_with_the_help() -> None:
    assert run([]) in (0, 2)
    assert main.name == "main"


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_has_gone_ends_it_quietly(tmp_path: Path, unbuffered: bool) -> None:
    """`hwloop read ... | head -c 1`."""
    script = f"""
import sys
from pathlib import Path
import pytest
from tests.unit.hwloop.machine import DISK, Machine
from hwloop.cli.main import entry
with pytest.MonkeyPatch.context() as patch:
    machine = Machine(Path({str(tmp_path)!r}), patch, 8 << 20)
    try:
        entry(["read", DISK, "0", "8M"])
    finally:
        assert machine.given_back()
"""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), **({"PYTHONUNBUFFERED": "1"} if unbuffered else {}))
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(1)) == 1
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""
