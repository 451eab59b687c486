"""The verdict on KVM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hwloop.vm import kvm
from hwloop.vm.errors import GuestFailed, GuestTimeout


@pytest.fixture(autouse=True)
def _a_machine_with_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm.os, "access", lambda path, mode: path == "/dev/kvm")  # type: ignore[attr-defined]
    monkeypatch.setattr(kvm.platform, "machine", lambda: "x86_64")  # type: ignore[attr-defined]
    monkeypatch.setattr(kvm, "_qemu_version", lambda qemu: "QEMU 7.2")


class Trial:
    """Counts its calls, and fails with the error it was made with."""

    def __init__(self, error: OSError | None = None) -> None:
        self.calls, self.error = 0, error

    def __call__(self) -> None:
        self.calls += 1
        if self.error:
            raise self.error


def ask(folder: Path, trial: Callable[[], object], image: str = "image-1") -> bool:
    return kvm.usable(folder, image, "qemu", "x86_64", trial)


def test_a_guest_that_starts_is_tried_once(tmp_path: Path) -> None:
    trial = Trial()
    assert ask(tmp_path, trial)
    assert ask(tmp_path, trial)
    assert trial.calls == 1


@pytest.mark.parametrize("error", [GuestFailed("QEMU aborted"), GuestTimeout("the guest's kernel to start", 20)])
def test_a_guest_that_does_not_start_means_no_kvm_and_is_remembered(tmp_path: Path, error: OSError) -> None:
    trial = Trial(error)
    assert not ask(tmp_path, trial)
    assert not ask(tmp_path, trial)
    assert trial.calls == 1


def test_an_error_that_is_not_the_guests_is_not_a_verdict(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        ask(tmp_path, Trial(PermissionError("no pipes left")))
    assert ask(tmp_path, Trial())


def test_another_image_is_tried_again(tmp_path: Path) -> None:
    trial = Trial()
    ask(tmp_path, trial)
    ask(tmp_path, trial, image="image-2")
    assert trial.calls == 2


def test_a_damaged_memory_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "kvm.json").write_text("{")
    assert ask(tmp_path, Trial())


def test_a_guest_of_another_processor_is_emulated_and_nothing_is_tried(tmp_path: Path) -> None:
    trial = Trial()
    assert not kvm.usable(tmp_path, "image-1", "qemu", "aarch64", trial)
    assert trial.calls == 0


def test_without_the_device_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm.os, "access", lambda path, mode: False)  # type: ignore[attr-defined]
    trial = Trial()
    assert not ask(tmp_path, trial)
    assert trial.calls == 0
