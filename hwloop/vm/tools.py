"""Run the programs that build a guest, and say which Debian package has one that is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from hwloop.vm.errors import BuildFailed, MissingTool

PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "depmod": "kmod",
    "ldconfig": "libc-bin",
    "gcc": "gcc",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
}
"""Program: the Debian package that has it."""

BUILD_SECONDS = 1800.0
"""How long one step of a build may take; a download over a slow line is the longest."""

_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"  # not on the PATH of an ordinary user, but depmod is there


def find(program: str) -> str:
    """The program's path. Raises MissingTool with the command that installs it."""
    path = shutil.which(program) or shutil.which(program, path=_SYSTEM_FOLDERS)
    if path is None:
        package = PACKAGES.get(program, program)
        raise MissingTool(f"{program} is not installed", remedy=f"run: apt install {package}")
    return path


def build(what: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> str:
    """Run one step of a build and return what it printed. Raises MissingTool or BuildFailed."""
    arguments = [find(command[0]), *command[1:]]
    done = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        timeout=BUILD_SECONDS,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        raise BuildFailed(what, os.path.basename(command[0]), done.returncode, output)
    return output
