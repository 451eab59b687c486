"""A case that is examined, and what is found."""

from __future__ import annotations

import os
import resource
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hwloop.lock import RUN_DIR
from udev import MmioNode, PciDevice, Sysfs

PROBLEM, HINT = SEVERITIES = ("problem", "hint")
"""A problem keeps the device from being driven in the way that was asked for; a hint does not."""
CERTAIN, LIKELY, POSSIBLE = SURENESS = ("certain", "likely", "possible")
"""`certain` is only for what was read and can mean nothing else."""

ENVIRONMENT, IN_USE, DEVICE_ERROR, DEVICE_LOST = 6, 3, 4, 5
"""Exit statuses (docs/errors.md)."""


@dataclass(frozen=True)
class Finding:
    """`saw` is what was read, `means` what follows from it, `sure` how surely, `remedy` the command that mends it."""

    saw: str
    means: str
    remedy: str
    sure: str = CERTAIN
    severity: str = PROBLEM
    exit_code: int = ENVIRONMENT
    check: str = ""

    def of(self, check: str) -> Finding:
        """As it is, found by `check`."""
        return replace(self, check=check)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class System:
    """What is known of this process and its kernel. `memlock` in bytes, None: no limit. `config` are the kernel's build
    options as far as they are known."""

    euid: int = 0
    can_lock_memory: bool = True
    memlock: int | None = None
    config: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls) -> System:
        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        return cls(
            euid=os.geteuid(),
            can_lock_memory=_has_capability(14),
            memlock=None if soft == resource.RLIM_INFINITY else soft,
            config=_kernel_config(Path("/boot") / f"config-{os.uname().release}"),
        )


@dataclass(frozen=True)
class Case:
    """A machine, and one place on it or none: a PCI `function`, a memory-mapped `node`, or another kind of target.

    `hal` is how a function would be reached, a name of `hwloop.door.pci`.
    """

    sysfs: Sysfs
    system: System = System()
    function: PciDevice | None = None
    node: MmioNode | None = None
    hal: str = ""
    asked_for: bool = False
    """Whether the user asked for that hal."""
    run_dir: Path = RUN_DIR

    @property
    def in_kernel(self) -> bool:
        """Whether it is about a device that the kernel of this machine knows."""
        return self.function is not None or self.node is not None

    @property
    def uses_vfio(self) -> bool:
        return self.hal in ("vfio", "iommufd")

    @property
    def needs_physical_memory(self) -> bool:
        """Whether device addresses would be physical ones, so that memory has to be huge pages."""
        return self.node is not None or self.hal in ("uio", "vfio-noiommu")

    @property
    def name(self) -> str:
        if self.function is not None:
            return self.function.address
        return self.node.name if self.node is not None else "this machine"


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _kernel_config(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if line.startswith("CONFIG_"))
    return {key: value for key, _, value in pairs}
