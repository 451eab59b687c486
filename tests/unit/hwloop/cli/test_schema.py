"""What `--json` prints keeps to the published schemas: today's output, and what older versions printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from jsonschema import Draft202012Validator

from hwloop import schema
from hwloop.cli.main import COMMANDS, main, run
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

OLD = Path(__file__).parent / "outputs"
BYTES_OR_TEXT = {"read", "trace", "rng", "console", "vm", "testdev", "serve", "completion", "man", "schema"}
"""Commands whose output is something else than a report."""


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    return new_machine()


def validate(name: str, content: Any) -> None:
    Draft202012Validator(schema.load(name)).validate(content)


@pytest.mark.parametrize("name", schema.names())
def test_each_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(schema.load(name))
    assert schema.load(name)["properties"]["schema"] == {"const": 1}


@pytest.mark.parametrize("path", sorted(OLD.glob("*.json")), ids=lambda path: path.stem)
def test_what_older_versions_printed_is_still_valid(path: Path) -> None:
    """NAME@VERSION.json: a consumer that was written for it must not break. Add files here; never change one."""
    validate(path.stem.partition("@")[0], json.loads(path.read_text()))


@pytest.mark.parametrize("name", schema.names())
def test_every_schema_has_an_old_output(name: str) -> None:
    assert list(OLD.glob(f"{name}@*.json"))


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - BYTES_OR_TEXT))
def test_every_command_that_reports_has_json_and_a_schema(name: str) -> None:
    assert name in schema.names()
    with click.Context(main) as context:
        found = main.get_command(context, name)
    assert found is not None
    assert any("--json" in parameter.opts for parameter in found.params)


FAKE = "fake:1M?write-cache=writeback&lifetime=1,2,3&write-zeroes=on&discard=on&secure-erase=on"
"""A disk that can do everything but zones."""

OUTPUTS: dict[str, Callable[[str], list[str]]] = {
    "list": lambda path: ["list"],
    "info": lambda path: ["info", DISK],
    "id": lambda path: ["id", DISK],
    "flush": lambda path: ["flush", DISK],
    "write": lambda path: ["write", DISK, "0", "-i", path],
    "copy": lambda path: ["copy", path, DISK, "--verify"],
    "compare": lambda path: ["compare", path, DISK],
    "verify": lambda path: ["verify", DISK, "--pattern", "0"],
    "features": lambda path: ["features", DISK],
    "features-difference": lambda path: ["features", DISK, DISK],
    "caps": lambda path: ["caps", DISK],
    "regs": lambda path: ["regs", DISK, "--live"],
    "queues": lambda path: ["queues", DISK],
    "exec": lambda path: ["exec", DISK, "-c", "read 0 512", "-c", "info"],
    "doctor": lambda path: ["doctor", "fake:1M"],
    "bench": lambda path: ["bench", DISK, "--requests", "100", "--warm-up", "0"],
    "bind": lambda path: ["bind", DISK, "--driver", "vfio-pci"],
    "unbind": lambda path: ["unbind", DISK],
    "restore": lambda path: ["restore", DISK],
    "cache": lambda path: ["cache", FAKE, "writethrough"],
    "lifetime": lambda path: ["lifetime", FAKE],
    "zones": lambda path: ["zones", "fake:1M?zoned=host-managed&zone-size=256k"],
    "zero": lambda path: ["zero", FAKE, "0", "4k"],
    "discard": lambda path: ["discard", FAKE, "--all"],
    "secure-erase": lambda path: ["secure-erase", FAKE, "--all", "--yes-destroy-data"],
}


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_todays_output_is_valid(machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"x" * 1024)
    assert run([*OUTPUTS[name](str(path)), "--json"]) in (0, 1)
    validate(name, json.loads(capfd.readouterr().out))


def test_every_schema_is_tried() -> None:
    assert set(schema.names()) == set(OUTPUTS)


def test_schemas_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    assert capfd.readouterr().out.split() == schema.names()
    assert run(["schema", "copy"]) == 0
    assert json.loads(capfd.readouterr().out) == schema.load("copy")
    assert run(["schema", "nonsense"]) == 2
    assert "there is no schema 'nonsense'; there is: bench, " in capfd.readouterr().err
