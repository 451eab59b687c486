"""Which of a machine's package sources are used for the guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwloop.vm import debian

LINES = """
# deb https://mirror.example/debian bookworm main
deb https://mirror.example/debian bookworm main
deb [arch=amd64] https://mirror.example/security bookworm-security main
deb-src https://mirror.example/debian bookworm main
deb https://mirror.example/other sdk-bookworm main
deb https://mirror.example/debian trixie main
"""

STANZAS = """\
# a comment
Types: deb deb-src
URIs: https://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: https://mirror.example/other
Suites: nodistro
Components: main

Types: deb
Enabled: no
URIs: https://mirror.example/disabled
Suites: bookworm
Components: main


Types: deb
URIs: https://mirror.example/mixed
Suites: bookworm trixie
Components: main
"""


def test_lines_of_the_suite_and_its_fixes_are_taken() -> None:
    assert debian.select_lines(LINES, "bookworm") == [
        "deb https://mirror.example/debian bookworm main",
        "deb [arch=amd64] https://mirror.example/security bookworm-security main",
    ]


def test_stanzas_that_are_enabled_and_of_nothing_but_the_suite_are_taken() -> None:
    [stanza] = debian.select_stanzas(STANZAS, "bookworm")
    assert "URIs: https://mirror.example/debian" in stanza
    assert "comment" not in stanza


def machine_with(folder: Path, monkeypatch: pytest.MonkeyPatch, suite: str = "bookworm", **files: str) -> list[str]:
    (folder / "apt/sources.list.d").mkdir(parents=True)
    (folder / "out").mkdir()
    for name, text in files.items():
        (folder / "apt/sources.list.d" / name.replace("_", ".")).write_text(text)
    monkeypatch.setattr(debian, "_APT", folder / "apt")
    return [Path(path).read_text() for path in debian._mirrors(folder / "out", suite)]


def test_both_kinds_of_file_are_handed_to_mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = machine_with(tmp_path, monkeypatch, a_list=LINES, b_sources=STANZAS)
    assert len(texts) == 3
    assert all("bookworm" in text for text in texts)


def test_a_machine_without_the_suite_itself_leaves_the_choice_to_mmdebstrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_fixes = "deb https://mirror.example/security bookworm-security main\n"
    assert machine_with(tmp_path, monkeypatch, a_list=only_fixes) == []


def test_a_suite_of_which_the_machine_has_no_sources_comes_from_the_same_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stanza = "Types: deb\nURIs: https://bookworm.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
    [line, made] = machine_with(
        tmp_path, monkeypatch, "trixie", a_list="deb https://mirror.example/debian bookworm main\n", b_sources=stanza
    )
    assert line == "deb https://mirror.example/debian trixie main\n"
    assert "URIs: https://bookworm.example/debian\nSuites: trixie trixie-updates\n" in made


def test_sources_of_the_suite_itself_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = "deb https://old.example/debian bookworm main\ndeb https://new.example/debian trixie main\n"
    assert machine_with(tmp_path, monkeypatch, "trixie", a_list=both) == [
        "deb https://new.example/debian trixie main\n"
    ]


def test_packages_of_another_suite_come_from_the_same_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "apt/sources.list.d/a.list").write_text(LINES)
    (tmp_path / "apt/sources.list.d/b.sources").write_text(STANZAS)
    monkeypatch.setattr(debian, "_APT", tmp_path / "apt")
    texts = [Path(path).read_text() for path in debian._mirrors(tmp_path, "bookworm", ["bookworm-backports"])]
    assert "deb https://mirror.example/debian bookworm-backports main\n" in texts
    [stanza] = [text for text in texts if "Suites: bookworm-backports" in text]
    assert "updates" not in stanza
    assert "URIs: https://mirror.example/debian" in stanza
    assert not any("security-backports" in text for text in texts)


def test_a_machine_without_the_suite_takes_debians_own_mirror_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt").mkdir()
    monkeypatch.setattr(debian, "_APT", tmp_path / "apt")
    texts = [Path(path).read_text().split() for path in debian._mirrors(tmp_path, "bookworm", ["bookworm-backports"])]
    assert [words[2] for words in texts] == ["bookworm", "bookworm-backports"]
