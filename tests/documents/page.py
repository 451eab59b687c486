"""Runs the blocks of a page, one after the other, in a folder that looks like a checkout."""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import re
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from tests.documents.block import ROOT, Block
from tests.documents.compare import difference
from tests.documents.shell import Command, Result, Shell, transcript

_AS_IN_A_CHECKOUT = ("README.md", "examples", "hwloop", "docs")


class Wrong(AssertionError):
    """A block does not do what the page says."""


class Runner:
    """The blocks of a page share a folder, and those in Python their names."""

    def __init__(self, folder: Path, shell: Shell) -> None:
        self._folder = folder
        self._shell = shell
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._printed = ""

    def run(self, blocks: Sequence[Block], wanted: Collection[str]) -> int:
        """How many were run. Raises Wrong."""
        chosen = [block for block in blocks if block.how in wanted]
        for block in chosen:
            if block.file:
                (self._folder / block.file).write_text(block.text, encoding="utf-8")
            if not (block.file and block.language in ("python", "sh", "text")):
                _RUNNERS[block.language](self, block)
        return len(chosen)

    def console(self, block: Block) -> None:
        commands = transcript(block.text, "$")
        check(block, commands, self._shell.run(commands))

    def sh(self, block: Block) -> None:
        commands = [Command(f"(set -e\n{block.text})")]
        results = self._shell.run(commands)
        check(block, commands, results)
        self._printed = results[0].output

    def python(self, block: Block) -> None:
        printed = io.StringIO()
        code = compile("\n" * block.line + block.text, block.page, "exec", dont_inherit=True)
        try:
            with contextlib.redirect_stdout(printed), contextlib.chdir(self._folder):
                exec(code, self._names)  # noqa: S102
        except Exception as error:
            raise Wrong(f"{block}: {''.join(traceback.format_exception(error)[2:])}") from error
        self._printed = printed.getvalue()

    def text(self, block: Block) -> None:
        if found := difference(block.text, self._printed, figures_vary=block.figures_vary):
            raise Wrong(f"{block}: this is not what was printed\n{found}")

    def json(self, block: Block) -> None:
        _read(block, json.loads)

    def yaml(self, block: Block) -> None:
        import yaml

        _read(block, yaml.safe_load)

    def ini(self, block: Block) -> None:
        _read(block, configparser.ConfigParser().read_string)


_RUNNERS: dict[str, Callable[[Runner, Block], None]] = {
    "console": Runner.console,
    "sh": Runner.sh,
    "python": Runner.python,
    "text": Runner.text,
    "json": Runner.json,
    "yaml": Runner.yaml,
    "ini": Runner.ini,
}


def run_page(blocks: Sequence[Block], folder: Path, wanted: Collection[str]) -> int:
    """Run those blocks of a page whose `how` is wanted; how many that were. Raises Wrong."""
    place = folder / "page"
    place.mkdir()
    for name in _AS_IN_A_CHECKOUT:
        (place / name).symlink_to(ROOT / name)
    (place / ".venv").symlink_to(sys.prefix)
    with Shell(place, folder / "jobs") as shell:
        return Runner(place, shell).run(blocks, wanted)


def check(block: Block, commands: Sequence[Command], results: Sequence[Result]) -> None:
    """Raises Wrong where a command did not print what the page says, or failed and the page does not tell."""
    for number, (command, result) in enumerate(zip(commands, results, strict=False)):
        following = commands[number + 1].text if number + 1 < len(commands) else ""
        if result.status != 0 and not (result.status and _is_told(command, following)):
            raise Wrong(f"{block}: {command.text}: {_ending(result)}")
        if command.output is None:
            continue
        if found := difference(command.output, result.output, figures_vary=block.figures_vary):
            raise Wrong(f"{block}: {command.text}\n{found}")


def _is_told(command: Command, following: str) -> bool:
    """Does the page say that it fails? By an error of ours, or by the status, which it asks for."""
    return following == "echo $?" or bool(re.search("^hwloop: ", command.output or "", re.MULTILINE))


def commands_for_guest(blocks: Sequence[Block], page: str) -> list[tuple[Block, Command]]:
    """What to run in a guest for the blocks of a page, in a folder of its own and with a disk of zeros."""
    place = f"/tmp/{page.replace('/', '-')}"
    zeros = "dd if=/dev/zero of=/dev/vda bs=1M count=64 conv=fsync status=none"
    found = [(blocks[0], Command(f"{zeros} && mkdir {place} && cd {place}"))]
    for block in blocks:
        if block.language == "console":
            found += [(block, command) for command in transcript(block.text, "#")]
        elif block.language == "python":
            found.append((block, Command(f"python3 - <<'END OF BLOCK'\n{block.text}END OF BLOCK")))
        elif block.language == "sh":
            found.append((block, Command(f"(set -e\n{block.text})")))
        elif block.language == "text":
            found[-1] = (block, Command(found[-1][1].text, block.text))
    return found


def _ending(result: Result) -> str:
    what = "did not end" if result.status is None else f"ended with status {result.status}"
    return f"{what}, and printed:\n{result.output}"


def _read(block: Block, read: Callable[[str], object]) -> None:
    try:
        read(block.text)
    except Exception as error:
        raise Wrong(f"{block}: this is no {block.language}: {error}") from error
