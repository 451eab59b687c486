"""IommufdHal over a model of the kernel that is strict about the order and the bytes of the calls.

Debian's kernels have no iommufd, so this is all that has tested it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from pathlib import Path
from typing import Any

import pytest

from hwloop.errors import AlreadyUsed, DeviceClosed, DmaError, InvalidParam, SetupError, exit_code_of
from hwloop.hal import HALS
from hwloop.hal import iommufd_ioctl as iommufd
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.base import BufferDirection
from hwloop.hal.iommufd import IommufdHal
from hwloop.hal.memory import HUGE_PAGE
from hwloop.spec import PhysAddr
from tests.unit.hwloop.hal.paper import huge_pages_on_paper
from tests.unit.hwloop.hal.vfio_kernel import BARS, DISK, Handler, VfioKernel

NODE = "vfio/devices/vfio3"
EVERYTHING = (0, (1 << 64) - 1)


def refusal(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Kernel(VfioKernel):
    """VFIO's device nodes and iommufd. An address space may be anything until a device narrows it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(tmp_path, monkeypatch, ("iommu", NODE))
        monkeypatch.setattr(iommufd, "ioctl", self.ioctl)
        self.allowed = [(0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 39) - 1)]
        self.spaces: dict[int, dict[int, tuple[int, int, int]]] = {}
        self.bound: dict[int, int] = {}
        self.attached: dict[int, int] = {}
        self.asked: list[int] = []

    @property
    def mapped(self) -> dict[int, tuple[int, int, int]]:
        (space,) = self.spaces.values()
        return space

    def close(self, fd: int) -> None:
        if self.names.get(fd) == "vfio3":
            self.attached.pop(fd, None)
            self.bound.pop(fd, None)
        super().close(fd)

    def handlers(self) -> dict[int, Handler]:
        """VFIO's calls, but for the one that is on a bound device only, and iommufd's."""
        return {
            vfio.DEVICE_GET_REGION_INFO: self.region_info_when_bound,
            vfio.DEVICE_BIND_IOMMUFD: self.bind,
            vfio.DEVICE_ATTACH_IOMMUFD_PT: self.attach,
            vfio.DEVICE_DETACH_IOMMUFD_PT: self.detach,
            iommufd.IOAS_ALLOC: self.allocate,
            iommufd.IOAS_IOVA_RANGES: self.ranges,
            iommufd.IOAS_MAP: self.map,
            iommufd.IOAS_UNMAP: self.unmap,
            iommufd.DESTROY: self.destroy,
        }

    def check(self, fd: int, name: str) -> None:
        if self.names.get(fd) != name:
            raise refusal(errno.ENOTTY)

    def region_info_when_bound(self, fd: int, argument: bytearray) -> int:
        if fd not in self.bound:
            raise refusal(errno.EINVAL)
        return self.region_info(fd, argument)

    def bind(self, fd: int, argument: bytearray) -> int:
        self.check(fd, "vfio3")
        size, flags, iommu, _ = struct.unpack("<IIiI", argument)
        self.check(iommu, "iommu")
        if size < 16 or flags or fd in self.bound:
            raise refusal(errno.EINVAL)
        self.bound[fd] = iommu
        argument[12:] = struct.pack("<I", 77)
        self.steps.append("bind")
        return 0

    def attach(self, fd: int, argument: bytearray) -> int:
        self.check(fd, "vfio3")
        size, flags, space = struct.unpack("<3I", argument)
        if size < 12 or flags or fd not in self.bound:
            raise refusal(errno.EINVAL)
        if space not in self.spaces:
            raise refusal(errno.ENOENT)
        self.attached[fd] = space
        argument[8:] = struct.pack("<I", space + 1)
        self.steps.append("attach")
        return 0

    def detach(self, fd: int, argument: bytes) -> int:
        self.check(fd, "vfio3")
        assert struct.unpack("<2I", argument) == (8, 0)
        del self.attached[fd]
        self.steps.append("detach")
        return 0

    def allocate(self, fd: int, argument: bytearray) -> int:
        self.check(fd, "iommu")
        assert struct.unpack("<3I", argument) == (12, 0, 0)
        self.spaces[5] = {}
        argument[8:] = struct.pack("<I", 5)
        self.steps.append("allocate")
        return 0

    def destroy(self, fd: int, argument: bytes) -> int:
        self.check(fd, "iommu")
        size, space = struct.unpack("<2I", argument)
        assert size == 8
        if space in self.attached.values():
            raise refusal(errno.EBUSY)
        del self.spaces[space]
        self.steps.append("destroy")
        return 0

    def ranges(self, fd: int, argument: bytearray) -> int:
        self.check(fd, "iommu")
        size, space, room, reserved, where, _ = struct.unpack("<4I2Q", argument)
        assert (size, reserved) == (32, 0)
        assert space in self.spaces
        self.asked.append(room)
        allowed = self.allowed if space in self.attached.values() else [EVERYTHING]
        data = b"".join(struct.pack("<2Q", *pair) for pair in allowed[:room])
        ctypes.memmove(where, data, len(data))
        argument[8:12] = struct.pack("<I", len(allowed))
        if len(allowed) > room:
            raise refusal(errno.EMSGSIZE)
        return 0

    def map(self, fd: int, argument: bytearray) -> int:
        self.check(fd, "iommu")
        size, flags, space, reserved, vaddr, length, iova = struct.unpack("<4I3Q", argument)
        assert (size, reserved) == (40, 0)
        assert flags & iommufd.MAP_FIXED_IOVA, "the address is ours to choose"
        if not any(first <= iova and iova + length - 1 <= last for first, last in self.allowed):
            raise refusal(errno.EINVAL)
        assert ctypes.string_at(vaddr, length).count(0) == length, "fresh memory"
        self.spaces[space][iova] = (flags & ~iommufd.MAP_FIXED_IOVA, vaddr, length)
        self.steps.append(f"map {flags & ~iommufd.MAP_FIXED_IOVA}")
        return 0

    def unmap(self, fd: int, argument: bytearray) -> int:
        self.check(fd, "iommu")
        size, space, iova, length = struct.unpack("<2I2Q", argument)
        assert size == 24
        flags, vaddr, mapped = self.spaces[space].pop(iova)
        assert mapped == length
        ctypes.string_at(vaddr, length)  # Still ours: the device lets go before the memory does.
        self.steps.append(f"unmap {flags}")
        return 0

    def hal(self) -> IommufdHal:
        return IommufdHal(DISK, self.dev / NODE, BARS, str(self.dev))


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


