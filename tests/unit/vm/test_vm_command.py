"""`hwloop vm`: options become arguments, errors become exit statuses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hwloop import vm
from hwloop.cli import main
from hwloop.cli.vm import group
from hwloop.signals import unwind_on_signals


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `vm.run` was called with; it returns status 7."""
    calls: dict[str, Any] = {}

    def run(command: tuple[str, ...], **options: Any) -> vm.Result:
        calls.update(options, command=command)
        return vm.Result(7, b"", b"", 1.0)

    monkeypatch.setattr(vm, "run", run)
    return calls


def test_options_reach_the_guest_and_its_status_comes_back(asked: dict[str, Any]) -> None:
    words = ["run", "--disk", "a.img,packed=on", "--disk", "b.img", "--qemu", "-S", "--append", "a", "--append", "b=c"]
    result = CliRunner().invoke(group, [*words, "--timeout", "5", "--share", "/tmp", "--", "ls", "--disk", "-l"])
    assert result.exit_code == 7
    assert asked["command"] == ("ls", "--disk", "-l")
    assert asked["disks"] == ("a.img,packed=on", "b.img")
    assert (asked["qemu"], asked["append"], asked["timeout"], asked["share"]) == (("-S",), "a b=c", 5.0, "/tmp")


def test_options_of_the_command_are_not_ours_even_without_the_two_dashes(asked: dict[str, Any]) -> None:
    CliRunner().invoke(group, ["run", "ls", "--machine", "x"])
    assert asked["command"] == ("ls", "--machine", "x")


def test_the_machine_and_the_version_of_its_registers_reach_the_guest(asked: dict[str, Any]) -> None:
    CliRunner().invoke(group, ["run", "--machine", "virt", "--mmio-version", "1", "true"])
    assert (asked["machine"], asked["mmio_version"]) == ("virt", 1)
    CliRunner().invoke(group, ["run", "true"])
    assert (asked["machine"], asked["mmio_version"]) == ("q35", None)


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "--mmio-version", "3", "true"],
        ["run", "--machine", "pdp11", "--", "true"],
        ["run", "--smp", "0", "true"],
    ],
)
def test_a_usage_error_exits_with_2(words: list[str]) -> None:
    assert CliRunner().invoke(group, words).exit_code == 2


def test_a_missing_disk_is_an_error_with_status_6(tmp_path: Path) -> None:
    result = CliRunner().invoke(group, ["run", "--disk", str(tmp_path / "none"), "--", "true"])
    assert isinstance(result.exception, vm.MissingFile)
    assert result.exception.exit_code == 6


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
def test_an_interruption_exits_as_a_shell_would(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    def run(*words: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(vm, "run", run)
    monkeypatch.setattr("hwloop.cli.main._stop_writing", lambda ending: ending.exit_code)
    assert main.run(["vm", "run", "true"]) == status


@contextmanager
def handlers_put_back() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_through_the_owners_and_is_in_the_status(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    cleaned: list[str] = []

    def run(*words: object, **options: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append("up")

    monkeypatch.setattr(vm, "run", run)
    with handlers_put_back():
        unwind_on_signals()
        assert main.run(["vm", "run", "true"]) == status
    assert cleaned == ["up"]


def test_only_steps_that_download_are_announced_before_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*words: object, progress: vm.cache.Progress, **options: object) -> vm.Result:
        progress("packing this checkout")
        progress(vm.bundle.SLOW_STEPS[0])
        return vm.Result(0, b"", b"", 1.0)

    monkeypatch.setattr(vm, "run", run)
    said = CliRunner().invoke(group, ["run", "true"]).stderr
    assert said == f"hwloop vm: {vm.bundle.SLOW_STEPS[0]}, once\n"


def test_build_says_what_was_built_and_how_big_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "image-1"
    folder.mkdir()
    (folder / "kernel").write_bytes(bytes(3 << 20))
    guest = vm.Guest(vm.machine.Q35, vm.image.Image(folder, vm.machine.AMD64, "6.1.0-56-amd64", "3.11"), ())
    monkeypatch.setattr(vm, "build", lambda *words, **options: guest)
    result = CliRunner().invoke(group, ["build"])
    assert result.exit_code == 0
    assert "6.1.0-56-amd64" in result.stdout
    assert str(tmp_path) in result.stdout
    assert "3 MiB" in result.stdout
