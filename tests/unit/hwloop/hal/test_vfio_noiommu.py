"""VfioNoIommuHal over a model of the kernel, and huge pages on paper. Debian's kernels have no such mode, so this is
all that has tested it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from hwloop.errors import AlreadyUsed, DmaError, SetupError, exit_code_of
from hwloop.hal import HALS
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.base import BufferDirection
from hwloop.hal.memory import HUGE_PAGE
from hwloop.hal.vfio_noiommu import VfioNoIommuHal
from hwloop.spec import PhysAddr
from tests.unit.hwloop.hal.paper import FIRST, PaperPagemap, huge_pages_on_paper, mapped
from tests.unit.hwloop.hal.vfio_kernel import BARS, DISK, Handler, VfioKernel

DEVICE = "device"


class Kernel(VfioKernel):
    """VFIO with the unsafe mode, which may be `off`."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(tmp_path, monkeypatch, ("vfio/vfio", "vfio/noiommu-2", DEVICE))
        self.off = False
        self.version = 0
        self.container: int | None = None

    def handlers(self) -> dict[int, Handler]:
        return super().handlers() | {
            vfio.GET_API_VERSION: lambda fd, argument: self.version,
            vfio.CHECK_EXTENSION: lambda fd, kind: int(kind == vfio.NOIOMMU_IOMMU and not self.off),
            vfio.GROUP_SET_CONTAINER: self.set_container,
            vfio.SET_IOMMU: self.set_iommu,
            vfio.GROUP_GET_DEVICE_FD: self.device_fd,
        }

    def set_container(self, fd: int, argument: bytes) -> int:
        assert self.names[fd] == "noiommu-2"
        self.container = int.from_bytes(argument, "little")
        assert self.names[self.container] == "vfio"
        return 0

    def set_iommu(self, fd: int, kind: int) -> int:
        assert fd == self.container, "a container has an IOMMU only once a group is in it"
        assert kind == 8
        self.steps.append("no IOMMU")
        return 0

    def device_fd(self, fd: int, name: bytearray) -> int:
        assert self.steps[-1] == "no IOMMU"
        assert name == DISK.encode() + b"\0"
        return self.opened(self._open(self.dev / DEVICE, os.O_RDWR), DEVICE)

    def hal(self) -> VfioNoIommuHal:
        return VfioNoIommuHal(DISK, 2, BARS, str(self.dev))


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


@pytest.fixture
def pagemap(monkeypatch: pytest.MonkeyPatch) -> PaperPagemap:
    return huge_pages_on_paper(monkeypatch)


def refused(kernel: Kernel, pagemap: PaperPagemap, kind: type[OSError], words: str) -> OSError:
    with pytest.raises(kind, match=words) as caught:
        kernel.hal()
    assert kernel.names == {}
    assert pagemap.closed
    return caught.value


def test_it_is_in_the_table() -> None:
    assert HALS.get("vfio-noiommu") is VfioNoIommuHal


def test_the_device_is_reached_through_a_group_of_its_own_and_left_in_the_opposite_order(
    kernel: Kernel, pagemap: PaperPagemap
) -> None:
    before = mapped()
    with kernel.hal() as hal:
        hal.dma_alloc(1, BufferDirection.Both)
        assert mapped() > before
    assert kernel.steps == [
        "open vfio", "open noiommu-2", "no IOMMU", "open device", "close device", "close noiommu-2", "close vfio",
    ]  # fmt: skip
    assert pagemap.closed
    assert mapped() == before
    hal.close()
    assert kernel.steps[-1] == "close vfio", "closing twice is closing"


def test_it_warns_of_what_the_device_can_do(
    kernel: Kernel, pagemap: PaperPagemap, caplog: pytest.LogCaptureFixture
) -> None:
    with kernel.hal():
        assert caplog.messages == [f"no IOMMU confines {DISK}: it can read and write all memory of this machine"]


def test_device_addresses_are_physical_ones(kernel: Kernel, pagemap: PaperPagemap) -> None:
    with kernel.hal() as hal:
        first, vaddr = hal.dma_alloc(1, BufferDirection.DriverToDevice)
        second, _ = hal.dma_alloc(1, BufferDirection.DeviceToDriver)
        assert first == pagemap.physical_of(vaddr) == FIRST
        assert second == FIRST + 4096, "there is no direction to enforce, so all memory is of the same pages"
        assert HUGE_PAGE > 4096


