"""What a shell may complete a target with: the devices of this machine, the kinds of targets, files."""

from __future__ import annotations

import os
from collections.abc import Iterator

from click.shell_completion import CompletionItem

from hwloop.target import KINDS

_OF_IMAGES = ("qemu", "svirtb")
_OF_SOCKETS = ("qtest", "vhost-user", "vhost-vdpa")


def complete_target(incomplete: str, *, files: bool = False) -> list[CompletionItem]:
    """The words that begin with what was typed."""
    scheme, separator, path = incomplete.partition(":")
    if separator and scheme in (*_OF_IMAGES, *_OF_SOCKETS):
        return [CompletionItem(f"{scheme}:{name}") for name in _paths(path)]
    words = [*_devices(), *((f"{kind}:", "") for kind in KINDS if kind != "block")]
    found = [CompletionItem(word, help=text or None) for word, text in words if word.startswith(incomplete)]
    return found + ([CompletionItem(name) for name in _paths(incomplete)] if files else [])


def _devices() -> Iterator[tuple[str, str]]:
    """Every device of this machine by its names, with what it is."""
    from hwloop.inventory import virtio_functions
    from hwloop.inventory_mmio import mmio_devices

    try:
        for record in virtio_functions():
            yield record.address, record.type
            for disk in record.disks:
                yield disk, f"{record.type} at {record.address}"
        for node in mmio_devices():
            if node.type is not None:
                yield node.target, node.type
    except OSError:
        # A machine without sysfs: there is nothing to suggest.
        return


def _paths(incomplete: str) -> list[str]:
    """Files and folders that begin so; folders end with a slash."""
    folder, name = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    return [
        os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "")
        for entry in entries
        if entry.name.startswith(name) and (name or not entry.name.startswith("."))
    ]