def test_it_is_in_the_table() -> None:
    assert HALS.get("iommufd") is IommufdHal


# --- The way in and the way out ---------------------------------------------------------------------------------------


def test_the_device_is_bound_and_attached_and_left_in_the_opposite_order(kernel: Kernel) -> None:
    with kernel.hal() as hal:
        for direction in BufferDirection:
            hal.dma_alloc(1, direction)
    assert kernel.steps == [
        "open iommu", "allocate", "open vfio3", "bind", "attach", "map 4", "map 2", "map 6",
        "unmap 4", "unmap 2", "unmap 6", "detach", "close vfio3", "destroy", "close iommu",
    ]  # fmt: skip
    hal.close()
    assert kernel.steps[-1] == "close iommu", "closing twice is closing"
    with pytest.raises(DeviceClosed):
        hal.dma_alloc(1, BufferDirection.Both)


@pytest.mark.parametrize(
    "request_number",
    [vfio.DEVICE_BIND_IOMMUFD, vfio.DEVICE_ATTACH_IOMMUFD_PT, iommufd.IOAS_ALLOC, iommufd.IOAS_IOVA_RANGES],
)
def test_a_failure_on_the_way_in_closes_what_was_open(kernel: Kernel, request_number: int) -> None:
    kernel.fail[request_number] = errno.EIO
    with pytest.raises(OSError, match="Input/output error") as caught:
        kernel.hal()
    assert caught.value.errno == errno.EIO
    assert kernel.names == {}
    assert kernel.spaces == {}


def test_a_device_that_cannot_be_unmapped_is_closed_all_the_same(kernel: Kernel) -> None:
    hal = kernel.hal()
    hal.dma_alloc(1, BufferDirection.Both)
    kernel.fail[iommufd.IOAS_UNMAP] = errno.EINVAL
    with pytest.raises(OSError, match="Invalid argument"):
        hal.close()
    assert kernel.names == {}


def test_memory_in_quarantine_is_not_unmapped_but_the_device_is_closed(kernel: Kernel) -> None:
    hal = kernel.hal()
    hal.dma_alloc(1, BufferDirection.Both)
    hal.quarantine()
    hal.close()
    assert "unmap 6" not in kernel.steps
    assert kernel.names == {}


