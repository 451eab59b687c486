"""A machine with one virtio disk for tests of what opens one by name: a fake sysfs tree, and behind its function the
registers of a fake device. The code under test is the real one from the command line down to the registers; only VFIO
is replaced, by a `FakeHal`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hwloop import claim, describe, describe_pci, inventory, inventory_mmio, session
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.door import pci as pci_door
from hwloop.hal.fake import FakeHal
from hwloop.transport.fake_pci import BAR_ADDRESS, BAR_INDEX, BAR_SIZE, FakePciFunction
from pci import BarInfo, BytesConfigAccess
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"
_MEMORY, _PREFETCH, _MEMORY_64 = 0x200, 0x2000, 0x10_0000


def resource_file() -> str:
    """The text of the sysfs attribute: one BAR of the function."""
    lines = ["0x0 0x0 0x0"] * 7
    lines[BAR_INDEX] = f"{BAR_ADDRESS:#x} {BAR_ADDRESS + BAR_SIZE - 1:#x} {_MEMORY | _PREFETCH | _MEMORY_64:#x}"
    return "".join(f"{line}\n" for line in lines)


class Machine:
    """`disk` is the device; `sysfs` the tree; `hals` every Hal that was made, the newest last."""

    def __init__(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        size: int = 1 << 20,
        iommu_group: int | None = 7,
        **shape: Any,
    ) -> None:
        self.disk = FakeBlk(FakeHal(), size, **shape)
        self.function = FakePciFunction(self.disk)
        self.tree = FakeSysfs(tmp_path / "machine")
        self.run_dir = tmp_path / "run"
        self.hals: list[VfioOnPaper] = []
        self.tree.add_driver("vfio-pci")
        config = bytes(self.function.config.data)
        self.tree.add_pci(
            DISK, 0x1AF4, 0x1042, driver="virtio-pci", iommu_group=iommu_group, block="vda", block_size=size,
            resource=resource_file(), config=config,
        )  # fmt: skip
        self._join(monkeypatch)

    def _join(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (session, claim, inventory, inventory_mmio, describe, describe_pci):
            monkeypatch.setattr(module, "Sysfs", lambda: self.tree.sysfs)
        monkeypatch.setattr("hwloop.hal.vfio.VfioHal", self._new_hal)
        monkeypatch.setattr(pci_door, "Claim", partial(claim.Claim, run_dir=self.run_dir))
        monkeypatch.setattr(claim.restore, "__defaults__", (None, self.run_dir))
        monkeypatch.setattr(claim.restore_all, "__defaults__", (None, self.run_dir))
        monkeypatch.setattr(claim.bind_lastingly, "__defaults__", (None, self.run_dir))
        monkeypatch.setattr(VirtioBlk.__init__, "__kwdefaults__", {"request_seconds": 0.2})

    def _new_hal(self, address: str, group: int, bars: Mapping[int, BarInfo], dev: str) -> VfioOnPaper:
        assert (address, group) == (DISK, 7)
        assert bars == self.function.bars
        assert self.driver() == "vfio-pci"
        hal = VfioOnPaper(self.function)
        self.disk.hal = hal
        self.hals.append(hal)
        return hal

    def driver(self) -> str | None:
        return self.tree.sysfs.read_link(self.tree.sysfs.pci_device(DISK) / "driver")

    def given_back(self) -> bool:
        """Whether everything is as if nobody had been here."""
        override = self.tree.sysfs.read(self.tree.sysfs.pci_device(DISK) / "driver_override")
        leftovers = list(self.run_dir.glob("*"))
        leaks = [leak for hal in self.hals for leak in hal.leaks()]
        return (self.driver(), override, leftovers, leaks) == ("virtio-pci", "(null)", [], [])


class VfioOnPaper(FakeHal):
    """What `VfioHal` is to a session, over the registers of a fake function."""

    def __init__(self, function: FakePciFunction) -> None:
        super().__init__({function.address: function.region})
        self._function = function

    def config_access(self) -> BytesConfigAccess:
        return self._function.config


NewMachine = Callable[..., Machine]
