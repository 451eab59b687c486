"""docs/reference/python.md: the public names, each with its signature and docstring."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import hwloop

_HEAD = """# Python

Made from the code by `make docs`: signatures and docstrings, which `help()` shows too. Errors are `OSError`s; which of
them a call raises is in its text. Examples: [disk.md](../disk.md), [asyncio.md](../asyncio.md).
"""

SECTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "Opening a device": {"hwloop": ("open", "aopen", "probe", "Target"), "hwloop.session": ("find", "open_place")},
    "Disks": {
        "hwloop": (
            *("VirtioBlk", "AsyncDisk", "BlkLimits", "CacheMode", "Lifetime", "Zone", "ZoneState", "ZoneType"),
            *("ZonedModel", "SvirtbBlk", "BlockDriverOps"),
        )
    },
    "Many requests, in place": {
        "hwloop.device.blk_queue": ("BlkQueue", "Batch", "Completions"),
        "cython_ring": ("DmaBuffer",),
    },
    "Consoles and entropy": {"hwloop": ("VirtioConsole", "VirtioRng")},
    "Errors": {"hwloop.errors": ()},
    "What every driver has, and what is below it": {
        "hwloop": (
            *("Device", "BaseDriverOps", "VirtQueue", "OwningQueue", "Transport", "SomeTransport", "Hal", "Dma"),
            *("BufferDirection", "DeviceStatus", "InterruptStatus", "DeviceType", "PhysAddr", "PAGE_SIZE"),
        )
    },
    "A test device": {"hwloop.testdev": ("start", "RunningDevice")},
    "A server for other programs": {"hwloop.nbd.server": ("NbdServer",), "hwloop.nbd.export": ("Export",)},
    "The test VM": {"hwloop.vm": ("run", "Result", "build")},
}
"""Sections, the modules of each, and the names to show; none: every class that the module defines."""
ALIASES = {"VirtIoBlkDev": "VirtioBlk", "VirtIOConsole": "VirtioConsole"}
"""Other names for the same, in the words of other projects."""


def page() -> str:
    """The whole page."""
    aliases = ", ".join(f"`{alias}` is `{name}`" for alias, name in ALIASES.items())
    return "\n".join([_HEAD, *_sections(), f"Two names more: {aliases}.\n"])


def published() -> dict[str, Any]:
    """Every name that is shown, with where it is imported from: `hwloop.open`."""
    return {f"{module}.{name}": value for _, module, name, value in _published()}


def _published() -> Iterator[tuple[str, str, str, Any]]:
    for title, modules in SECTIONS.items():
        for module, names in modules.items():
            home = import_module(module)
            for name in names or _classes(module):
                yield title, module, name, getattr(home, name)


def _sections() -> Iterator[str]:
    last = ""
    for title, module, name, value in _published():
        if title != last:
            yield f"## {title}\n"
        last = title
        yield from _one(f"{module}.{name}", value)


def _one(path: str, value: Any) -> Iterator[str]:
    name = path.rpartition(".")[2]
    if inspect.isclass(value):
        yield from _class(path, value)
    elif callable(value) and not hasattr(value, "__supertype__"):
        yield f"### {name}\n"
        yield f"`{path}{_signature(_node(value.__module__, name))}`\n"
        yield _text(value.__doc__)
    else:
        kind = getattr(value, "__supertype__", None)
        yield f"### {name}\n\n`{path}`: {f'an `{kind.__name__}` of its own type' if kind else f'`{value}`'}.\n"


def _class(path: str, kind: type) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    node = _node(kind.__module__, kind.__name__)
    bases = [base for base in kind.__mro__[1:] if base in _shown()]
    above = f", a {', '.join(f'`{base.__name__}`' for base in bases)}" if bases else ""
    yield f"`class {path}{_constructor(kind, node)}`{above}\n"
    yield _text(kind.__doc__)
    if issubclass(kind, Enum):
        yield "One of: " + ", ".join(f"`{one.name}` = `{one.value!r}`" for one in kind) + ".\n"
    yield from _fields(node)
    yield from _documented(kind)


@cache
def _shown() -> frozenset[type]:
    return frozenset(value for value in published().values() if inspect.isclass(value))


def _constructor(kind: type, node: ast.ClassDef) -> str:
    """How one is made; "" for what callers do not make."""
    made = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    return _signature(made[0]).partition(" -> ")[0] if made and not issubclass(kind, OSError) else ""


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """The annotated names of a class, with the docstring below each."""
    found = []
    for number, one in enumerate(node.body):
        if not isinstance(one, ast.AnnAssign) or not isinstance(one.target, ast.Name) or one.target.id[0] == "_":
            continue
        after = node.body[number + 1] if number + 1 < len(node.body) else None
        text = _docstring(after)
        found.append(f"- `{ast.unparse(one)}`" + (f": {_inline(text)}" if text else ""))
    yield from [*found, ""] if found else ()


def _docstring(node: ast.stmt | None) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _members(kind: type) -> Iterator[tuple[str, type]]:
    """The public methods and properties, with the class that has them, but for those of another class that is shown."""
    above = [base for base in kind.__mro__[1:] if base in _shown()]
    seen: set[str] = set()
    for home in kind.__mro__:
        if home.__module__.partition(".")[0] not in ("hwloop", "cython_ring"):
            continue
        for name, value in vars(home).items():
            again = any(name in dir(base) for base in above) and not (home is kind and value.__doc__)
            if name[0] != "_" and name not in seen and not again and _member_node(home, name) is not None:
                seen.add(name)
                yield name, home


def documentation(kind: type, name: str) -> str:
    """What a member says of itself, or what it overrides says."""
    texts = (getattr(vars(base).get(name), "__doc__", None) for base in kind.__mro__)
    return next((text for text in texts if text), "")


def _documented(kind: type) -> Iterator[str]:
    silent = []
    for name, home in _members(kind):
        node = _member_node(home, name)
        assert node is not None, "_members asked"
        text = documentation(kind, name)
        if text:
            yield f"**`{_heading(node)}`**\n"
            yield _text(text)
        else:
            silent.append(f"`{_heading(node)}`")
    if silent:
        yield f"And {', '.join(silent)}.\n"


def _heading(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if "property" in {ast.unparse(one) for one in node.decorator_list}:
        return f"{node.name}: {ast.unparse(node.returns)}" if node.returns else node.name
    before = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{before}{node.name}{_signature(node)}"


def _member_node(home: type, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    body = _node(home.__module__, home.__name__).body
    return next(
        (one for one in body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)) and one.name == name), None
    )


# --- Private: source --------------------------------------------------------------------------------------------------


@cache
def _tree(module: str) -> ast.Module:
    """The source of a module, or the .pyi of one in Cython."""
    file = Path(str(import_module(module).__file__))
    stub = file.with_name(f"{file.name.partition('.')[0]}.pyi")
    return ast.parse((stub if stub.exists() else file).read_text(encoding="utf-8"))


def _node(module: str, name: str) -> Any:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return next(one for one in _tree(module).body if isinstance(one, kinds) and one.name == name)


def _classes(module: str) -> list[str]:
    return [one.name for one in _tree(module).body if isinstance(one, ast.ClassDef) and one.name[0] != "_"]


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """`(offset: int, length: int) -> bytes`."""
    arguments = ast.unparse(node.args)
    bound = re.sub(r"^(self|cls)(, /)?(, |$)", "", arguments)
    return f"({bound})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def _text(docstring: str | None) -> str:
    """A docstring as Markdown: an example that is indented becomes a block."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
        if paragraph.startswith("    "):
            lines.append(f"<!-- no code -->\n```text\n{inspect.cleandoc(paragraph)}\n```\n")
        elif paragraph:
            lines.append(f"{_inline(paragraph)}\n")
    return "\n".join(lines)


def _inline(text: str) -> str:
    """Everything outside `code` is text."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*<\[|])", r"\\\1", part) for part in parts)


assert set(ALIASES) <= set(hwloop.__all__)
