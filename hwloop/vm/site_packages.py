"""The Python packages of others that the guest has: the ones that pyproject.toml names, as wheels for the guest."""

from __future__ import annotations

import configparser
import importlib.util
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hwloop.vm import cpio, tools
from hwloop.vm.bytecode import GuestPython
from hwloop.vm.cache import Cache, digest
from hwloop.vm.errors import MissingTool
from hwloop.vm.machine import Arch

SOURCE_ONLY = ("python-periphery",)
"""Published without a wheel. They are pure Python and need no other package, so building them here is right."""

STEP = "installing Python packages for the guest"

_FORMAT = "2"


def obtain(requirements: Sequence[str], python: GuestPython, cache: Cache, *, force: bool = False) -> Path:
    """An archive with the packages and their commands in `/usr/local`. Raises MissingTool, BuildFailed."""
    key = digest(_FORMAT, repr(python.arch.wheel_platforms), python.version, *sorted(requirements))

    def build(fresh: Path) -> None:
        cache.progress(STEP)
        _build(requirements, python, fresh / "site.cpio", cache)

    return cache.part("site", key, build, force=force) / "site.cpio"


def folder(python: str) -> str:
    """Where Debian's Python looks for packages that are not Debian's."""
    return f"usr/local/lib/python{python}/dist-packages"


def command_script(module: str, function: str) -> bytes:
    """A program that calls one function, as pip would write it."""
    head = function.partition(".")[0]
    return f"#!/usr/bin/python3\nimport sys\nfrom {module} import {head}\nsys.exit({function}())\n".encode()


def _build(requirements: Sequence[str], python: GuestPython, archive: Path, cache: Cache) -> None:
    if importlib.util.find_spec("pip") is None:
        raise MissingTool(f"{sys.executable} has no pip", remedy=f"run: {sys.executable} -m ensurepip")
    with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".site.") as scratch:
        tree = Path(scratch)
        place = tree / folder(python.version)
        _install(requirements, python.arch, python.version, place)
        add_commands(place, tree / "usr/local/bin")
        python.compile(place, tree)
        with archive.open("wb") as out, cpio.Writer(out) as writer:
            writer.tree(tree)


def _install(requirements: Sequence[str], arch: Arch, python: str, place: Path) -> None:
    from_source = [word for word in requirements if project_name(word) in SOURCE_ONLY]
    wheels = [word for word in requirements if word not in from_source]
    tag = python.replace(".", "")
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    target += [f"--abi={abi}" for abi in (f"cp{tag}", "abi3", "none")]
    target += [f"--platform={platform}" for platform in arch.wheel_platforms]
    for options, words in ((target, wheels), (["--no-deps"], from_source)):
        if words:
            tools.build("installing Python packages", [*_pip(place), *options, *words])


def _pip(place: Path) -> list[str]:
    quiet = ["--disable-pip-version-check", "--no-input", "--no-compile", "--quiet"]
    return [sys.executable, "-m", "pip", "install", *quiet, "--upgrade", "--target", str(place)]


def project_name(requirement: str) -> str:
    """The name in a requirement, as in `click>=8.1`."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
    return found[0].lower().replace("_", "-") if found else ""


def add_commands(place: Path, bin_folder: Path) -> None:
    """Write a program for every command that the packages in `place` declare."""
    bin_folder.mkdir(parents=True, exist_ok=True)
    for name, module, function in _commands(place):
        script = bin_folder / name
        script.write_bytes(command_script(module, function))
        script.chmod(0o755)


def _commands(place: Path) -> Iterator[tuple[str, str, str]]:
    """Every command that the installed packages declare: its name, module and function."""
    for path in sorted(place.glob("*.dist-info/entry_points.txt")):
        declared = configparser.ConfigParser(delimiters="=")
        declared.optionxform = str  # type: ignore[assignment,method-assign]
        declared.read(path)
        for name, target in declared["console_scripts"].items() if "console_scripts" in declared else ():
            module, _, function = target.partition(":")
            yield name, module.strip(), function.strip()
