"""The bytes of the VFIO system calls (Linux, include/uapi/linux/vfio.h)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwloop.hal import vfio_ioctl as vfio

CALLS: list[tuple[int, int, Any]] = []


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Answers by request: bytes that the kernel stores, or the number that it returns."""
    answers: dict[int, Any] = {}
    CALLS.clear()

    def ioctl(fd: int, request: int, argument: Any = 0) -> int:
        CALLS.append((fd, request, bytes(argument) if isinstance(argument, (bytes, bytearray)) else argument))
        answer = answers.get(request, 0)
        if isinstance(answer, bytes):
            argument[: len(answer)] = answer
            return 0
        return int(answer)

    monkeypatch.setattr(vfio, "ioctl", ioctl)
    return answers


def test_the_request_numbers_are_those_of_the_kernel() -> None:
    assert vfio.GET_API_VERSION == 0x3B64
    assert {name: getattr(vfio, name) - 0x3B64 for name in (
        "GET_API_VERSION", "CHECK_EXTENSION", "SET_IOMMU", "GROUP_GET_STATUS", "GROUP_SET_CONTAINER",
        "GROUP_GET_DEVICE_FD", "DEVICE_GET_INFO", "DEVICE_GET_REGION_INFO", "DEVICE_RESET", "IOMMU_GET_INFO",
        "IOMMU_MAP_DMA", "IOMMU_UNMAP_DMA",
    )} == {
        "GET_API_VERSION": 0, "CHECK_EXTENSION": 1, "SET_IOMMU": 2, "GROUP_GET_STATUS": 3, "GROUP_SET_CONTAINER": 4,
        "GROUP_GET_DEVICE_FD": 6, "DEVICE_GET_INFO": 7, "DEVICE_GET_REGION_INFO": 8, "DEVICE_RESET": 11,
        "IOMMU_GET_INFO": 12, "IOMMU_MAP_DMA": 13, "IOMMU_UNMAP_DMA": 14,
    }  # fmt: skip


def test_a_mapping_is_32_bytes_and_its_end_24() -> None:
    vfio.map_dma(5, 0x7F00_0000_0000, 0x1_0000_0000, 0x20_0000, vfio.MAP_READ | vfio.MAP_WRITE)
    vfio.unmap_dma(5, 0x1_0000_0000, 0x20_0000)
    assert [
        (5, vfio.IOMMU_MAP_DMA, struct.pack("<IIQQQ", 32, 3, 0x7F00_0000_0000, 0x1_0000_0000, 0x20_0000)),
        (5, vfio.IOMMU_UNMAP_DMA, struct.pack("<IIQQ", 24, 0, 0x1_0000_0000, 0x20_0000)),
    ] == CALLS


def test_the_device_is_asked_for_by_a_name_that_ends_in_a_zero(kernel: dict[int, Any]) -> None:
    kernel[vfio.GROUP_GET_DEVICE_FD] = 17
    assert vfio.device_fd(4, "0000:00:05.0") == 17
    assert CALLS == [(4, vfio.GROUP_GET_DEVICE_FD, b"0000:00:05.0\0")]


def test_the_container_is_passed_by_its_descriptor() -> None:
    vfio.set_container(4, 9)
    assert [(4, vfio.GROUP_SET_CONTAINER, struct.pack("<i", 9))] == CALLS


def test_the_flags_of_group_and_device_are_read(kernel: dict[int, Any]) -> None:
    kernel[vfio.GROUP_GET_STATUS] = struct.pack("<II", 8, 3)
    kernel[vfio.DEVICE_GET_INFO] = struct.pack("<5I", 20, 3, 9, 5, 0)
    assert vfio.group_flags(1) & vfio.GROUP_FLAG_VIABLE
    assert vfio.device_flags(1) & vfio.DEVICE_FLAG_RESET
    assert [len(argument) for _, _, argument in CALLS] == [8, 20]


def test_a_region_is_told_by_its_index(kernel: dict[int, Any]) -> None:
    kernel[vfio.DEVICE_GET_REGION_INFO] = struct.pack("<4I2Q", 32, 7, 4, 0, 0x4000, 4 << 40)
    assert vfio.region_info(1, 4) == vfio.RegionInfo(4, 7, 0x4000, 4 << 40)
    assert CALLS[0][2] == struct.pack("<4I2Q", 32, 0, 4, 0, 0, 0)


def info_bytes(flags: int, capabilities: bytes, first: int) -> bytes:
    return struct.pack("<IIQI4x", 24 + len(capabilities), flags, 0xFFFF_F000, first) + capabilities


RANGES = struct.pack("<HHIII", 1, 1, 0, 2, 0) + struct.pack("<4Q", 0, 0xFEDF_FFFF, 0xFEF0_0000, (1 << 39) - 1)


def test_the_ranges_of_the_iommu_are_read() -> None:
    info = vfio.parse_iommu_info(info_bytes(3, RANGES, 24))
    assert info.page_sizes == 0xFFFF_F000
    assert info.ranges == [(0, 0xFEDF_FFFF), (0xFEF0_0000, (1 << 39) - 1)]
    assert info.mappings_available is None


def test_capabilities_are_a_chain() -> None:
    available = struct.pack("<HHII", 3, 1, 24 + 12, 65535)
    unknown_first = struct.pack("<HHI", 99, 1, 0)
    data = info_bytes(3, available + RANGES + unknown_first, 24)
    info = vfio.parse_iommu_info(data)
    assert info.mappings_available == 65535
    assert len(info.ranges) == 2


def test_an_old_kernel_tells_no_ranges() -> None:
    assert vfio.parse_iommu_info(info_bytes(1, RANGES, 24)).ranges == []


@given(st.binary(min_size=20, max_size=120), st.integers(0, 200))
def test_any_answer_is_decoded_in_bounded_time(data: bytes, first: int) -> None:
    patched = data[:4] + struct.pack("<I", 2) + data[8:16] + struct.pack("<I", first) + data[20:]
    vfio.parse_iommu_info(patched)


def test_a_chain_that_loops_ends() -> None:
    loop = struct.pack("<HHI", 99, 1, 24)
    assert vfio.parse_iommu_info(info_bytes(2, loop, 24)).ranges == []


def test_the_iommu_is_asked_twice_with_the_size_it_named(kernel: dict[int, Any]) -> None:
    kernel[vfio.IOMMU_GET_INFO] = struct.pack("<I", 72)
    vfio.iommu_info(3)
    assert [len(argument) for _, _, argument in CALLS] == [24, 72]
