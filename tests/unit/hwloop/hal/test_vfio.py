"""VfioHal over a kernel made of a function: what it asks for, in which order, and how it explains a refusal."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cython_ring import address_of
from hwloop.errors import AlreadyUsed, DeviceClosed, DmaError, InvalidParam, SetupError, Unsupported, exit_code_of
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.base import BufferDirection
from hwloop.hal.memory import HUGE_PAGE
from hwloop.hal.vfio import VfioHal
from hwloop.spec import PhysAddr
from mmio import MappedFile
from pci import BarInfo, IoBar, MemoryBar, MemoryBarType
from tests.unit.hwloop.hal.paper import huge_pages_on_paper, mapped

DISK = "0000:00:05.0"
BARS: dict[int, BarInfo] = {
    0: IoBar(0, 0xC000, 0x80),
    1: MemoryBar(1, MemoryBarType.Width32, False, 0xFEBD_0000, 0x1000),
    2: MemoryBar(2, MemoryBarType.Width32, False, 0, 0x1000),
    4: MemoryBar(4, MemoryBarType.Width64, True, 0x38_0000_0000, 0x4000),
}
RANGES = struct.pack("<HHIII", 1, 1, 0, 1, 0) + struct.pack("<2Q", 0, (1 << 39) - 1)


class Kernel:
    """VFIO as far as VfioHal sees it. `fail` maps a request to the errno it is refused with."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dev = tmp_path
        (tmp_path / "vfio").mkdir()
        for name in ("vfio", "7"):
            (tmp_path / "vfio" / name).touch()
        self.device_file = tmp_path / "device"
        self.device_file.write_bytes(bytes(8 << 12))
        self.fail: dict[int, int] = {}
        self.viable = self.type1 = self.mappable = True
        self.mapped: dict[int, tuple[int, int, int]] = {}
        self.steps: list[str] = []
        self.names: dict[int, str] = {}
        self._open, self._close = os.open, os.close
        monkeypatch.setattr(vfio, "ioctl", self.ioctl)
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "close", self.close)

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        fd = self._open(path, flags, mode, **more)
        if str(path).startswith(str(self.dev / "vfio")):
            self.names[fd] = Path(path).name
            self.steps.append(f"open {Path(path).name}")
        return fd

    def close(self, fd: int) -> None:
        if fd in self.names:
            self.steps.append(f"close {self.names.pop(fd)}")
        self._close(fd)

    def ioctl(self, fd: int, request: int, argument: Any = 0) -> int:
        if request in self.fail:
            code = self.fail[request]
            raise OSError(code, os.strerror(code))
        handler = self.handlers().get(request)
        return handler(fd, argument) if handler else 0

    def handlers(self) -> dict[int, Callable[[int, Any], int]]:
        return {
            vfio.CHECK_EXTENSION: lambda fd, kind: int(self.type1 and kind == 3),
            vfio.GROUP_GET_STATUS: self.group_status,
            vfio.GROUP_GET_DEVICE_FD: self.device_fd,
            vfio.DEVICE_GET_REGION_INFO: self.region_info,
            vfio.IOMMU_GET_INFO: self.iommu_info,
            vfio.IOMMU_MAP_DMA: self.map,
            vfio.IOMMU_UNMAP_DMA: self.unmap,
        }

    def group_status(self, fd: int, argument: bytearray) -> int:
        argument[:] = struct.pack("<II", 8, int(self.viable))
        return 0

    def device_fd(self, fd: int, name: bytearray) -> int:
        assert name == DISK.encode() + b"\0"
        device = self._open(self.device_file, os.O_RDWR)
        self.names[device] = "device"
        self.steps.append("open device")
        return device

    def region_info(self, fd: int, argument: bytearray) -> int:
        index = struct.unpack_from("<4I", argument)[2]
        size = 0x100 if index == vfio.PCI_CONFIG_REGION else 0x1000
        argument[:] = struct.pack("<4I2Q", 32, 4 if self.mappable else 0, index, 0, size, index << 12)
        return 0

    def iommu_info(self, fd: int, argument: bytearray) -> int:
        full = struct.pack("<IIQI4x", 24 + len(RANGES), 3, 0x1000, 24) + RANGES
        argument[:] = full[: len(argument)]
        return 0

    def map(self, fd: int, argument: bytes) -> int:
        _, flags, vaddr, iova, size = struct.unpack("<IIQQQ", argument)
        assert ctypes.string_at(vaddr, size).count(0) == size, "fresh memory"
        self.mapped[iova] = (flags, vaddr, size)
        self.steps.append(f"map {flags}")
        return 0

    def unmap(self, fd: int, argument: bytearray) -> int:
        _, _, iova, size = struct.unpack("<IIQQ", argument)
        flags, vaddr, mapped = self.mapped.pop(iova)
        assert mapped == size
        ctypes.string_at(vaddr, size)  # Still ours: the device lets go before the memory does.
        self.steps.append(f"unmap {flags}")
        return 0

    def hal(self) -> VfioHal:
        return VfioHal(DISK, 7, BARS, str(self.dev))


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


