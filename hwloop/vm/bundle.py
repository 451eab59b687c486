"""Everything a guest is started from: kernel, root, packages and checkout, each from the cache or built into it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hwloop.vm import checkout, image, overlay, site_packages, sysroot
from hwloop.vm.cache import Cache, Progress, quiet
from hwloop.vm.image import Image
from hwloop.vm.machine import OWN_KERNEL, Machine, with_kernel
from hwloop.vm.machine import machine as machine_of

FOLDER = f"/{checkout.PLACE}"
"""The checkout in the guest, and the command's working directory."""

SLOW_STEPS = (image.STEP, sysroot.STEP, site_packages.STEP)
"""What `progress` is told of steps that download, and are done once."""

KEEP = {"image": 6, "sysroot": 4, "site": 4, "agent": 4, "overlay": 6, "extension": 32}
"""How many parts of each kind stay in the cache: of two processors and a newer kernel, the newest and the one before.
Those that were used last stay; every edit makes an overlay."""


@dataclass(frozen=True)
class Guest:
    """`layers` are archives that make up the initramfs, a later one over an earlier one."""

    machine: Machine
    image: Image
    layers: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes that QEMU loads: kernel and initramfs."""
        return sum(path.stat().st_size for path in (self.image.kernel, *self.layers))

    @contextmanager
    def initrd(self) -> Iterator[BinaryIO]:
        """The layers as one file without a name: it is gone when the last process has closed it."""
        with tempfile.TemporaryFile(dir=self.image.folder.parent) as file:
            for layer in self.layers:
                _append(file.fileno(), layer)
            yield file


def build(machine: str = "q35", *, kernel: str = OWN_KERNEL, force: bool = False, progress: Progress = quiet) -> Guest:
    """Build what the cache lacks of the guest, or all of it. Raises as `obtain`, and BadOption."""
    return obtain(with_kernel(machine_of(machine), kernel), Cache(progress=progress), force=force)


def obtain(machine: Machine, cache: Cache, *, force: bool = False) -> Guest:
    """The guest with this checkout as it is now. The first time takes about a minute, later ones build what changed.

    Raises MissingTool, MissingFile, BuildFailed.
    """
    source = checkout.find()
    base = image.obtain(machine.arch, cache, newer=machine.kernel, force=force)
    libraries = sysroot.obtain(machine.arch, cache, force=force)
    site = site_packages.obtain(source.requirements, base.interpreter, cache, force=force)
    layer = overlay.obtain(source, base, libraries, cache, force=force)
    for kind, count in KEEP.items():
        cache.trim(kind, count)
    return Guest(machine, base, (base.root, site, layer))


def _append(target: int, path: Path) -> None:
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left:
            left -= os.sendfile(target, file.fileno(), None, left)
