"""This checkout, as the guest gets it: its files, what it needs, and the commands it declares."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hwloop.vm.cache import digest
from hwloop.vm.errors import MissingFile

PLACE = "hwloop"
"""Where it is in the guest, without the leading slash."""

PARTS = ("cython_ring", "pci", "mmio", "udev", "hwloop", "tests", "bench", "docs", "examples")
"""Folders that are taken where git cannot say which files belong to the project."""

FILES = ("pyproject.toml", "setup.py", "README.md", "Makefile")

_SKIP_FOLDERS = ("__pycache__", "build", "node_modules")
_SKIP_SUFFIXES = (".so", ".pyc", ".pyo", ".img", ".qcow2")


@dataclass(frozen=True)
class Checkout:
    """`files` are paths below `root`, in order."""

    root: Path
    files: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Names the contents, and which files may be executed."""
        paths = [self.root / name for name in self.files]
        facts = [f"{name} {os.access(path, os.X_OK)}" for name, path in zip(self.files, paths, strict=True)]
        return digest(*facts, *(path.read_bytes() for path in paths))

    @cached_property
    def project(self) -> dict[str, Any]:
        """The table `[project]` of pyproject.toml."""
        project: dict[str, Any] = tomllib.loads((self.root / "pyproject.toml").read_text())["project"]
        return project

    @property
    def requirements(self) -> list[str]:
        """What it needs to run and to be tested."""
        extras: list[str] = self.project.get("optional-dependencies", {}).get("test", [])
        return [*self.project.get("dependencies", []), *extras]

    @property
    def extensions(self) -> list[str]:
        return [name for name in self.files if name.endswith(".pyx")]

    def entry_points(self) -> str:
        """The text of its entry_points.txt."""
        groups = {"console_scripts": self.project.get("scripts", {}), **self.project.get("entry-points", {})}
        return "\n".join(f"[{group}]\n{_lines(entries)}" for group, entries in groups.items())


def find(root: Path | None = None) -> Checkout:
    """The checkout that this module is part of, or the one at `root`. Raises MissingFile for an installed copy."""
    place = root or Path(__file__).resolve().parents[2]
    if not (place / "pyproject.toml").is_file():
        raise MissingFile(
            f"the test VM runs a checkout of hwloop, and {place} has no pyproject.toml",
            remedy="run it from a checkout, installed with: pip install -e .",
        )
    names = _from_git(place) or _from_walk(place)
    return Checkout(place, tuple(sorted(name for name in names if _is_wanted(place / name))))


def _from_git(root: Path) -> list[str]:
    """Tracked and new files, without ignored ones; nothing if git is missing or this is not the top of a checkout."""
    if not (root / ".git").exists():
        return []
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except FileNotFoundError:
        return []
    return sorted({os.fsdecode(name) for name in done.stdout.split(b"\0") if name}) if done.returncode == 0 else []


def _from_walk(root: Path) -> Iterator[str]:
    yield from (name for name in FILES if (root / name).is_file())
    for part in PARTS:
        for folder, folders, files in os.walk(root / part):
            folders[:] = [name for name in folders if name not in _SKIP_FOLDERS and not name.startswith(".")]
            yield from (str((Path(folder) / name).relative_to(root)) for name in files)


def _is_wanted(path: Path) -> bool:
    """A regular file that was not made from another one."""
    made = path.suffix in _SKIP_SUFFIXES or (path.suffix == ".c" and path.with_suffix(".pyx").exists())
    return path.is_file() and not path.is_symlink() and not made


def _lines(entries: Iterable[str] | dict[str, str]) -> str:
    pairs = entries.items() if isinstance(entries, dict) else ()
    return "".join(f"{name} = {target}\n" for name, target in pairs)
