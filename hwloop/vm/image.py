"""The base of a guest: Debian's kernel, and a root folder with Python and tools, made once and kept.

`Image` is a folder of the cache: `kernel`, `root.cpio`, the same root unpacked as `root`, and `image.json`.
"""

from __future__ import annotations

import json
import lzma
import os
import posixpath
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hwloop.vm import cpio, debian, kernel, rules, tools
from hwloop.vm.bytecode import GuestPython
from hwloop.vm.cache import Cache, digest
from hwloop.vm.errors import BuildFailed
from hwloop.vm.machine import Arch, Kernel

FORMAT = "3"
"""Raise it when the code here makes a different image from the same rules."""

STEP = "unpacking Debian's kernel and root"
"""What `progress` is told at the beginning; of three steps the one that takes long."""

_PACKED = ".xz"
_MODULE_ENDS = (".ko", ".ko" + _PACKED)


@dataclass(frozen=True)
class Image:
    """A kernel and a root, and what others need to know to build for them."""

    folder: Path
    arch: Arch
    kernel_release: str
    python: str
    """Major and minor version, as in `3.11`."""

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def root(self) -> Path:
        return self.folder / "root.cpio"

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def interpreter(self) -> GuestPython:
        return GuestPython(self.folder / "root", self.python, self.arch)


def obtain(arch: Arch, cache: Cache, *, newer: Kernel | None = None, force: bool = False) -> Image:
    """The image for a processor, built if it is not in the cache: about a minute and a download of 110 MB.

    `newer` is a kernel to have instead of the suite's own.
    """
    folder = cache.part("image", _key(arch, newer), lambda fresh: _build(arch, newer, fresh, cache), force=force)
    facts = json.loads((folder / "image.json").read_text())
    return Image(folder, arch, facts["kernel_release"], facts["python"])


def _key(arch: Arch, newer: Kernel | None = None) -> str:
    tables = {name: value for name, value in vars(rules).items() if name.isupper()}
    more = [repr(asdict(newer))] if newer else []
    return digest(FORMAT, debian.SUITE, repr(asdict(arch)), repr(sorted(tables.items())), *more)


def _build(arch: Arch, newer: Kernel | None, fresh: Path, cache: Cache) -> None:
    with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".image.") as scratch:
        archive, tree = Path(scratch) / "root.tar", fresh / "root"
        cache.progress(STEP)
        _unpack(arch, newer, archive)
        cache.progress("choosing what the guest needs")
        with tarfile.open(archive) as tar:
            release = _take_kernel(tar, fresh / "kernel")
            take(tar, tree, _drop_pattern(arch, newer.drop if newer else ()).match)
            _take_modules(tar, release, tree, newer.modules if newer else ())
    _finish(tree, release)
    python = _python_version(tree)
    cache.progress("compiling Python's standard library")
    GuestPython(tree, python, arch).compile(tree / f"usr/lib/python{python}", tree)
    _write(tree, fresh / "root.cpio")
    (fresh / "image.json").write_text(json.dumps({"kernel_release": release, "python": python}))


def _unpack(arch: Arch, newer: Kernel | None, archive: Path) -> None:
    if newer is None:
        debian.unpack([*rules.PACKAGES, arch.kernel_package], arch.debian, archive)
        return
    packages = [*rules.PACKAGES, *newer.packages, f"{arch.kernel_package}/{newer.suite}"]
    debian.unpack(packages, arch.debian, archive, more_suites=[newer.suite])


def _finish(tree: Path, release: str) -> None:
    """What the packages' own scripts would have done."""
    _add_files(tree)
    tools.build("indexing modules", ["depmod", "-b", str(tree), release])
    tools.build("indexing libraries", ["ldconfig", "-r", str(tree)])


def _write(tree: Path, archive: Path) -> None:
    with archive.open("wb") as out, cpio.Writer(out) as writer:
        writer.directory(".")  # or everybody may write to /
        writer.tree(tree)
        writer.device("dev/console", 0o020600, 5, 1)  # where the kernel opens the first process's output


# --- The kernel and its modules ---------------------------------------------------------------------------------------


