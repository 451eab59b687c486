"""The staircase of imports (docs/architecture.md): a module imports what stands below it, and nothing above.

Every .py, .pyx and .pxd of the packages is parsed, imports inside functions included: a late import is a way to break
a cycle at run time, and no reason for a lower part to know a higher one. Imports under `if TYPE_CHECKING:` count too,
with one exception: they may go sideways from one leaf to another, since they load nothing.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAVES = ("cython_ring", "mmio", "pci", "udev")

# The longest prefix of a module's name counts.
STEPS = {
    "cython_ring": 0,
    "pci": 0,
    "mmio": 0,
    "udev": 0,
    "hwloop.errors": 0,
    "hwloop.spec": 0,
    "hwloop.registry": 1,
    "hwloop.deadline": 1,
    "hwloop.config": 1,
    "hwloop.size": 1,
    "hwloop.hexdump": 1,
    "hwloop.owner": 1,
    "hwloop.forked": 1,
    "hwloop.signals": 1,
    "hwloop.socket_place": 1,
    "hwloop.hal": 2,
    "hwloop.qtest": 2,
    "hwloop.vhost": 2,
    "hwloop.transport": 3,
    "hwloop.vhost.fake_backend": 3,
    "hwloop.waiting": 4,
    "hwloop.queue": 4,
    "hwloop.queue_areas": 4,
    "hwloop.queue_options": 4,
    "hwloop.owning_queue": 4,
    "hwloop.filter": 4,
    "hwloop.device": 5,
    "hwloop.session": 6,
    "hwloop.removal": 6,
    "hwloop.aio": 6,
    "hwloop.aio_queue": 6,
    "hwloop.door": 6,
    "hwloop.claim": 6,
    "hwloop.guardian": 6,
    "hwloop.lock": 6,
    "hwloop.journal": 6,
    "hwloop.target": 6,
    "hwloop.inventory": 6,
    "hwloop.inventory_mmio": 6,
    "hwloop.probe": 6,
    "hwloop.describe": 6,
    "hwloop.doctor": 6,
    "hwloop.testdev": 6,
    "hwloop.describe_pci": 6,
    "hwloop.feature_text": 1,
    "hwloop.script": 6,
    "hwloop.schema": 6,
    "hwloop.bench": 6,
    "hwloop.transfer": 6,
    "hwloop.nbd": 6,
    "hwloop.cli": 7,
    "hwloop.pytest_plugin": 7,
    "hwloop.pytest_disk": 7,
    "hwloop.pytest_trace": 7,
    "hwloop.vm": 7,
    "hwloop.__main__": 7,
}
# The front door re-exports from every step, and is imported by nobody inside.
FRONT_DOOR = "hwloop"


@dataclass(frozen=True)
class Import:
    """`module` as it is written, made absolute; `typing_only` under `if TYPE_CHECKING:`."""

    importer: str
    module: str
    line: int
    typing_only: bool = False


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path = ROOT) -> Iterator[Path]:
    for package in (*LEAVES, "hwloop"):
        yield from sorted(path for path in (root / package).rglob("*") if path.suffix in (".py", ".pyx", ".pxd"))


# --- Python -----------------------------------------------------------------------------------------------------------


def imports_of_python(importer: str, text: str) -> Iterator[Import]:
    tree = ast.parse(text)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, node.lineno, id(node) in typing_only)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}:{node.lineno}: relative import; the path is the import"
            for alias in node.names:
                yield Import(importer, f"{node.module}.{alias.name}", node.lineno, id(node) in typing_only)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from _dynamic_import(importer, node)


def _dynamic_import(importer: str, call: ast.Call) -> Iterator[Import]:
    """`import_module("x.y")`; a name that is computed is a registry's, and those are looked at below."""
    argument = call.args[0]
    if isinstance(argument, ast.Constant):
        yield Import(importer, str(argument.value), call.lineno)


# --- Cython -----------------------------------------------------------------------------------------------------------

