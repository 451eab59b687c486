"""What a device was before it was taken."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from hwloop.errors import SetupError
from hwloop.journal import Entry, Journal

DISK = "0000:00:05.0"
ENTRY = Entry(DISK, "virtio-pci", None, pid=42)


def test_an_entry_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run")
    for entry in (ENTRY, Entry(DISK, None, "vfio-pci", lasting=True, pid=7), Entry(DISK, None, None, bus="platform")):
        journal.write(entry)
        assert journal.read(DISK) == entry


def test_the_newest_entry_of_a_device_counts_and_others_have_their_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(ENTRY)
    journal.write(Entry("0000:00:06.0", None, None))
    journal.write(Entry(DISK, "other", None))
    assert journal.addresses() == [DISK, "0000:00:06.0"]
    found = journal.read(DISK)
    assert found is not None
    assert found.driver == "other"


def test_a_removed_entry_is_gone_and_may_be_removed_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(ENTRY)
    journal.remove(DISK)
    journal.remove(DISK)
    assert journal.read(DISK) is None
    assert journal.addresses() == []
    assert list(tmp_path.iterdir()) == []


def test_a_journal_without_a_folder_is_empty(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "none")
    assert journal.read(DISK) is None
    assert journal.addresses() == []
    journal.remove(DISK)


def test_an_entry_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash leaves the old entry or the new one, never half of one."""
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        steps.append("sync")
        real_fsync(fd)

    def replace(source: Path, target: Path) -> None:
        steps.append(f"rename to {target.name}")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    Journal(tmp_path).write(ENTRY)
    assert steps == ["sync", f"rename to {DISK}.json"]


def test_a_crash_in_the_middle_of_a_write_leaves_the_old_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.write(ENTRY)

    def crash(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(SetupError, match="No space left on device"):
        journal.write(Entry(DISK, "other", None))
    assert journal.read(DISK) == ENTRY
    assert journal.addresses() == [DISK]


GOOD = {"schema": 1, "address": DISK, "driver": "virtio-pci", "override": None, "lasting": False, "pid": 1}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        "\udc80",
        json.dumps({**GOOD, "schema": 2}),
        json.dumps({**GOOD, "driver": 5}),
        json.dumps({**GOOD, "bus": "../pci"}),
        json.dumps({**GOOD, "override": ["x"]}),
        json.dumps({key: value for key, value in GOOD.items() if key != "lasting"}),
    ],
)
def test_a_file_that_we_did_not_write_is_explained_and_never_followed(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{DISK}.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SetupError, match=f"hwloop restore {DISK}"):
        Journal(tmp_path).read(DISK)


def test_the_format_on_disk_stays_what_older_versions_wrote_when_there_was_one_bus(tmp_path: Path) -> None:
    (tmp_path / f"{DISK}.json").write_text(json.dumps(GOOD))
    assert Journal(tmp_path).read(DISK) == Entry(DISK, "virtio-pci", None, lasting=False, pid=1, bus="pci")


def test_an_entry_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hwloop.journal.os.fsync", full)
    with pytest.raises(SetupError, match="No space left on device") as caught:
        Journal(tmp_path).write(ENTRY)
    assert caught.value.errno == errno.ENOSPC
    assert "run as root" not in str(caught.value), "root cannot write to a full disk either"
    assert list(tmp_path.iterdir()) == []