def test_a_page_that_has_moved_is_noticed_while_the_device_keeps_us_waiting(
    kernel: Kernel, pagemap: PaperPagemap
) -> None:
    with kernel.hal() as hal:
        _, vaddr = hal.dma_alloc(1, BufferDirection.Both)
        hal.check()
        pagemap.frames[vaddr] = FIRST + 8 * HUGE_PAGE
        with pytest.raises(DmaError, match="a pinned page moved"):
            hal.check()


def test_registers_and_configuration_space_are_those_of_vfio(kernel: Kernel, pagemap: PaperPagemap) -> None:
    with kernel.hal() as hal:
        hal.mmio_phys_to_virt(PhysAddr(0x38_0000_0010), 4).write32(0, 0xAABBCCDD)
        hal.config_access().write(4, 2, 0x0406)
    content = (kernel.dev / DEVICE).read_bytes()
    assert content[(4 << 12) + 0x10 :][:4] == bytes.fromhex("ddccbbaa")
    assert content[(7 << 12) + 4 :][:2] == b"\x06\x04"


def test_a_mode_that_is_off_is_explained_and_stays_off(kernel: Kernel, pagemap: PaperPagemap) -> None:
    kernel.off = True
    error = refused(kernel, pagemap, SetupError, "unsafe mode is off.*use hal=uio, or: echo 1 > .*noiommu_mode")
    assert exit_code_of(error) == 6


def test_another_version_of_vfio_is_refused(kernel: Kernel, pagemap: PaperPagemap) -> None:
    kernel.version = 1
    refused(kernel, pagemap, SetupError, "this kernel's VFIO is not version 0")


def test_a_function_that_is_not_bound_says_so(kernel: Kernel, pagemap: PaperPagemap) -> None:
    (kernel.dev / "vfio/noiommu-2").unlink()
    refused(kernel, pagemap, SetupError, "noiommu-2: No such file.*bind the device to vfio-pci first")


def test_root_without_the_right_to_raw_io_is_told_which_one_it_lacks(kernel: Kernel, pagemap: PaperPagemap) -> None:
    kernel.refuse["noiommu-2"] = errno.EPERM
    error = refused(kernel, pagemap, SetupError, "run as root, with CAP_SYS_RAWIO")
    assert error.errno == errno.EPERM


def test_a_function_that_another_process_has_is_a_refusal(kernel: Kernel, pagemap: PaperPagemap) -> None:
    kernel.refuse["noiommu-2"] = errno.EBUSY
    error = refused(kernel, pagemap, AlreadyUsed, "noiommu-2 is in use by another process; find it with: fuser -v")
    assert exit_code_of(error) == 3


@pytest.mark.parametrize(
    ("request_number", "code", "words"),
    [
        (vfio.GROUP_SET_CONTAINER, errno.EPERM, "without an IOMMU: Operation not permitted.*CAP_SYS_RAWIO"),
        (vfio.SET_IOMMU, errno.ENODEV, "without an IOMMU: No such device; see: dmesg"),
        (vfio.GROUP_GET_DEVICE_FD, errno.ENODEV, "VFIO does not give out .*hwloop bind"),
        (vfio.GET_API_VERSION, errno.EIO, "Input/output error"),
    ],
)
def test_a_failure_on_the_way_in_closes_what_was_open(
    kernel: Kernel, pagemap: PaperPagemap, request_number: int, code: int, words: str
) -> None:
    kernel.fail[request_number] = code
    error = refused(kernel, pagemap, OSError, words)
    assert error.errno == code


def test_a_process_that_may_not_see_physical_addresses_opens_nothing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pagemap(*arguments: Any) -> Any:
        raise SetupError("no pagemap")

    monkeypatch.setattr("hwloop.hal.physical.Pagemap", no_pagemap)
    with pytest.raises(SetupError, match="no pagemap"):
        kernel.hal()
    assert kernel.steps == []
