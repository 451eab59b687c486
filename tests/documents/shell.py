"""Runs the commands of a block in a shell, as somebody would who types them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 180.0
"""Seconds for a block, on a machine that is busy."""
_END = re.compile(r"\x1eended:(\d+)\x1e")


@dataclass(frozen=True)
class Command:
    """A command, of one line or more, and what the page says that it prints; None: it does not say."""

    text: str
    output: str | None = None

    @property
    def goes_on(self) -> bool:
        """Does it run on in the background?"""
        return self.text.rstrip().endswith("&")


@dataclass(frozen=True)
class Result:
    """`status` None: it did not come to an end."""

    output: str
    status: int | None


def transcript(text: str, prompt: str) -> list[Command]:
    """The commands of a transcript: lines that begin with the prompt, `> ` where one goes on, and what is printed."""
    commands: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith(f"{prompt} "):
            commands.append(([line[2:]], []))
        elif line.startswith("> ") and commands and not commands[-1][1]:
            commands[-1][0].append(line[2:])
        elif commands:
            commands[-1][1].append(line)
        elif line.strip():
            raise ValueError(f"a transcript begins with {prompt!r} and a command, not with {line!r}")
    return [Command("\n".join(typed), "\n".join(printed)) for typed, printed in commands]


def script(commands: Sequence[Command], jobs: str) -> str:
    """A script of bash that runs them in turn and marks where the output of each ends.

    What a command in the background prints goes to a file in `jobs`; as many lines of it as the page has are waited
    for, as somebody would.
    """
    lines = ["exec </dev/null 2>&1"]
    for number, command in enumerate(commands):
        lines += _in_background(command, f"{jobs}/{number}") if command.goes_on else [command.text]
        # The next command may ask for the status of this one.
        lines.append(r"ended=$?; printf '\036ended:%s\036' $ended; (exit $ended)")
    return "\n".join(lines) + "\n"


def _in_background(command: Command, file: str) -> list[str]:
    count = len((command.output or "").strip("\n").splitlines())
    body = command.text.rstrip().removesuffix("&").rstrip()
    return [
        f": >'{file}'; {body} >>'{file}' 2>&1 &",
        f"for _ in $(seq 1200); do [ $(wc -l <'{file}') -lt {count} ] && kill -0 $! && sleep 0.1 || break; done",
        f"cat '{file}'",
    ]


def results(printed: str, count: int) -> list[Result]:
    """What each command of a script printed."""
    pieces = _END.split(printed)
    found = [Result(pieces[n], int(pieces[n + 1])) for n in range(0, len(pieces) - 1, 2)]
    return found if len(found) == count else [*found, Result(pieces[-1], None)]


class Shell:
    """Runs scripts in a folder. The end of the `with` block ends what they have left running."""

    def __init__(self, folder: Path, jobs: Path) -> None:
        self._folder = folder
        self._jobs = jobs
        self._groups: list[int] = []

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._groups:
            _end(group)

    def run(self, commands: Sequence[Command]) -> list[Result]:
        """Raises TimeoutError with what was printed so far."""
        here = self._jobs / str(len(self._groups))
        here.mkdir(parents=True)
        (here / "script").write_text(script(commands, str(here)), encoding="utf-8")
        with open(here / "output", "wb") as output:
            process = subprocess.Popen(
                ["bash", here / "script"],
                cwd=self._folder,
                env=environment(self._jobs),
                stdout=output,
                start_new_session=True,
            )
            self._groups.append(process.pid)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                _end(process.pid)
                process.wait()
        printed = (here / "output").read_bytes().decode(errors="replace")
        return results(printed, len(commands))


def environment(home: Path) -> dict[str, str]:
    """Ours, with this Python's commands first, and without what changes how a program prints."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HWLOOP_", "PYTEST_", "LC_"))}
    path = f"{Path(sys.executable).parent}:{kept.get('PATH', '')}:/usr/sbin:/sbin"
    plain = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120", "LANG": "C.UTF-8"}
    return {**kept, **plain, "PATH": path, "HOME": str(home)}


def _end(group: int) -> None:
    """End a process group, kindly at first."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, kind)
        if any(_gone(group) for _ in _moments(10.0)):
            return


def _gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def _moments(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(0.05)