# --- The way in and the way out ---------------------------------------------------------------------------------------


def test_the_device_is_reached_through_container_and_group_and_left_in_the_opposite_order(kernel: Kernel) -> None:
    with kernel.hal() as hal:
        hal.dma_alloc(1, BufferDirection.DriverToDevice)
        hal.dma_alloc(1, BufferDirection.DeviceToDriver)
        hal.dma_alloc(1, BufferDirection.Both)
    assert kernel.steps == [
        "open vfio", "open 7", "open device", "map 1", "map 2", "map 3",
        "unmap 1", "unmap 2", "unmap 3", "close device", "close 7", "close vfio",
    ]  # fmt: skip
    hal.close()
    assert kernel.steps[-1] == "close vfio", "closing twice is closing"
    with pytest.raises(DeviceClosed):
        hal.dma_alloc(1, BufferDirection.Both)


@pytest.mark.parametrize(
    "request_number",
    [
        vfio.GET_API_VERSION, vfio.CHECK_EXTENSION, vfio.GROUP_GET_STATUS, vfio.GROUP_SET_CONTAINER, vfio.SET_IOMMU,
        vfio.GROUP_GET_DEVICE_FD, vfio.IOMMU_GET_INFO,
    ],
)  # fmt: skip
def test_a_failure_on_the_way_in_closes_what_was_open(kernel: Kernel, request_number: int) -> None:
    kernel.fail[request_number] = errno.EIO
    with pytest.raises(OSError, match="Input/output error") as caught:
        kernel.hal()
    assert caught.value.errno == errno.EIO
    assert kernel.names == {}


def test_a_device_that_cannot_be_unmapped_is_closed_all_the_same(kernel: Kernel) -> None:
    """With its descriptor open, vfio-pci would not give the device back."""
    hal = kernel.hal()
    hal.dma_alloc(1, BufferDirection.Both)
    kernel.fail[vfio.IOMMU_UNMAP_DMA] = errno.EINVAL
    with pytest.raises(OSError, match="Invalid argument"):
        hal.close()
    assert kernel.names == {}


def test_memory_in_quarantine_is_not_unmapped_but_the_device_is_closed(kernel: Kernel) -> None:
    hal = kernel.hal()
    hal.dma_alloc(1, BufferDirection.Both)
    hal.quarantine()
    hal.close()
    assert len(kernel.mapped) == 1
    assert kernel.names == {}


# --- Refusals, each with what to do -----------------------------------------------------------------------------------


def refused(kernel: Kernel, kind: type[OSError], words: str) -> OSError:
    with pytest.raises(kind, match=words) as caught:
        kernel.hal()
    assert kernel.names == {}
    return caught.value


def test_a_kernel_without_vfio_is_explained(kernel: Kernel) -> None:
    (kernel.dev / "vfio/vfio").unlink()
    error = refused(kernel, SetupError, "cannot open .*vfio/vfio: No such file or directory; modprobe vfio-pci")
    assert (error.errno, exit_code_of(error)) == (errno.ENOENT, 6)


def test_a_group_that_is_not_there_says_to_bind_the_device(kernel: Kernel) -> None:
    (kernel.dev / "vfio/7").unlink()
    refused(kernel, SetupError, "vfio/7: .*bind the device to vfio-pci first")


