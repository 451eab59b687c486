"""Compile for the guest: against its C library and its Python's headers, with nothing of the host's mixed in."""

from __future__ import annotations

import os
import posixpath
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from hwloop.vm import debian, image, rules, tools
from hwloop.vm.cache import Cache, digest
from hwloop.vm.errors import MissingTool
from hwloop.vm.machine import Arch

AGENT = Path(__file__).parent / "guest" / "agent.c"
_MACHINE = AGENT.with_name("machine.h")

STEP = "unpacking Debian's headers"

_FORMAT = "2"
_NEEDED = re.compile(r"usr/include/|usr/lib64/|usr/lib/ld-|usr/lib/[^/]+/(ld-|[^/]*\.o$|lib[^/]*\.a$|lib[^/]*\.so)")
_FLAGS = ("-O2", "-fwrapv", "-fPIC", "-DNDEBUG")


@dataclass(frozen=True)
class Sysroot:
    """Headers and libraries of the guest, in a folder of the cache."""

    arch: Arch
    folder: Path

    def compile(self, what: str, source: Path, output: Path, flags: Sequence[str]) -> None:
        """Compile one C file. Raises MissingTool, BuildFailed."""
        libraries = self.folder / "usr/lib" / self.arch.triplet
        roots = [f"--sysroot={self.folder}", f"-B{libraries}", f"-L{libraries}"]
        tools.build(what, [self.arch.compiler, *roots, *_FLAGS, *flags, "-o", str(output), str(source)])

    def headers(self, python: str) -> list[str]:
        """Where Python.h is, and the part of it that Debian keeps per processor."""
        return [f"-I{self.folder}/usr/include/python{python}", f"-I{self.folder}/usr/include"]


def obtain(arch: Arch, cache: Cache, *, force: bool = False) -> Sysroot:
    """The sysroot for a processor, built if it is not in the cache: 20 s and a download of 40 MB."""
    key = digest(_FORMAT, debian.SUITE, repr(asdict(arch)), repr(rules.DEVELOPMENT_PACKAGES), _NEEDED.pattern)
    return Sysroot(arch, cache.part("sysroot", key, lambda fresh: _build(arch, fresh, cache), force=force))


def _build(arch: Arch, fresh: Path, cache: Cache) -> None:
    cache.progress(STEP)
    with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".sysroot.") as scratch:
        archive = Path(scratch) / "development.tar"
        debian.unpack(rules.DEVELOPMENT_PACKAGES, arch.debian, archive)
        with tarfile.open(archive) as tar:
            image.take(tar, fresh, lambda name: not _NEEDED.match(name))
    for name in rules.MERGED:
        (fresh / name).symlink_to(f"usr/{name}")
    keep_links_inside(fresh)


def keep_links_inside(root: Path) -> None:
    """Make links relative that begin at `/`: to the linker those lead to this machine's files, or nowhere."""
    for link in [path for path in root.rglob("*") if path.is_symlink()]:
        target = os.readlink(link)
        if target.startswith("/"):
            link.unlink()
            link.symlink_to(os.path.relpath(root / target.lstrip("/"), link.parent))


# --- The guest's first process ----------------------------------------------------------------------------------------


def obtain_agent(sysroot: Sysroot, cache: Cache, *, force: bool = False) -> Path:
    """The compiled `guest/agent.c`, static, so that it needs nothing of the root."""
    key = digest(AGENT.read_bytes(), _MACHINE.read_bytes(), sysroot.folder.name)

    def build(fresh: Path) -> None:
        cache.progress("compiling the guest's first process")
        sysroot.compile("compiling agent.c", AGENT, fresh / "init", ["-Wall", "-static", "-s"])

    return cache.part("agent", key, build, force=force) / "init"


# --- Extensions -------------------------------------------------------------------------------------------------------


def obtain_extension(sysroot: Sysroot, cache: Cache, root: Path, source: str, python: str) -> Path:
    """The extension module of a `.pyx`, a path below the checkout `root`, compiled for the guest's Python.

    Raises MissingTool without Cython, BuildFailed with the compiler's words.
    """
    key = digest(sysroot.folder.name, python, _cython_version(), source, *_sources(root, source))

    def build(fresh: Path) -> None:
        cache.progress(f"compiling {source} for the guest")
        _compile_extension(sysroot, root, source, python, fresh)

    suffix = f"cpython-{python.replace('.', '')}-{sysroot.arch.triplet}.so"
    return cache.part("extension", key, build) / f"{posixpath.basename(source).removesuffix('.pyx')}.{suffix}"


def _compile_extension(sysroot: Sysroot, root: Path, source: str, python: str, fresh: Path) -> None:
    stem = posixpath.basename(source).removesuffix(".pyx")
    suffix = f"cpython-{python.replace('.', '')}-{sysroot.arch.triplet}.so"
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / f"{stem}.c"
        # From the root, so that Cython sees the package and finds its .pxd files.
        translate = ["-m", "cython", "-3", "-w", str(root), "-o", str(made), source]
        tools.build(f"translating {source}", [sys.executable, *translate])
        flags = [*sysroot.headers(python), f"-I{root / posixpath.dirname(source)}", "-shared", "-w"]
        sysroot.compile(f"compiling {source}", made, fresh / f"{stem}.{suffix}", flags)


def _sources(root: Path, source: str) -> Iterable[bytes]:
    """What can change the extension: itself, and every .pxd, included .pxi and header in the folders that have such."""
    folders = sorted({path.parent for deep in ("*/*.pyx", "*/*/*.pyx") for path in root.glob(deep)})
    shared = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in (".pxd", ".pxi", ".h"))
    return [(root / source).read_bytes(), *(path.read_bytes() for path in shared)]


def _cython_version() -> str:
    try:
        return metadata.version("cython")
    except metadata.PackageNotFoundError:
        raise MissingTool("Cython is not installed", remedy=f"run: {sys.executable} -m pip install cython") from None
