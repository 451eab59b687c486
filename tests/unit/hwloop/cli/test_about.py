"""Completion, manual pages, the help, colours: what makes the command pleasant, and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hwloop.cli.complete import complete_target
from hwloop.cli.completion import SHELLS
from hwloop.cli.main import _SECTIONS, COMMANDS, run
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

ROOT = Path(__file__).parents[4]
MODULES_AT_MOST = 260
"""What `hwloop --help` loads in all, Python's own modules and click's included; it was 199 when this was written."""


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    return new_machine()


# --- The help ---------------------------------------------------------------------------------------------------------


def test_the_help_loads_few_modules_and_no_command() -> None:
    script = (
        "import sys\nfrom hwloop.cli.main import run\nassert run(['--help']) == 0\n"
        "print(len(sys.modules), *(name for name in sys.modules if name.split('.')[0] in"
        " ('hwloop', 'rich', 'pci', 'udev', 'mmio', 'cython_ring')), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    count, *ours = result.stderr.split()
    assert sorted(ours) == ["hwloop", "hwloop.cli", "hwloop.cli.main", "hwloop.errors", "hwloop.signals"]
    assert int(count) <= MODULES_AT_MOST


def test_every_section_of_the_help_begins_with_a_command() -> None:
    assert set(_SECTIONS) <= set(COMMANDS)
    assert next(iter(COMMANDS)) in _SECTIONS


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwloop.cli import table

    made: list[Console] = []

    def console() -> Console:
        made.append(Console(force_terminal=True, record=True, file=open(os.devnull, "w")))  # noqa: SIM115
        return made[-1]

    monkeypatch.setattr("rich.console.Console", console)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    table._draw(("A",), [("x",)])
    assert made[0].no_color


# --- Completion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_printed_for_each_shell(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capfd.readouterr().out
    assert "_HWLOOP_COMPLETE" in script
    assert "%(" not in script


def test_another_shell_is_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "tcsh"]) == 2
    assert "bash" in capfd.readouterr().err


def completed(line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("_HWLOOP_COMPLETE", "bash_complete")
    monkeypatch.setenv("HWLOOP_LINE", line)
    assert run([]) == 0
    return capfd.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hwloop c", ["caps", "copy", "compare", "console", "completion"]),
        ("hwloop copy --ver", ["--verify"]),
        ("hwloop features --type bl", ["block", "bluetooth"]),
        ("hwloop completion ", ["bash", "zsh", "fish"]),
        ("hwloop read fak", ["fake:"]),
    ],
)
def test_words_are_completed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str, expected: list[str]
) -> None:
    found = completed(line, monkeypatch, capfd)
    assert set(expected) <= set(found)
    assert all(word.startswith(line.rpartition(" ")[2]) for word in found)


def test_devices_of_this_machine_are_offered(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert {DISK, "vda", "qemu:"} <= set(completed("hwloop info ", monkeypatch, capfd))
    assert completed("hwloop info vd", monkeypatch, capfd) == ["vda"]
    assert completed("hwloop info 0000:00:0", monkeypatch, capfd) == ["05.0"], "bash cuts words at colons"
    assert machine.tree.writes == []


def test_files_are_offered_where_a_file_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk.img").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / ".hidden").touch()

    def words(incomplete: str, *, files: bool = True) -> list[str]:
        return [str(item.value) for item in complete_target(incomplete, files=files)]

    assert words("di") == ["dir/", "disk.img"]
    assert words("di", files=False) == []
    assert words("qemu:d", files=False) == ["qemu:dir/", "qemu:disk.img"]
    assert words("qemu:none/") == []
    assert ".hidden" not in words("")


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="there is no bash")
def test_bash_really_completes(tmp_path: Path) -> None:
    script = f"""
hwloop() {{ {sys.executable} -m hwloop "$@"; }}
env() {{ command env "${{@:1:$#-1}}" {sys.executable} -m hwloop; }}
source <(hwloop completion bash)
COMP_LINE='hwloop copy qemu:{tmp_path}/di' COMP_POINT=100
COMP_WORDBREAKS=$' \\t\\n"><=;|&(:'
_hwloop_completion hwloop
echo "${{COMPREPLY[@]}}"
COMP_LINE='hwloop comp' COMP_POINT=11
_hwloop_completion hwloop
echo "${{COMPREPLY[@]}}"
"""
    (tmp_path / "disk.img").touch()
    result = subprocess.run(
        ["/bin/bash", "--norc", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.splitlines() == [f"{tmp_path}/disk.img", "compare completion"]


# --- Manual pages -----------------------------------------------------------------------------------------------------


INSIDE = {"serve nbd", "trace show", "trace export", "vm build", "vm run"}
"""The commands of groups."""


@pytest.mark.parametrize("name", ["", *COMMANDS, *sorted(INSIDE)])
def test_each_command_has_a_manual_page(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["man", *name.split()]) == 0
    text = capfd.readouterr().out
    title = "\\-".join(["hwloop", *name.split()]).replace("secure-erase", "secure\\-erase")
    assert f"\n.SH NAME\n{title} \\- " in text
    for section in ("SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
        assert f"\n.SH {section}\n" in text
    assert "\b" not in text
    requests = {line.split()[0] for line in text.split("\n") if line.startswith(".")}
    assert requests <= {".TH", ".SH", ".TP", ".PP", ".nf", ".fi"}


def test_all_pages_are_written(tmp_path: Path) -> None:
    assert run(["man", "--folder", str(tmp_path / "man")]) == 0
    assert {path.name for path in (tmp_path / "man").iterdir()} == {
        "hwloop.1", *(f"hwloop-{name.replace(' ', '-')}.1" for name in (*COMMANDS, *INSIDE)),
    }  # fmt: skip


@pytest.mark.parametrize("words", ["nonsense", "serve nonsense", "read nbd"])
def test_no_page_is_a_usage_error(capfd: pytest.CaptureFixture[str], words: str) -> None:
    assert run(["man", *words.split()]) == 2
    assert f"No such command '{words}'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("word", "meant"), [("cop", " Did you mean copy or compare?"), ("quues", " Did you mean queues?"), ("x", "")]
)
def test_a_command_that_is_none_may_be_like_one_that_is(
    capfd: pytest.CaptureFixture[str], word: str, meant: str
) -> None:
    assert run([word]) == 2
    assert capfd.readouterr().err.rstrip().endswith(f"No such command '{word}'.{meant}")
