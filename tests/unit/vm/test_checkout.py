"""Which files the guest gets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hwloop.vm import checkout
from hwloop.vm.errors import MissingFile

PYPROJECT = """
[project]
name = "thing"
version = "1.2"
dependencies = ["click>=8.1"]
[project.optional-dependencies]
test = ["pytest>=7"]
dev = ["ruff"]
[project.scripts]
thing = "thing.main:entry"
[project.entry-points.pytest11]
thing = "thing.plugin"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout without git: sources, and what was made from them."""
    root = tmp_path / "checkout"
    for name in ("pci/bar.py", "mmio/a.pyx", "mmio/a.c", "mmio/a.so", "pci/__pycache__/bar.pyc", "hwloop/vm/guest/g.c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "pyproject.toml").write_text(PYPROJECT)
    return root


SOURCES = ("hwloop/vm/guest/g.c", "mmio/a.pyx", "pci/bar.py", "pyproject.toml")


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True, timeout=30)


def test_sources_are_taken_and_what_was_made_from_them_is_not(folder: Path) -> None:
    found = checkout.find(folder)
    assert found.files == SOURCES
    assert found.extensions == ["mmio/a.pyx"]


def test_with_git_new_files_are_taken_and_ignored_ones_are_not(folder: Path) -> None:
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text("*.so\nprivate/\n")
    git(folder, "add", "pci/bar.py", "pyproject.toml")
    (folder / "private").mkdir()
    (folder / "private/notes.py").write_text("")
    (folder / "pci/new.py").write_text("")
    names = checkout.find(folder).files
    assert {"pci/bar.py", "pci/new.py", "mmio/a.pyx"} <= set(names)
    assert not {"private/notes.py", "mmio/a.so", "mmio/a.c"} & set(names)


def test_a_tracked_file_that_was_deleted_is_left_out(folder: Path) -> None:
    git(folder, "init", "-q")
    git(folder, "add", "pci/bar.py")
    (folder / "pci/bar.py").unlink()
    assert "pci/bar.py" not in checkout.find(folder).files


def test_the_digest_changes_with_contents_names_and_permissions(folder: Path) -> None:
    digests = [checkout.find(folder).digest]
    (folder / "pci/bar.py").write_text("changed")
    digests.append(checkout.find(folder).digest)
    (folder / "pci/bar.py").rename(folder / "pci/rod.py")
    digests.append(checkout.find(folder).digest)
    (folder / "pci/rod.py").chmod(0o755)
    digests.append(checkout.find(folder).digest)
    assert len(set(digests)) == 4
    assert checkout.find(folder).digest == digests[-1]


def test_requirements_are_those_to_run_and_to_test(folder: Path) -> None:
    assert checkout.find(folder).requirements == ["click>=8.1", "pytest>=7"]


def test_entry_points_are_those_that_the_project_declares(folder: Path) -> None:
    text = checkout.find(folder).entry_points()
    assert "[console_scripts]\nthing = thing.main:entry\n" in text
    assert "[pytest11]\nthing = thing.plugin\n" in text


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"pip install -e \."):
        checkout.find(tmp_path)


def test_this_checkout_has_its_own_package() -> None:
    assert "hwloop/vm/guest/agent.c" in checkout.find().files
