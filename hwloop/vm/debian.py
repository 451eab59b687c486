"""Unpack Debian packages with everything they depend on, for any architecture, without running any of their scripts."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hwloop.vm import tools

SUITE = "bookworm"
"""Whose kernel and Python the guest has: what the VM was measured with."""

_APT = Path("/etc/apt")
_USUAL = "deb http://deb.debian.org/debian {} main"


def unpack(
    packages: Sequence[str], arch: str, tar: Path, suite: str = SUITE, *, more_suites: Sequence[str] = ()
) -> None:
    """Write what the packages and their dependencies hold to the archive `tar`.

    Takes this machine's own sources for the suite, so that a mirror that was set up is used; for a suite that it has no
    sources of, those for `SUITE`, with the other's name. Packages of `more_suites` are named PACKAGE/SUITE. Raises
    MissingTool, BuildFailed.
    """
    with tempfile.TemporaryDirectory() as folder:
        mirrors = _mirrors(Path(folder), suite, more_suites)
        tools.build(f"unpacking Debian packages for {arch}", _command(packages, arch, tar, suite, mirrors))


def _command(packages: Sequence[str], arch: str, tar: Path, suite: str, mirrors: Sequence[str]) -> list[str]:
    # For an ordinary user: nothing is run in the root, so nobody needs a user namespace to pretend to be its root.
    mode = "root" if os.geteuid() == 0 else "chrootless"
    return [
        *("mmdebstrap", "--variant=extract", f"--mode={mode}", f"--architectures={arch}"),
        *(f"--include={','.join(packages)}", "--format=tar", suite, str(tar), *mirrors),
    ]


def _mirrors(folder: Path, suite: str, more_suites: Sequence[str] = ()) -> list[str]:
    """Files with this machine's sources for the suites; none when it has none, and mmdebstrap then takes its own."""
    found = _sources(suite) or [renamed(text, SUITE, suite) for text in _sources(SUITE)]
    if more_suites:
        found = found or [_USUAL.format(suite)]
        base = [text for text in found if text_has_suite(text, suite)]
        found += [_alone(renamed(text, suite, more), more) for more in more_suites for text in base]
    paths = [folder / f"{number}.{_kind(text)}" for number, text in enumerate(found)]
    for path, text in zip(paths, found, strict=True):
        path.write_text(text + "\n")
    return [str(path) for path in paths]


def _sources(suite: str) -> list[str]:
    """Of this machine, for the suite; none where only its updates are there."""
    found = [*_one_line_sources(suite), *_stanzas(suite)]
    return found if any(text_has_suite(text, suite) for text in found) else []


def _one_line_sources(suite: str) -> Iterator[str]:
    for path in [_APT / "sources.list", *sorted(_APT.glob("sources.list.d/*.list"))]:
        if path.is_file():
            yield from select_lines(path.read_text(), suite)


def _stanzas(suite: str) -> Iterator[str]:
    for path in sorted(_APT.glob("sources.list.d/*.sources")):
        yield from select_stanzas(path.read_text(), suite)


def renamed(text: str, old: str, new: str) -> str:
    """A source of one suite as one of another: its updates and security fixes too."""
    return re.sub(rf"(?<=[\s]){re.escape(old)}(?=[\s-]|$)", new, text)


def _alone(text: str, suite: str) -> str:
    """The source without the suite's updates and security fixes, which backports have not."""
    return re.sub(rf"(?<=\s){re.escape(suite)}-[a-z]+", "", text)


def _kind(text: str) -> str:
    return "list" if text.startswith("deb ") else "sources"


def _wanted(suite: str) -> tuple[str, ...]:
    return suite, f"{suite}-updates", f"{suite}-security"


def select_lines(text: str, suite: str) -> list[str]:
    """The `deb` lines of a sources.list that are of the suite, its updates or its security fixes."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith("deb ") and set(_wanted(suite)) & set(line.split())]


def select_stanzas(text: str, suite: str) -> list[str]:
    """The stanzas of a deb822 file that are enabled, hold binary packages, and are of nothing but the suite."""
    return [stanza for stanza in _split_stanzas(text) if _is_of(stanza, suite)]


def text_has_suite(text: str, suite: str) -> bool:
    """Whether a source is of the suite itself; updates alone have no base to build on."""
    return suite in text.split()


def _split_stanzas(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.strip():
            lines += [line] if not line.startswith("#") else []
        elif lines:
            yield "\n".join(lines)
            lines = []


def _is_of(stanza: str, suite: str) -> bool:
    fields = [line.partition(":") for line in stanza.splitlines()]
    values = {key.strip().lower(): value.split() for key, _, value in fields}
    suites = values.get("suites", [])
    enabled = values.get("enabled", ["yes"]) != ["no"]
    return enabled and "deb" in values.get("types", []) and bool(suites) and set(suites) <= set(_wanted(suite))
