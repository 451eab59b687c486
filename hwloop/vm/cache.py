"""Where built parts are kept: one folder, parts named by what they were made from, each put in place whole.

A part's name ends in a digest of everything that went into it, so a part that exists is right, and two checkouts share
what they have in common. Builders hold one lock; readers need none, because a part appears by one rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Progress = Callable[[str], None]
"""Told the name of each step as it begins."""


def quiet(step: str) -> None:
    """The Progress that says nothing."""


def cache_dir() -> Path:
    """`$HWLOOP_CACHE`, or `hwloop` in `$XDG_CACHE_HOME`, or `~/.cache/hwloop`."""
    own = os.environ.get("HWLOOP_CACHE")
    if own:
        return Path(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "hwloop"


def digest(*parts: str | bytes) -> str:
    """16 hexadecimal digits that name these parts, in this order."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.hexdigest()[:16]


class Cache:
    """One cache folder. `progress` is told what is being built, and that another process is building."""

    def __init__(self, folder: Path | None = None, progress: Progress = quiet) -> None:
        self.folder = folder or cache_dir()
        self.progress = progress

    def part(self, kind: str, key: str, build: Callable[[Path], None], *, force: bool = False) -> Path:
        """The folder of the part `kind-key`, built if it is not there or `force` says so.

        `build` fills an empty folder, which gets its name only when `build` has returned.
        """
        place = self.folder / f"{kind}-{key}"
        if force or not place.is_dir():
            with self._lock():
                if force or not place.is_dir():  # another process may have built it while we waited
                    self._build(place, build)
        with suppress(OSError):  # a cache that somebody else owns
            os.utime(place)
        return place

    def trim(self, kind: str, keep: int) -> None:
        """Remove all but the `keep` parts of this kind that were used last."""
        parts = sorted(self.folder.glob(f"{kind}-*"), key=_used, reverse=True)
        for old in parts[keep:]:
            shutil.rmtree(old, ignore_errors=True)

    def _build(self, place: Path, build: Callable[[Path], None]) -> None:
        fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=self.folder))
        try:
            fresh.chmod(0o755)
            build(fresh)
            self._put(fresh, place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _put(self, fresh: Path, place: Path) -> None:
        """Give the folder its name. One that is there goes aside first; a reader that has it open keeps it."""
        if place.is_dir():
            aside = Path(tempfile.mkdtemp(prefix=".old.", dir=self.folder))
            place.rename(aside / "part")
            fresh.rename(place)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            fresh.rename(place)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.progress("waiting for another process that builds")
                fcntl.flock(file, fcntl.LOCK_EX)
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what builders left that were killed: under the lock, every unfinished folder is such."""
        for left in self.folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)


def _used(part: Path) -> float:
    try:
        return part.stat().st_mtime
    except FileNotFoundError:
        return 0.0
