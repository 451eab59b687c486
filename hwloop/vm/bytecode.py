"""Compile Python to byte code for the guest: without it the guest compiles what it imports, on every boot, emulated.

The guest's own interpreter does it, started here through the guest's loader, so that this machine's Python may be of
any version. Where this machine cannot run it, our own does, if it is of the same version.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hwloop.vm import tools
from hwloop.vm.machine import Arch


@dataclass(frozen=True)
class GuestPython:
    """The interpreter in an unpacked root; `version` as in `3.11`."""

    root: Path
    version: str
    arch: Arch

    def compile(self, folder: Path, top: Path) -> None:
        """Byte-compile everything below `folder`, which the guest will have where it is below `top`.

        A file that does not compile is left to whoever imports it.
        """
        command = self._interpreter()
        if command is not None:
            subprocess.run(
                [*command, *_arguments(folder, top)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._environment(command),
                timeout=tools.BUILD_SECONDS,
                check=False,
            )

    def _interpreter(self) -> list[str] | None:
        if platform.machine() == self.arch.machine:
            libraries = self.root / "usr/lib" / self.arch.triplet
            program = self.root / f"usr/bin/python{self.version}"
            return [str(self.root / self.arch.loader), "--library-path", str(libraries), str(program)]
        same = self.version == f"{sys.version_info.major}.{sys.version_info.minor}"
        return [sys.executable] if same else None

    def _environment(self, command: list[str]) -> dict[str, str]:
        """Ours without what steers Python; the guest's finds its library in the unpacked root."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_"))}
        return kept if command[0] == sys.executable else {**kept, "PYTHONHOME": str(self.root / "usr")}


def _arguments(folder: Path, top: Path) -> list[str]:
    # Unchecked: the archive gives every file the same time.
    words = ["-S", "-m", "compileall", "-qq", "-j0", "-r", "20", "--invalidation-mode", "unchecked-hash"]
    return [*words, "-s", str(top), "-p", "/", str(folder)]
