"""Programs that build."""

from __future__ import annotations

import pytest

from hwloop.vm import tools
from hwloop.vm.errors import BuildFailed, MissingTool


def test_what_a_program_prints_is_given_back() -> None:
    assert tools.build("talking", ["sh", "-c", "echo out; echo err >&2"]) == "out\nerr\n"


def test_a_program_that_fails_is_an_error_with_its_last_words() -> None:
    with pytest.raises(BuildFailed, match=r"talking: sh ended with status 3(.|\n)*the reason") as caught:
        tools.build("talking", ["sh", "-c", "seq 100; echo the reason; exit 3"])
    assert caught.value.exit_code == 6
    assert "\n50\n" not in str(caught.value)


def test_a_program_that_is_not_there_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(tools, "_SYSTEM_FOLDERS", "/nonexistent")
    with pytest.raises(MissingTool, match="depmod is not installed; run: apt install kmod"):
        tools.build("indexing", ["depmod"])