@pytest.mark.parametrize("name", ["vfio", "7"])
def test_an_ordinary_user_is_told_to_become_root(kernel: Kernel, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def open_refused(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).endswith(f"/vfio/{name}"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", open_refused)
    refused(kernel, SetupError, "run as root")


def test_a_group_that_another_process_has_is_a_refusal(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def open_busy(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).endswith("/vfio/7"):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", open_busy)
    error = refused(kernel, AlreadyUsed, "IOMMU group 7 is in use by another process; find it with: fuser -v")
    assert exit_code_of(error) == 3


def test_a_kernel_without_the_type_1_iommu_is_explained(kernel: Kernel) -> None:
    kernel.type1 = False
    refused(kernel, SetupError, "no type 1 version 2 IOMMU; modprobe vfio_iommu_type1")


def test_a_group_that_is_not_viable_is_explained(kernel: Kernel) -> None:
    kernel.viable = False
    refused(kernel, SetupError, "IOMMU group 7 is not viable.*ls /sys/kernel/iommu_groups/7/devices")


def test_an_iommu_without_interrupt_remapping_is_explained(kernel: Kernel) -> None:
    kernel.fail[vfio.SET_IOMMU] = errno.EPERM
    error = refused(kernel, SetupError, "remap interrupts.*allow_unsafe_interrupts")
    assert error.errno == errno.EPERM


def test_a_group_in_another_container_is_a_refusal(kernel: Kernel) -> None:
    kernel.fail[vfio.GROUP_SET_CONTAINER] = errno.EBUSY
    error = refused(kernel, AlreadyUsed, "in another container")
    assert exit_code_of(error) == 3


def test_another_failure_of_the_iommu_points_to_the_kernels_log(kernel: Kernel) -> None:
    kernel.fail[vfio.SET_IOMMU] = errno.ENODEV
    refused(kernel, SetupError, "IOMMU of group 7 cannot be used: No such device; see: dmesg")


def test_a_device_of_another_driver_says_how_to_bind_it(kernel: Kernel) -> None:
    kernel.fail[vfio.GROUP_GET_DEVICE_FD] = errno.ENODEV
    refused(kernel, SetupError, f"hwloop bind {DISK} --driver vfio-pci")


@pytest.mark.fault(52, over="vfio")
def test_a_limit_of_locked_memory_is_named_with_the_command_that_raises_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64 << 10, 64 << 10))
    kernel.fail[vfio.IOMMU_MAP_DMA] = errno.ENOMEM
    hal = kernel.hal()
    with pytest.raises(DmaError, match=r"cannot pin 2048 KiB.*64 KiB; raise it with: ulimit -l unlimited") as caught:
        hal.dma_alloc(1, BufferDirection.Both)
    assert exit_code_of(caught.value) == 6
    kernel.fail.clear()
    hal.dma_alloc(1, BufferDirection.Both)
    hal.close()


def test_another_failure_to_map_has_the_kernels_errno(kernel: Kernel) -> None:
    kernel.fail[vfio.IOMMU_MAP_DMA] = errno.ENOSPC
    with kernel.hal() as hal, pytest.raises(DmaError, match="cannot map 2048 KiB") as caught:
        hal.dma_alloc(1, BufferDirection.Both)
    assert caught.value.errno == errno.ENOSPC


# --- Memory and registers ---------------------------------------------------------------------------------------------


def test_memory_is_mapped_where_the_iommu_allows_it_and_in_its_direction(kernel: Kernel) -> None:
    with kernel.hal() as hal:
        paddr, vaddr = hal.dma_alloc(2, BufferDirection.DeviceToDriver)
        ((iova, (flags, at, size)),) = kernel.mapped.items()
        assert iova <= paddr < iova + size
        assert vaddr - at == paddr - iova
        assert flags == vfio.MAP_WRITE
        again, _ = hal.dma_alloc(2, BufferDirection.DeviceToDriver)
        assert len(kernel.mapped) == 1, "one arena holds many allocations"
        assert again != paddr


def test_registers_are_in_the_region_of_their_bar(kernel: Kernel) -> None:
    with kernel.hal() as hal:
        registers = hal.mmio_phys_to_virt(PhysAddr(0x38_0000_0010), 4)
        registers.write32(0, 0xAABBCCDD)
        assert kernel.device_file.read_bytes()[(4 << 12) + 0x10 :][:4] == bytes.fromhex("ddccbbaa")
        assert not isinstance(registers, MappedFile), "each access is a system call, which survives an unplug"
        hal.mmio_phys_to_virt(PhysAddr(0xFEBD_0000), 4).write32(0, 1)
        assert kernel.device_file.read_bytes()[1 << 12] == 1


def test_a_doorbell_is_mapped_where_the_region_can_be(kernel: Kernel) -> None:
    with kernel.hal() as hal:
        doorbell = hal.mmio_phys_to_virt(PhysAddr(0x38_0000_0104), 2, hot=True)
        assert isinstance(doorbell, MappedFile)
        doorbell.write16(0, 0x1234)
        assert kernel.device_file.read_bytes()[(4 << 12) + 0x104 :][:2] == b"\x34\x12"
        doorbell.close()
        kernel.mappable = False
        assert not isinstance(hal.mmio_phys_to_virt(PhysAddr(0x38_0000_0104), 2, hot=True), MappedFile)


@pytest.mark.parametrize(
    ("address", "size"), [(0, 4), (0x10, 4), (0x38_0000_4000, 4), (0x38_0000_3FFE, 4), (1 << 63, 1)]
)
def test_registers_outside_every_bar_are_refused(kernel: Kernel, address: int, size: int) -> None:
    with kernel.hal() as hal, pytest.raises(InvalidParam, match=f"in no MemoryBar of {DISK}"):
        hal.mmio_phys_to_virt(PhysAddr(address), size)


def test_configuration_space_is_the_region_of_that_name(kernel: Kernel) -> None:
    with kernel.hal() as hal:
        access = hal.config_access()
        access.write(4, 2, 0x0406)
        assert access.size == 0x100
        assert kernel.device_file.read_bytes()[(7 << 12) + 4 :][:2] == b"\x06\x04"


def test_a_function_that_cannot_be_reset_says_so(kernel: Kernel) -> None:
    with kernel.hal() as hal, pytest.raises(SetupError, match=f"{DISK} cannot be reset by VFIO"):
        hal.reset()


def test_memory_for_a_device_that_goes_past_the_iommu_is_mapped_at_its_physical_address(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pagemap = huge_pages_on_paper(monkeypatch)
    with kernel.hal() as hal:
        hal.use_physical_addresses()
        for direction, flags in ((BufferDirection.DriverToDevice, 1), (BufferDirection.DeviceToDriver, 2)):
            paddr, vaddr = hal.dma_alloc(1, direction)
            assert kernel.mapped[paddr] == (flags, vaddr, HUGE_PAGE), "the direction is enforced all the same"
            assert paddr == pagemap.physical_of(vaddr)
    assert kernel.mapped == {}
    assert pagemap.closed


def test_a_physical_address_that_the_iommu_does_not_take_is_an_error_and_its_page_is_free(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge_pages_on_paper(monkeypatch)
    kernel.fail[vfio.IOMMU_MAP_DMA] = errno.EINVAL
    before = mapped()
    with kernel.hal() as hal:
        hal.use_physical_addresses()
        with pytest.raises(DmaError, match="cannot map 2048 KiB"):
            hal.dma_alloc(1, BufferDirection.Both)
        assert mapped() == before


def test_addresses_cannot_be_changed_under_memory_that_is_mapped(kernel: Kernel) -> None:
    with kernel.hal() as hal:
        hal.dma_alloc(1, BufferDirection.Both)
        with pytest.raises(AssertionError, match="mapped elsewhere already"):
            hal.use_physical_addresses()


# --- Memory of a caller's own -----------------------------------------------------------------------------------------


def test_pages_of_a_caller_are_mapped_as_they_are_and_unmapped_before_they_are_given_back(kernel: Kernel) -> None:
    with mmap.mmap(-1, 8192) as pages, mmap.mmap(-1, 4096, prot=mmap.PROT_READ) as constant, kernel.hal() as hal:
        first, second = hal.register(pages), hal.register(constant)
        assert kernel.mapped == {
            first: (3, address_of(pages), 8192),
            second: (1, address_of(constant), 4096),
        }
        hal.unregister(first)
        assert list(kernel.mapped) == [second]
        hal.register(pages)
        hal.close()
        assert kernel.mapped == {}


def test_pages_that_cannot_be_pinned_are_an_error_and_leave_nothing(kernel: Kernel) -> None:
    kernel.fail = {vfio.IOMMU_MAP_DMA: errno.ENOMEM}
    with mmap.mmap(-1, 4096) as pages, kernel.hal() as hal:
        for _ in range(2):
            with pytest.raises(DmaError, match="cannot pin 4 KiB for the device"):
                hal.register(pages)
        kernel.fail = {}
        hal.unregister(hal.register(pages))


def test_pages_are_not_shown_to_a_device_that_may_go_past_the_iommu(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge_pages_on_paper(monkeypatch)
    with mmap.mmap(-1, 4096) as pages, kernel.hal() as hal:
        hal.use_physical_addresses()
        with pytest.raises(Unsupported, match=r"use alloc\(\)"):
            hal.register(pages)
        assert kernel.mapped == {}
