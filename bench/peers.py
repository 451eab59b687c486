"""The programs that are measured against, and the null device: built or unpacked once, and kept in the cache.

libblkio is Debian 13's, as is fio: Debian 12 has no libblkio. Nothing of them is installed: they are unpacked into a
folder, and run with the C library that they were built for.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from pathlib import Path

from hwloop.vm import cpio, debian, image, tools
from hwloop.vm.cache import Cache, digest

SUITE = "trixie"
PACKAGES = ("libblkio1", "libblkio-dev", "fio")
PLACE = "opt/peers"
"""Where they are in a guest, without the leading slash."""

_HERE = Path(__file__).parent
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
_NEEDED = re.compile(rf"usr/bin/fio$|usr/include/blkio\.h$|{_LIBRARIES}/([^/]*|ceph/.*)\.so[^/]*$|{_LOADER}")
_FORMAT = "1"


def nulldev() -> Path:
    """The null device's program."""
    return _compiled("nulldev", [])


def libblkio(folder: Path | None = None) -> list[str]:
    """The words that bench/peer_libblkio.c is run with, before its own; `folder` has what it needs."""
    root = folder or unpacked()
    return [*_started_in(root), str(_peer(unpacked()))]


def unpacked() -> Path:
    """A folder with the libraries and programs of `PACKAGES`, and of what they need."""
    key = digest(_FORMAT, SUITE, repr(PACKAGES), _NEEDED.pattern)
    return Cache(progress=_say).part("peers", key, _unpack)


def guest_layer() -> Path:
    """An archive for a guest, with the programs in `PLACE`: run there by `in_guest`."""
    root = unpacked()
    programs = {"fio": root / "usr/bin/fio", "peer_libblkio": _peer(root)}

    def build(fresh: Path) -> None:
        with (fresh / "peers.cpio").open("wb") as out, cpio.Writer(out) as writer:
            for name in ("opt", PLACE, f"{PLACE}/bin", f"{PLACE}/lib"):
                writer.directory(name)
            for name, path in programs.items():
                writer.copy(f"{PLACE}/bin/{name}", path, 0o755)
            for path in _libraries_of(root, list(programs.values())):
                writer.copy(f"{PLACE}/lib/{path.name}", path, 0o755)

    key = digest(_FORMAT, root.name, programs["peer_libblkio"].parent.name)
    return Cache(progress=_say).part("peers-layer", key, build) / "peers.cpio"


def in_guest(program: str) -> list[str]:
    """The words that a program of the layer is run with, before its own."""
    folder = f"/{PLACE}"
    return [f"{folder}/lib/{Path(_LOADER).name}", "--library-path", f"{folder}/lib", f"{folder}/bin/{program}"]


# --- Private ----------------------------------------------------------------------------------------------------------


def _started_in(root: Path) -> list[str]:
    """The loader of the unpacked C library, and where the libraries are."""
    folders = f"{root / _LIBRARIES}:{root / _LIBRARIES / 'ceph'}"
    return [str(root / _LOADER), "--library-path", folders]


def _unpack(fresh: Path) -> None:
    _say(f"unpacking {', '.join(PACKAGES)} of Debian's {SUITE}, once")
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "peers.tar"
        debian.unpack(PACKAGES, "amd64", archive, SUITE)
        with tarfile.open(archive) as tar:
            image.take(tar, fresh, lambda name: not name.endswith("/") and not _NEEDED.match(name))


def _peer(root: Path) -> Path:
    return _compiled(
        "peer_libblkio",
        [f"-I{root / 'usr/include'}", f"-L{root / _LIBRARIES}", "-lblkio", "-lpthread", "-Wl,--allow-shlib-undefined"],
    )


def _compiled(name: str, flags: list[str]) -> Path:
    source = _HERE / f"{name}.c"

    def build(fresh: Path) -> None:
        command = ["gcc", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-o", str(fresh / name), str(source), *flags]
        tools.build(f"compiling {source.name}", command)

    cache = Cache()
    part = cache.part(name, digest(_FORMAT, source.read_bytes(), *flags), build)
    cache.trim(name, 4)
    return part / name


def _libraries_of(root: Path, programs: list[Path]) -> list[Path]:
    """The files that the programs load, the loader with them."""
    found = {root / _LOADER}
    for program in programs:
        said = tools.build(f"listing what {program.name} loads", [*_started_in(root), "--list", str(program)])
        found |= {Path(path) for path in re.findall(r"=> (/\S+)", said)}
    return sorted(path for path in found if path.is_relative_to(root))


def _say(step: str) -> None:
    print(f"== {step}", flush=True)