def _take_kernel(tar: tarfile.TarFile, place: Path) -> str:
    """Write the newest kernel of the archive to `place`; its release, as in `6.1.0-56-amd64`."""
    images = [member for member in tar.getmembers() if _name(member).startswith("boot/vmlinuz-")]
    if not images:
        raise BuildFailed("choosing a kernel", "mmdebstrap", 0, "the packages hold no boot/vmlinuz-*")
    newest = max(images, key=lambda member: _version(_name(member)))
    place.write_bytes(kernel.extract(_read(tar, newest)))
    return _name(newest).removeprefix("boot/vmlinuz-")


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _take_modules(tar: tarfile.TarFile, release: str, tree: Path, more: Iterable[str] = ()) -> None:
    """The modules of the table and `more` with what they depend on, and the indexes that depmod reads.

    Newer kernels pack their modules; the guest gets them unpacked, so as not to do that at every start.
    """
    base = f"lib/modules/{release}/"
    files = {_name(member): member for member in tar.getmembers() if base in _name(member) and member.isreg()}
    modules = {_module(name): member for name, member in files.items() if name.endswith(_MODULE_ENDS)}
    indexes = [member for name, member in files.items() if posixpath.basename(name) in rules.MODULE_INDEXES]
    for member in [*_closure(tar, modules, [*rules.MODULES, *more]), *indexes]:
        path = tree / "usr/lib/modules" / _name(member).partition("lib/modules/")[2].removesuffix(_PACKED)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(tar, member))


def _closure(
    tar: tarfile.TarFile, modules: dict[str, tarfile.TarInfo], wanted: Iterable[str]
) -> Iterator[tarfile.TarInfo]:
    """The wanted modules and, through each one's `depends`, those that they need. Each once."""
    waiting, seen = [_module(name) for name in wanted], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in modules:
            continue
        seen.add(name)
        yield modules[name]
        waiting += depends(_content(tar, modules[name]))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    data = _read(tar, member)
    return lzma.decompress(data) if _name(member).endswith(_PACKED) else data


def depends(module: bytes) -> list[str]:
    """The modules that a `.ko` says it needs, `_` for `-`."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [_module(name) for name in found[1].decode().split(",") if name] if found else []


def _module(path: str) -> str:
    return posixpath.basename(path).removesuffix(_PACKED).removesuffix(".ko").replace("-", "_")


# --- The root ---------------------------------------------------------------------------------------------------------


def take(tar: tarfile.TarFile, tree: Path, drop: Callable[[str], object]) -> None:
    """Unpack an archive of packages, without what `drop` says yes to; names of folders end in `/` there."""
    for member in tar.getmembers():
        name = merged(_name(member))
        if name and not drop(name + ("/" if member.isdir() else "")):
            _place(tar, member, tree / name)


def _drop_pattern(arch: Arch, more: Iterable[str] = ()) -> re.Pattern[str]:
    words = [re.escape(word) for word in (*rules.DROP, *more)]
    return re.compile("|".join(words).replace("TRIPLET", re.escape(arch.triplet)).replace("NN", r"\d+"))


def merged(name: str) -> str:
    """Where a file of a package goes, with `/bin` and its like in `/usr`; "" for those folders themselves."""
    first, slash, rest = name.partition("/")
    if first not in rules.MERGED:
        return name
    return f"usr/{first}/{rest}" if slash else ""


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        path.mkdir(exist_ok=True)
    elif member.issym():
        _place_link(path, link_target(_name(member), member.linkname))
    elif member.isreg() or member.islnk():
        path.unlink(missing_ok=True)
        path.write_bytes(_read(tar, member))
        path.chmod(member.mode)


def _place_link(path: Path, target: str) -> None:
    """A link never replaces a file: with `/bin` merged, some packages' links would point to themselves."""
    if not os.path.lexists(path):
        path.symlink_to(target)


def link_target(name: str, target: str) -> str:
    """A link's target that still holds after the link has moved into `/usr`."""
    if name.partition("/")[0] not in rules.MERGED or target.startswith("/") or "/" not in target:
        return target
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(name), target))


def _add_files(tree: Path) -> None:
    for name in rules.FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in rules.MERGED:
        _place_link(tree / name, f"usr/{name}")
    for name, text in rules.ETC.items():
        (tree / "etc" / name).write_text(text)
    _place_link(tree / "etc/mtab", "/proc/self/mounts")
    for command in rules.BUSYBOX:
        if not any(os.path.lexists(tree / folder / command) for folder in ("usr/bin", "usr/sbin")):
            _place_link(tree / "usr/bin" / command, "/usr/bin/busybox")
    (tree / "tmp").chmod(0o1777)


def _python_version(tree: Path) -> str:
    """As the root's own python3 is called."""
    return os.readlink(tree / "usr/bin/python3").removeprefix("python")


def _name(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""
