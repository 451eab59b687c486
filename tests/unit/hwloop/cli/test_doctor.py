"""`hwloop doctor`, from the command line to the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwloop.cli.main import run
from hwloop.doctor import base
from hwloop.doctor import session as doctor_session
from hwloop.doctor.base import SEVERITIES, SURENESS, System
from tests.unit.hwloop.machine import DISK, Machine, NewMachine


@pytest.fixture
def machine(new_machine: NewMachine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = new_machine(1 << 20)
    made.tree.add_process(1)
    header = made.tree.sysfs.pci_device(DISK) / "config"
    header.write_bytes(header.read_bytes()[:4] + b"\x06\x00" + header.read_bytes()[6:])
    monkeypatch.setattr(doctor_session, "Sysfs", lambda: made.tree.sysfs)
    monkeypatch.setattr(doctor_session.diagnose, "__kwdefaults__", {
        "touch": True, "sysfs": None, "system": System(), "run_dir": made.run_dir,
    })  # fmt: skip
    return made


def test_a_healthy_disk_is_tried_and_given_back(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", DISK]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert machine.hals, "it was taken"
    assert machine.given_back()


def test_look_only_does_not_take_it(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", DISK, "--look-only"]) == 0
    assert machine.hals == []


def test_a_disk_in_use_is_not_touched(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.tree.add_mount("vda", "/mnt")
    assert run(["doctor", DISK]) == 3
    out = capsys.readouterr().out
    assert f"{DISK}: problem: the disk of {DISK} is in use: mount@vda:/mnt" in out
    assert "    certain: " in out
    assert "    mend it: umount /mnt" in out
    assert machine.hals == []


def test_a_stuck_disk(machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from hwloop.doctor import live

    monkeypatch.setattr(live.try_device, "__defaults__", (0.05,))
    machine.disk.faults.drop = True
    assert run(["doctor", DISK]) == 5
    assert "possible: whatever serves it does not run" in capsys.readouterr().out
    assert machine.given_back()


def test_without_a_target_the_whole_machine(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines() == ["this machine: nothing is wrong", f"{DISK}: nothing is wrong"]
    assert machine.hals == []


def test_json_has_a_stable_shape(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.tree.add_mount("vda", "/mnt")
    assert run(["doctor", DISK, "--json"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"schema", "healthy", "subjects"}
    assert (content["schema"], content["healthy"]) == (1, False)
    (subject,) = content["subjects"]
    assert set(subject) == {"name", "findings"}
    for finding in subject["findings"]:
        assert set(finding) == {"saw", "means", "remedy", "sure", "severity", "exit_code", "check"}
        assert finding["sure"] in SURENESS
        assert finding["severity"] in SEVERITIES


def test_a_fake_disk_needs_no_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "fake:1M"]) == 0
    assert run(["doctor", "fake:1M?io-error=-1"]) == 4


def test_what_cannot_be_opened_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", f"vhost-user:{tmp_path / 'none.sock'}"]) == 6
    out = capsys.readouterr().out
    assert "problem: " in out
    assert "it cannot be reached" in out


def test_a_target_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "what?ever"]) == 2


def test_the_system_is_read() -> None:
    system = base.System.read()
    assert system.euid >= 0
    assert system.memlock is None or system.memlock > 0