# --- Refusals, each with what to do -----------------------------------------------------------------------------------


def refused(kernel: Kernel, kind: type[OSError], words: str) -> OSError:
    with pytest.raises(kind, match=words) as caught:
        kernel.hal()
    assert kernel.names == {}
    assert kernel.spaces == {}
    return caught.value


def test_a_kernel_without_iommufd_is_explained(kernel: Kernel) -> None:
    (kernel.dev / "iommu").unlink()
    error = refused(kernel, SetupError, "cannot open .*/iommu: No such file.*; modprobe iommufd, or use hal=vfio")
    assert (error.errno, exit_code_of(error)) == (errno.ENOENT, 6)


def test_a_function_without_a_node_of_its_own_says_how_to_bind_it(kernel: Kernel) -> None:
    (kernel.dev / NODE).unlink()
    refused(kernel, SetupError, f"vfio3: No such file.*; bind it first: hwloop bind {DISK} --driver vfio-pci")


@pytest.mark.parametrize("name", ["iommu", "vfio3"])
def test_an_ordinary_user_is_told_to_become_root(kernel: Kernel, name: str) -> None:
    kernel.refuse[name] = errno.EACCES
    refused(kernel, SetupError, f"{name}: Permission denied; run as root")


def test_a_function_that_another_process_has_is_a_refusal(kernel: Kernel) -> None:
    kernel.fail[vfio.DEVICE_BIND_IOMMUFD] = errno.EBUSY
    error = refused(kernel, AlreadyUsed, f"{DISK} or its IOMMU group is in use by another process")
    assert exit_code_of(error) == 3


def test_a_group_with_another_owner_or_unsafe_interrupts_is_explained(kernel: Kernel) -> None:
    kernel.fail[vfio.DEVICE_BIND_IOMMUFD] = errno.EPERM
    error = refused(kernel, SetupError, "another owner, or .* cannot remap interrupts.*allow_unsafe_interrupts")
    assert error.errno == errno.EPERM


@pytest.mark.parametrize("request_number", [vfio.DEVICE_BIND_IOMMUFD, vfio.DEVICE_ATTACH_IOMMUFD_PT])
def test_another_failure_of_the_iommu_points_to_type_1_and_to_the_kernels_log(
    kernel: Kernel, request_number: int
) -> None:
    kernel.fail[request_number] = errno.EINVAL
    refused(kernel, SetupError, f"the IOMMU of {DISK} cannot be used.*Invalid argument; use hal=vfio; see: dmesg")


def test_a_limit_of_locked_memory_is_named_with_the_command_that_raises_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64 << 10, 64 << 10))
    kernel.fail[iommufd.IOAS_MAP] = errno.ENOMEM
    with kernel.hal() as hal:
        with pytest.raises(DmaError, match=r"cannot pin 2048 KiB.*64 KiB; raise it with: ulimit -l unlimited"):
            hal.dma_alloc(1, BufferDirection.Both)
        kernel.fail.clear()
        hal.dma_alloc(1, BufferDirection.Both)


def test_another_failure_to_map_has_the_kernels_errno(kernel: Kernel) -> None:
    kernel.fail[iommufd.IOAS_MAP] = errno.ENOSPC
    with kernel.hal() as hal, pytest.raises(DmaError, match="cannot map 2048 KiB") as caught:
        hal.dma_alloc(1, BufferDirection.Both)
    assert caught.value.errno == errno.ENOSPC


# --- Memory and registers ---------------------------------------------------------------------------------------------


def test_memory_is_mapped_where_the_device_allows_it_and_in_its_direction(kernel: Kernel) -> None:
    kernel.allowed = [(0x4000_0000, 0x403F_FFFF)]
    with kernel.hal() as hal:
        paddr, vaddr = hal.dma_alloc(2, BufferDirection.DeviceToDriver)
        ((iova, (flags, at, size)),) = kernel.mapped.items()
        assert iova <= paddr < iova + size
        assert vaddr - at == paddr - iova
        assert (iova, flags) == (0x4000_0000, iommufd.MAP_WRITEABLE), "the ranges are those of the attached device"