_FROM = re.compile(r"^\s*from\s+([\w.]+)\s+c?import\s+\(?([^#]*)")
_PLAIN = re.compile(r"^\s*c?import\s+([\w., ]+)")


def imports_of_cython(importer: str, text: str) -> Iterator[Import]:
    for number, line in enumerate(text.splitlines(), 1):
        found = _FROM.match(line)
        if found:
            yield Import(importer, found[1], number)
            continue
        plain = _PLAIN.match(line)
        for name in plain[1].split(",") if plain else ():
            yield Import(importer, name.split(" as ")[0].strip(), number)


def all_imports(root: Path = ROOT) -> Iterator[Import]:
    for path in sources(root):
        parse = imports_of_python if path.suffix == ".py" else imports_of_cython
        yield from parse(module_name(path, root), path.read_text(encoding="utf-8"))


# --- The rule ---------------------------------------------------------------------------------------------------------


def is_ours(module: str) -> bool:
    return module.split(".")[0] in (*LEAVES, "hwloop")


def step_of(module: str) -> int | None:
    """None for a module that nobody gave a step."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        step = STEPS.get(".".join(parts[:length]))
        if step is not None:
            return step
    return None


def complaint(found: Import) -> str:
    """What is wrong with an import, or ""."""
    if not is_ours(found.module):
        return ""
    if found.importer == FRONT_DOOR:
        return ""
    where = f"{found.importer}:{found.line} imports {found.module}"
    mine, theirs = step_of(found.importer), step_of(found.module)
    if mine is None:
        return f"{found.importer} has no step; give it one in STEPS"
    if theirs is None:
        return f"{where}, which has no step"
    if theirs > mine:
        return f"{where}: step {mine} must not know step {theirs}"
    package = found.importer.split(".")[0]
    if package in LEAVES and found.module.split(".")[0] != package and not found.typing_only:
        return f"{where}: a leaf imports nothing of ours"
    return ""


def test_no_import_goes_up_the_stairs() -> None:
    assert [text for found in all_imports() if (text := complaint(found))] == []


def test_every_module_has_a_step() -> None:
    names = {module_name(path) for path in sources()} - {FRONT_DOOR}
    assert sorted(name for name in names if step_of(name) is None) == []


def test_no_step_is_left_over() -> None:
    names = {module_name(path) for path in sources()}
    assert sorted(set(STEPS) - names) == []


@pytest.mark.parametrize(
    ("importer", "text", "wrong"),
    [
        ("hwloop.hal.vfio", "from hwloop.transport.base import Transport", True),
        ("hwloop.hal.vfio", "def f():\n    from hwloop import session", True),
        ("hwloop.hal.vfio", "if TYPE_CHECKING:\n    from hwloop.device import Device", True),
        ("hwloop.hal.vfio", "import mmio", False),
        ("hwloop.queue", "from cython_ring import SplitRing", False),
        ("pci.bar", "import mmio", True),
        ("pci.bar", "from hwloop.errors import HwloopError", True),
        ("pci.bar", "if TYPE_CHECKING:\n    from mmio import Region", False),
        ("pci.bar", "import importlib\nimportlib.import_module('hwloop.spec')", True),
        ("hwloop.new_module", "import hwloop.errors", True),
    ],
)
def test_the_rule_finds_what_it_is_for(importer: str, text: str, wrong: bool) -> None:
    assert any(complaint(found) for found in imports_of_python(importer, text)) is wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("from hwloop.spec cimport PAGE", True),
        ("cimport hwloop.spec", True),
        ("from cython_ring.memory cimport (\n    ring_load16,\n)", False),
        ("    from mmio._access cimport store32", True),
        ("from libc.stdint cimport uint16_t", False),
    ],
)
def test_the_rule_reads_cimports(text: str, wrong: bool) -> None:
    assert any(complaint(found) for found in imports_of_cython("cython_ring.split", text)) is wrong


def test_nothing_imports_the_front_door() -> None:
    """`import hwloop` inside would bind names lazily from above."""
    assert [found for found in all_imports() if found.module == FRONT_DOOR and found.importer != FRONT_DOOR] == []


# --- Tables that name modules in strings ------------------------------------------------------------------------------


def _tables() -> list[tuple[str, str]]:
    from hwloop.cli.main import COMMANDS
    from hwloop.device import DRIVERS
    from hwloop.hal import HALS
    from hwloop.transport import TRANSPORTS

    registries = {
        "hwloop.device": DRIVERS._members,
        "hwloop.hal": HALS._members,
        "hwloop.transport": TRANSPORTS._members,
    }
    entries = [(home, target) for home, members in registries.items() for target in members.values()]
    return entries + [("hwloop.cli", f"{module}:{attribute}") for module, attribute, _ in COMMANDS.values()]


@pytest.mark.parametrize(("home", "target"), _tables())
def test_each_entry_of_a_table_can_be_imported_and_is_in_its_folder(home: str, target: str) -> None:
    from importlib import import_module

    module, _, attribute = target.partition(":")
    assert module.startswith(f"{home}.")
    assert getattr(import_module(module), attribute) is not None


def test_each_name_of_the_front_door_is_there() -> None:
    import hwloop

    for name in hwloop.__all__:
        assert getattr(hwloop, name) is not None
    assert sorted(hwloop._HOMES) == sorted(hwloop.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hwloop.nonsense  # noqa: B018


# --- What an import costs ---------------------------------------------------------------------------------------------

HEAVY = ("rich", "click", "pyudev", "periphery")


def _loaded_by(statement: str) -> set[str]:
    """The modules that are loaded after a statement in a fresh interpreter."""
    script = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(result.stdout.splitlines())


@pytest.mark.parametrize(
    "statement",
    ["import hwloop", "import hwloop; hwloop.VirtioBlk; hwloop.DeviceType", "import hwloop; hwloop.open"],
)
def test_using_the_library_loads_nothing_of_the_command_line(statement: str) -> None:
    loaded = _loaded_by(statement)
    assert loaded.isdisjoint({"rich", "click", "pyudev"})
    assert not any(name.startswith("hwloop.cli") for name in loaded)


def test_import_hwloop_loads_no_module_of_ours_but_itself() -> None:
    assert {name for name in _loaded_by("import hwloop") if is_ours(name)} == {"hwloop"}


# --- A leaf knows its own field only ----------------------------------------------------------------------------------

VIRTIO_WORDS = re.compile(r"virtio|\bvirt_?queue|\bvring|\bnegotiat|hwloop|\bblk\b|\bnotify_off", re.IGNORECASE)

# (file, the word as found, why it may stand there)
ALLOWED = {
    ("cython_ring", "virtio", "it is the specification that the ring formats are of, cited by section"),
    ("cython_ring", "virtqueue", "what the ring is part of, and the seeds' text of an error"),
    ("cython_ring", "vring", "the names of the same things in Linux, which people search for"),
    ("cython_ring", "negotiat", "EVENT_IDX and ORDER_PLATFORM change the format; the caller says whether they were"),
}


@pytest.mark.parametrize("leaf", ["pci", "mmio", "cython_ring"])
def test_a_leaf_says_nothing_of_virtio(leaf: str) -> None:
    allowed = {word for name, word, _ in ALLOWED if name == leaf}
    found = []
    for path in sorted((ROOT / leaf).rglob("*")):
        if path.suffix not in (".py", ".pyx", ".pxd", ".pyi"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            words = {match.group().lower().replace("_", "") for match in VIRTIO_WORDS.finditer(line)}
            found += [f"{path.relative_to(ROOT)}:{number}: {word}" for word in words - allowed]
    assert found == []


def test_pack_into_is_nowhere_near_registers_and_rings() -> None:
    """It stores zero first: on a status register that is a reset (design rule: one access, one bus access)."""
    found = []
    for path in sources():
        if path.suffix != ".py":
            continue
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        found += [f"{module_name(path)}:{token.start[0]}" for token in tokens if token.string == "pack_into"]
    assert found == []
