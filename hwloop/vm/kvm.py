"""Whether KVM can be used: found out by starting the real guest with it, because that it opens proves nothing.

There are machines where /dev/kvm opens, QEMU starts, and the kernel never gets anywhere. The verdict holds until the
host's kernel is started again, and is kept in the cache.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

from hwloop.vm.cache import digest
from hwloop.vm.errors import GuestFailed, GuestTimeout

TRIAL_SECONDS = 20.0
"""How long the guest may take for `true`: with KVM that works it takes two."""

_DEVICE = "/dev/kvm"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def usable(folder: Path, image_key: str, qemu: str, machine: str, trial: Callable[[], object]) -> bool:
    """Whether `trial`, which runs a guest with KVM, succeeds; remembered in `folder`. `machine` is the guest's
    processor: KVM runs this machine's own, and no other."""
    if platform.machine() != machine or not os.access(_DEVICE, os.R_OK | os.W_OK):
        return False
    memory = folder / "kvm.json"
    key = digest(image_key, _qemu_version(qemu), platform.release(), _BOOT_ID.read_text(), str(os.getuid()))
    verdict = _recall(memory).get(key)
    if verdict is None:
        verdict = _try(trial)
        _remember(memory, key, verdict)
    return verdict


def _try(trial: Callable[[], object]) -> bool:
    try:
        trial()
    except (GuestFailed, GuestTimeout):
        return False
    return True


def _recall(memory: Path) -> dict[str, bool]:
    """What is known; nothing if the file is not there or damaged."""
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, key: str, verdict: bool) -> None:
    """Only the newest verdict: older ones are of another boot or image."""
    fresh = memory.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({key: verdict}))
    fresh.replace(memory)


def _qemu_version(qemu: str) -> str:
    return subprocess.run([qemu, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