def test_a_long_list_of_ranges_is_asked_for_again(kernel: Kernel) -> None:
    kernel.allowed = [(start << 32, (start << 32) + 0x3F_FFFF) for start in range(1, 19)]
    with kernel.hal() as hal:
        for _ in range(18):
            hal.dma_alloc(2 * HUGE_PAGE // 4096, BufferDirection.Both)
        assert sorted(kernel.mapped) == [first for first, _ in kernel.allowed]
        with pytest.raises(DmaError, match="no 0x400000 bytes of device address space are free"):
            hal.dma_alloc(2 * HUGE_PAGE // 4096, BufferDirection.Both)
    assert kernel.asked == [16, 18]


def test_a_list_of_ranges_that_never_ends_is_cut_off(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def grow(fd: int, argument: bytearray) -> int:
        kernel.asked.append(struct.unpack_from("<3I", argument)[2])
        argument[8:12] = struct.pack("<I", 0xFFFF_FFFF)
        raise refusal(errno.EMSGSIZE)

    monkeypatch.setattr(kernel, "ranges", grow)
    with kernel.hal() as hal, pytest.raises(DmaError, match="no 0x200000 bytes"):
        hal.dma_alloc(1, BufferDirection.Both)
    assert kernel.asked == [16, 4096]


def test_memory_for_a_device_that_goes_past_the_iommu_is_mapped_at_its_physical_address(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pagemap = huge_pages_on_paper(monkeypatch)
    with kernel.hal() as hal:
        hal.use_physical_addresses()
        paddr, vaddr = hal.dma_alloc(1, BufferDirection.DriverToDevice)
        assert kernel.mapped[paddr] == (iommufd.MAP_READABLE, vaddr, HUGE_PAGE)
        assert paddr == pagemap.physical_of(vaddr)
    assert pagemap.closed


def test_registers_and_configuration_space_are_those_of_vfio(kernel: Kernel) -> None:
    with kernel.hal() as hal:
        hal.mmio_phys_to_virt(PhysAddr(0x38_0000_0010), 4).write32(0, 0xAABBCCDD)
        hal.config_access().write(4, 2, 0x0406)
        hal.port_region(0xC010, 2).write16(0, 0x1234)
        with pytest.raises(InvalidParam, match=f"in no MemoryBar of {DISK}"):
            hal.mmio_phys_to_virt(PhysAddr(0x10), 4)
    content = (kernel.dev / NODE).read_bytes()
    assert content[(4 << 12) + 0x10 :][:4] == bytes.fromhex("ddccbbaa")
    assert content[(7 << 12) + 4 :][:2] == b"\x06\x04"
    assert content[0x10:0x12] == b"\x34\x12"


# --- The bytes of the system calls ------------------------------------------------------------------------------------


def test_the_request_numbers_are_those_of_the_kernel() -> None:
    """The kernel's headers: ';' is 0x3B, iommufd counts from 0x80, VFIO from 100."""
    numbers = (
        iommufd.DESTROY, iommufd.IOAS_ALLOC, iommufd.IOAS_IOVA_RANGES, iommufd.IOAS_MAP, iommufd.IOAS_UNMAP,
    )  # fmt: skip
    assert numbers == (0x3B80, 0x3B81, 0x3B84, 0x3B85, 0x3B86)
    vfios = (vfio.DEVICE_BIND_IOMMUFD, vfio.DEVICE_ATTACH_IOMMUFD_PT, vfio.DEVICE_DETACH_IOMMUFD_PT)
    assert vfios == (0x3B76, 0x3B77, 0x3B78)


def test_a_mapping_is_40_bytes_and_its_end_24(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int, bytes]] = []

    def ioctl(fd: int, request: int, argument: Any) -> int:
        calls.append((fd, request, bytes(argument)))
        return 0

    monkeypatch.setattr(iommufd, "ioctl", ioctl)
    iommufd.map_memory(3, 5, 0x7F00_0000_0000, 0x1_0000_0000, 0x20_0000, iommufd.MAP_READABLE)
    assert iommufd.unmap_memory(3, 5, 0x1_0000_0000, 0x20_0000) == 0x20_0000
    assert calls == [
        (3, 0x3B85, struct.pack("<4I3Q", 40, 5, 5, 0, 0x7F00_0000_0000, 0x20_0000, 0x1_0000_0000)),
        (3, 0x3B86, struct.pack("<2I2Q", 24, 5, 0x1_0000_0000, 0x20_0000)),
    ]
