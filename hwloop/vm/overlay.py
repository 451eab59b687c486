"""The layer of a guest that changes with the checkout: its files, its extensions, and the guest's first process."""

from __future__ import annotations

import posixpath
import shutil
import tempfile
from pathlib import Path

from hwloop.vm import checkout, cpio, site_packages, sysroot
from hwloop.vm.bytecode import GuestPython
from hwloop.vm.cache import Cache, digest
from hwloop.vm.checkout import Checkout
from hwloop.vm.image import Image
from hwloop.vm.sysroot import Sysroot

_FORMAT = "1"


def obtain(source: Checkout, base: Image, libraries: Sysroot, cache: Cache, *, force: bool = False) -> Path:
    """An archive with `/init`, the checkout at `/hwloop`, and what makes Python and the shell find it."""
    agent = sysroot.obtain_agent(libraries, cache, force=force)
    built = {
        name: sysroot.obtain_extension(libraries, cache, source.root, name, base.python) for name in source.extensions
    }
    key = digest(_FORMAT, base.key, source.digest, agent.parent.name, *(path.parent.name for path in built.values()))

    def build(fresh: Path) -> None:
        cache.progress("packing this checkout")
        with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".overlay.") as scratch:
            tree = Path(scratch)
            _fill(tree, source, built, base.interpreter)
            shutil.copy(agent, tree / "init")
            with (fresh / "overlay.cpio").open("wb") as out, cpio.Writer(out) as writer:
                writer.tree(tree)

    part = cache.part("overlay", key, build, force=force)
    return part / "overlay.cpio"


def _fill(tree: Path, source: Checkout, built: dict[str, Path], python: GuestPython) -> None:
    home = tree / checkout.PLACE
    for name in source.files:
        _copy(source.root / name, home / name)
    for name, extension in built.items():
        _copy(extension, home / posixpath.dirname(name) / extension.name)
    python.compile(home, tree)
    _register(tree, source, python.version)


def _register(tree: Path, source: Checkout, python: str) -> None:
    """What an editable install would have left: a path, the metadata, and the commands."""
    packages = tree / site_packages.folder(python)
    name, version = source.project["name"], source.project["version"]
    info = packages / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (packages / "hwloop.pth").write_text(f"/{checkout.PLACE}\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(source.entry_points())
    site_packages.add_commands(packages, tree / "usr/local/bin")


def _copy(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, place)
