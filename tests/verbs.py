"""Every command of `hwloop --help`, and what it does on a disk that QEMU makes: for tests on qtest and in the guest.

What such a disk does not offer is refused with a sentence, and that is what its row says. In words, `{disk}` is the
target, `{folder}` a folder with `image`, 1 MiB of 0x5a, `{rng}` and `{console}` other devices.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from hwloop import schema
from hwloop.cli.main import COMMANDS, main, run

MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """A command line, its exit status, and a pattern in what it prints."""

    line: str
    says: str = ""
    status: int = 0
    more: bool = False
    """Left out where each line takes seconds."""


REFUSED = 2
NOT_EQUAL = 1

VERBS: Mapping[str, tuple[Case, ...]] = {
    "info": (Case("info {disk}", r"(?s)VIRTIO_BLK_F_FLUSH.*capacity"),),
    "features": (
        Case("features {disk}", "VIRTIO_BLK_F_WRITE_ZEROES"),
        Case("features {disk} 0x0", "VIRTIO_BLK_F_FLUSH", NOT_EQUAL, more=True),
    ),
    "caps": (Case("caps {disk}", "COMMON_CFG in BAR 4"),),
    "regs": (Case("regs {disk} --live", "device_status"),),
    "queues": (
        Case("queues {disk}", "the device has used so many"),
        Case("queues {disk} --request flush", "avail.idx", more=True),
    ),
    "doctor": (Case("doctor {disk}", "nothing is wrong"),),
    "read": (Case("read {disk} 0 64 --hexdump", "00000040"),),
    "write": (Case("write {disk} 3 -i {folder}/image"), Case("exec {disk} -c 'read -P 0x5a 3 1M' -c 'read -P 0 0 3'")),
    "copy": (
        Case("copy {folder}/image {disk} --verify", "verified"),
        Case("copy {disk} {folder}/back --length 1M"),
        Case("compare {folder}/image {folder}/back --strict"),
    ),
    "compare": (
        Case("copy {folder}/image {disk}"),
        Case("compare {folder}/image {disk} --length 1M", ""),
        Case("exec {disk} -c 'write -P 7 4k 1'", more=True),
        Case("compare {folder}/image {disk} --length 1M", "4096", NOT_EQUAL, more=True),
    ),
    "verify": (
        Case("verify {disk} 0 256k --pattern stamp:3 --write"),
        Case("verify {disk} 0 256k --pattern stamp:3"),
        Case(
            "verify {disk} 0 256k --pattern stamp:4",
            "byte 14 .*holds what belongs at sector 0, with seed 3",
            NOT_EQUAL,
            more=True,
        ),
    ),
    "exec": (
        Case(
            "exec {disk} -c 'write -P 0xaa 512 4k' -c flush -c 'read -P 0xaa 512 4k'",
            "read 4096/4096 bytes at offset 512",
        ),
        Case("exec {disk} -c 'read -P 1 512 4k'", "", NOT_EQUAL, more=True),
    ),
    "flush": (Case("flush {disk}"),),
    "zero": (
        Case("exec {disk} -c 'write -P 5 0 1M'"),
        Case("zero {disk} 1000 100k", "zeroing"),
        Case("exec {disk} -c 'read -P 0 1000 100k' -c 'read -P 5 0 1000'"),
    ),
    "discard": (Case("discard {disk} 0 64k", "discarding"), Case("discard {disk} 1 1", "block", REFUSED, more=True)),
    "secure-erase": (
        Case("secure-erase {disk} 0 64k", "nothing was opened", 3),
        Case("secure-erase {disk} 0 64k --yes-destroy-data", "VIRTIO_BLK_F_SECURE_ERASE", REFUSED),
    ),
    "id": (Case("id {disk}", "HWLOOP0"),),
    "cache": (Case("cache {disk}", "writeback"), Case("cache {disk} writethrough", "^writethrough")),
    "lifetime": (Case("lifetime {disk}", "VIRTIO_BLK_F_LIFETIME", REFUSED),),
    "zones": (Case("zones {disk}", "VIRTIO_BLK_F_ZONED", REFUSED),),
    "bench": (
        Case("bench {disk} --requests 50 --warm-up 0", "IOPS"),
        Case("bench {disk} --rw write", "", 3, more=True),
    ),
    "serve": (Case("serve nbd {disk} --socket {folder}/socket", "serving"),),
    "trace": (
        Case("read {disk} 0 512 -o {folder}/sector --trace {folder}/trace"),
        Case("trace show {folder}/trace --kind ring", "is read at sector 0"),
        Case("trace export {folder}/trace -o {folder}/trace.json"),
    ),
    "rng": (
        Case("rng {rng} 1k -o {folder}/random"),
        Case("rng {disk} 1k", "is a virtio-blk disk, not an entropy device", REFUSED, more=True),
    ),
    "console": (
        Case("console {console} --send hello --expect nobody --timeout 0.5", "nobody", 5),
        Case("console {disk} --list-ports", "is a virtio-blk disk, not a console", REFUSED, more=True),
    ),
    "testdev": (Case("testdev {folder}/socket fake:1M --seconds 0", "listening"),),
    "completion": (Case("completion bash", "complete"), Case("completion tcsh", "tcsh", REFUSED)),
    "man": (Case("man copy", r"\.TH"),),
    "schema": (Case("schema read", "there is no schema", REFUSED), Case("schema info", "target")),
}
"""Those that depend on where they run are not here: list, bind, unbind, restore, vm."""


def check_complete(more: Mapping[str, object]) -> None:
    """Assert that there is a row for each command of the help."""
    assert {*VERBS, *more} == set(COMMANDS)


def run_all(
    cases: tuple[Case, ...], values: Mapping[str, str], capfd: pytest.CaptureFixture[str], *, more: bool
) -> None:
    """Run the lines of a verb. `more`: all of them, and those that succeed again with --json, against their schema."""
    for case in (case for case in cases if more or not case.more):
        words = shlex.split(case.line.format(**values))
        status, said = _served(words) if words[0] == "serve" else _called(words, capfd)
        assert (status, bool(re.search(case.says, said, re.MULTILINE))) == (case.status, True), f"{words}: {said}"
        assert "Traceback" not in said
        if more and not case.status and _has_json(words):
            # Not in the guest, which has no such library.
            from jsonschema import Draft202012Validator

            assert run([*words, "--json"]) == 0
            Draft202012Validator(schema.load(words[0])).validate(json.loads(capfd.readouterr().out))


def _called(words: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = run(words)
    return status, "".join(capfd.readouterr())


def _served(words: list[str]) -> tuple[int, str]:
    """A command that goes on until Ctrl-C."""
    command = [sys.executable, "-m", "hwloop", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[0]
        return process.returncode, said


def _has_json(words: list[str]) -> bool:
    command = main.get_command(click.Context(main), words[0])
    return command is not None and any(parameter.name == "as_json" for parameter in command.params)


def make_image(folder: Path) -> None:
    """What `{folder}/image` is."""
    (folder / "image").write_bytes(b"\x5a" * MIB)
