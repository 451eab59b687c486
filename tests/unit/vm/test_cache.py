"""Parts that are built once, whole, and by one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwloop.vm.cache import Cache, cache_dir, digest


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_part_is_built_once(cache: Cache) -> None:
    built: list[Path] = []
    first = cache.part("thing", "1", built.append)
    assert cache.part("thing", "1", built.append) == first
    assert len(built) == 1
    assert first.is_dir()


def test_force_builds_again_and_replaces(cache: Cache) -> None:
    place = cache.part("thing", "1", lambda fresh: (fresh / "old").touch())
    cache.part("thing", "1", lambda fresh: (fresh / "new").touch(), force=True)
    assert [path.name for path in place.iterdir()] == ["new"]


def test_a_build_that_fails_leaves_nothing(cache: Cache) -> None:
    def fail(fresh: Path) -> None:
        (fresh / "half").touch()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        cache.part("thing", "1", fail)
    assert [path.name for path in cache.folder.iterdir()] == ["lock"]


def test_a_forced_build_that_fails_keeps_what_was_there(cache: Cache) -> None:
    place = cache.part("thing", "1", lambda fresh: (fresh / "old").touch())
    with pytest.raises(ZeroDivisionError):
        cache.part("thing", "1", lambda fresh: 1 // 0, force=True)  # type: ignore[arg-type]
    assert (place / "old").exists()


BUILDER = """
import sys, time
from pathlib import Path
from hwloop.vm.cache import Cache
folder = Path(sys.argv[1])
def build(fresh):
    with (folder / "built").open("a") as log:
        log.write("x")
    time.sleep(0.3)
Cache(folder / "cache").part("thing", "1", build)
"""


def test_two_processes_build_a_part_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILDER, str(tmp_path)]
    both = [subprocess.Popen(command, cwd=Path(__file__).parents[3]) for _ in range(2)]
    assert [one.wait(30) for one in both] == [0, 0]
    assert (tmp_path / "built").read_text() == "x"


def test_only_the_parts_used_last_are_kept(cache: Cache) -> None:
    places = [cache.part("layer", str(number), lambda fresh: None) for number in range(4)]
    for age, place in enumerate(places):
        os.utime(place, (time.time() - age, time.time() - age))
    cache.trim("layer", keep=2)
    assert [place.exists() for place in places] == [True, True, False, False]


def test_using_a_part_keeps_it_from_being_trimmed(cache: Cache) -> None:
    places = [cache.part("layer", name, lambda fresh: None) for name in ("old", "new")]
    for place in places:
        os.utime(place, (1, 1))
    cache.part("layer", "old", lambda fresh: None)
    cache.trim("layer", keep=1)
    assert [place.exists() for place in places] == [True, False]


def test_what_a_killed_builder_left_is_removed_by_the_next_one(cache: Cache) -> None:
    (cache.folder / ".image.half").mkdir(parents=True)
    place = cache.part("thing", "1", lambda fresh: None)
    assert sorted(cache.folder.iterdir()) == sorted([place, cache.folder / "lock"])


def test_trimming_one_kind_leaves_the_others(cache: Cache) -> None:
    place = cache.part("image", "1", lambda fresh: None)
    cache.trim("layer", keep=0)
    assert place.exists()


def test_the_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("HWLOOP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/home/someone/.cache/hwloop")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/mine")
    assert cache_dir() == Path("/var/cache/mine/hwloop")
    monkeypatch.setenv("HWLOOP_CACHE", "/elsewhere")
    assert cache_dir() == Path("/elsewhere")


def test_a_digest_tells_apart_where_one_part_ends() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab", b"c") == digest(b"ab", "c")
