"""Commands and names of Python packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hwloop.vm import site_packages


@pytest.mark.parametrize(
    ("requirement", "name"),
    [("click>=8.1", "click"), ("Python_Periphery ~= 2.4", "python-periphery"), ("rich[jupyter]", "rich")],
)
def test_the_name_in_a_requirement(requirement: str, name: str) -> None:
    assert site_packages.project_name(requirement) == name


def test_every_declared_command_becomes_a_program(tmp_path: Path) -> None:
    info = tmp_path / "thing-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[console_scripts]\nThing = a.b:c\nother=d:e.f\n[gui]\nx = y:z\n")
    site_packages.add_commands(tmp_path, tmp_path / "bin")
    assert sorted(path.name for path in (tmp_path / "bin").iterdir()) == ["Thing", "other"]
    assert b"from a.b import c" in (tmp_path / "bin/Thing").read_bytes()


def test_a_program_exits_with_what_its_function_returns(tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text("class C:\n    @staticmethod\n    def main():\n        return 3\n")
    script = tmp_path / "script"
    script.write_bytes(site_packages.command_script("thing", "C.main"))
    assert subprocess.run(["python3", str(script)], timeout=30, check=False).returncode == 3
