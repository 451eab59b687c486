"""No code of ours stores to registers or rings with an idiom that stores twice (see test_access_count.py)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("mmio", "cython_ring", "hwloop")

ALLOWED = {
    ("cython_ring/loopback.py", "_paint"): "fills new memory before there is a ring in it",
}
"""`(file, function)`, and why no device can see the memory meanwhile. An entry that excuses nothing is an error."""

_NAMES = "mmap|mapping|mapped|bar|registers?|region|window"
MAPPED_NAME = re.compile(rf"(^|_)({_NAMES})$")
"""What a variable is called that holds mapped memory; one bound to `mmap.mmap(...)` counts whatever its name."""

CYTHON_IDIOM = re.compile(rf"\bpack_into\b|\b(?:\w*_)?(?:{_NAMES})\[[^\]=]*:[^\]=]*\]\s*=(?!=)")


class Finder(ast.NodeVisitor):
    """Collects `(line, function, what)` for each forbidden idiom of one file."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[int, str, str]] = []
        self.function = "<module>"
        self.mapped = set(mapped_names(tree))
        self.visit(tree)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer, self.function = self.function, node.name
        self.generic_visit(node)
        self.function = outer

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr == "pack_into":
            self.note(node, "pack_into stores zero before the value")
        self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if any(alias.name == "pack_into" for alias in node.names):
            self.note(node, "pack_into stores zero before the value")

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Store) and isinstance(node.slice, ast.Slice) and self.is_mapped(node.value):
            self.note(node, "assigning a slice of mapped memory stores more than once")
        self.generic_visit(node)

    def is_mapped(self, node: ast.expr) -> bool:
        name = last_name(node)
        return name in self.mapped or bool(MAPPED_NAME.search(name)) or is_mapping(node)

    def note(self, node: ast.stmt | ast.expr, what: str) -> None:
        self.found.append((node.lineno, self.function, what))


def last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`, `x` of `x`; empty for what has no name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_mapping(node: ast.AST | None) -> bool:
    """`mmap.mmap(...)`, or a memoryview of one."""
    if not isinstance(node, ast.Call):
        return False
    name = last_name(node.func)
    return name == "mmap" or (name == "memoryview" and any(map(is_mapping, node.args)))


def mapped_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and is_mapping(node.value):
            yield from (last_name(target) for target in node.targets)
        elif isinstance(node, ast.AnnAssign) and is_mapping(node.value):
            yield last_name(node.target)


def python_faults(text: str) -> list[tuple[int, str, str]]:
    return Finder(ast.parse(text)).found


def cython_faults(text: str) -> list[tuple[int, str, str]]:
    code = (line.partition("#")[0] for line in text.splitlines())
    return [(number, "", line.strip()) for number, line in enumerate(code, 1) if CYTHON_IDIOM.search(line)]


def all_faults() -> Iterator[tuple[str, int, str, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py*")):
            if path.suffix in (".py", ".pyx"):
                find = python_faults if path.suffix == ".py" else cython_faults
                for line, function, what in find(path.read_text()):
                    yield path.relative_to(ROOT).as_posix(), line, function, what


def test_no_package_stores_to_mapped_memory_with_an_idiom_that_stores_twice() -> None:
    faults = [
        f"{file}:{line} in {function}: {what}"
        for file, line, function, what in all_faults()
        if (file, function) not in ALLOWED
    ]
    assert not faults, "use mmio's accessors or memoryview.cast:\n" + "\n".join(faults)


def test_every_exception_still_excuses_something() -> None:
    assert set(ALLOWED) <= {(file, function) for file, _, function, _ in all_faults()}


@pytest.mark.parametrize(
    "text",
    [
        "struct.pack_into('<I', m, 0, 1)",
        "from struct import pack_into",
        "put = struct.Struct('<I').pack_into",
        "memory = mmap.mmap(-1, 4096)\nmemory[0:4] = b'abcd'",
        "memory: object = mmap.mmap(-1, 4096)\nmemory[:] = b''",
        "self._m = memoryview(mmap(-1, 4096))\nself._m[0:4] = b'abcd'",
        "self._mapping[0:4] = b'abcd'",
        "device.bar[at:at + 2] += b'ab'",
    ],
)
def test_the_scan_finds(text: str) -> None:
    assert len(python_faults(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "struct.unpack_from('<I', m, 0)",
        "data = mapping[0:4]",
        "mapping[0] = 1",
        "payload = bytearray(8)\npayload[0:4] = b'abcd'",
        "struct.pack('<I', 1)",
    ],
)
def test_the_scan_leaves_alone(text: str) -> None:
    assert python_faults(text) == []


def test_the_scan_names_the_function() -> None:
    assert python_faults("def publish(m):\n    struct.pack_into('<H', m, 2, 1)\n")[0][:2] == (2, "publish")


def test_the_scan_reads_cython_by_line() -> None:
    text = "x = 1\nstruct.pack_into('<H', m, 0, 1)\nself._mapping[a:b] = data\ny = mapping[a:b]\n# pack_into is bad\n"
    assert [line for line, _, _ in cython_faults(text)] == [2, 3]
