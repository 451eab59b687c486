"""VhostVdpaHal over a model of the kernel: what it agrees on, what it maps where, and how it explains a refusal."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from pathlib import Path
from typing import Any

import pytest

from hwloop.errors import (
    AlreadyUsed,
    DeviceClosed,
    DeviceLost,
    DmaError,
    InvalidParam,
    SetupError,
    Unsupported,
    exit_code_of,
)
from hwloop.hal import HALS
from hwloop.hal import vhost_vdpa_ioctl as vdpa
from hwloop.hal.base import BufferDirection
from hwloop.hal.eventfd_interrupt import EventfdInterrupt
from hwloop.hal.vhost_vdpa import VhostVdpaHal
from hwloop.spec import PhysAddr
from tests.unit.hwloop.transport.vdpa_kernel import VdpaKernel, disk_kernel


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VdpaKernel:
    return disk_kernel(tmp_path, monkeypatch)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_it_is_in_the_table() -> None:
    assert HALS.get("vhost-vdpa") is VhostVdpaHal


# --- The way in and the way out ---------------------------------------------------------------------------------------


def test_the_device_is_owned_before_anything_else_and_given_up_with_the_node(kernel: VdpaKernel) -> None:
    before = open_descriptors()
    with VhostVdpaHal(kernel.path) as hal:
        assert kernel.calls[0] == vdpa.SET_OWNER
        assert kernel.nodes == {hal.fd}
        assert kernel.backend == 1 << 1 | 1 << 8, "of what is offered, only what is used"
    assert (kernel.owned, kernel.nodes) == (False, set())
    assert open_descriptors() == before
    hal.close()
    with pytest.raises(DeviceLost, match="vhost-vdpa-0 is not open in this process any more"):
        hal.fd  # noqa: B018
    with pytest.raises(DeviceClosed):
        hal.dma_alloc(1, BufferDirection.Both)


@pytest.mark.parametrize(
    "request_number",
    [vdpa.SET_OWNER, vdpa.GET_BACKEND_FEATURES, vdpa.SET_BACKEND_FEATURES, vdpa.GET_IOVA_RANGE],
)
@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOTTY, "is no vhost-vdpa node, or its kernel is too old; see: ls"), (errno.EBUSY, "cannot own .*busy")],
)
def test_a_refusal_on_the_way_in_leaves_nothing_open(
    kernel: VdpaKernel, request_number: int, code: int, words: str
) -> None:
    before = open_descriptors()
    kernel.fail[request_number] = code
    with pytest.raises(SetupError, match=words) as caught:
        VhostVdpaHal(kernel.path)
    assert caught.value.errno == code
    assert kernel.nodes == set()
    assert open_descriptors() == before


def test_a_kernel_without_messages_of_version_2_is_refused(kernel: VdpaKernel) -> None:
    kernel.offered_backend = 1 << 2
    with pytest.raises(SetupError, match=r"no mappings by messages of version 2 \(it offers 0x4\)"):
        VhostVdpaHal(kernel.path)
    assert kernel.nodes == set()


def test_a_node_that_is_not_there_says_how_to_get_one(kernel: VdpaKernel) -> None:
    with pytest.raises(SetupError, match=r"vhost-vdpa-9: No such file.*modprobe vhost_vdpa"):
        VhostVdpaHal(kernel.path.with_name("vhost-vdpa-9"))


def test_an_ordinary_user_is_told_to_become_root(kernel: VdpaKernel) -> None:
    kernel.refuse_open = errno.EACCES
    with pytest.raises(SetupError, match="vhost-vdpa-0: Permission denied; run as root"):
        VhostVdpaHal(kernel.path)


def test_a_node_that_is_open_already_is_a_refusal(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path), pytest.raises(AlreadyUsed, match=r"in use by another process; .*fuser") as caught:
        VhostVdpaHal(kernel.path)
    assert exit_code_of(caught.value) == 3


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_memory_is_mapped_inside_the_range_and_as_far_as_the_device_needs(kernel: VdpaKernel) -> None:
    kernel.iova_range = (0x4000_0000, 0x4FFF_FFFF)
    with VhostVdpaHal(kernel.path) as hal:
        for direction, access in (
            (BufferDirection.DriverToDevice, 1),
            (BufferDirection.DeviceToDriver, 3),
            (BufferDirection.Both, 3),
        ):
            paddr, vaddr = hal.dma_alloc(1, direction)
            size, at, allowed = kernel.mapped[paddr]
            assert (at, allowed) == (vaddr, access)
            assert 0x4000_0000 <= paddr <= paddr + size - 1 <= 0x4FFF_FFFF
        assert len(kernel.mapped) == 3
        hal.release_memory()
        assert kernel.mapped == {}


def test_memory_is_of_a_file_that_another_process_can_be_given(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path) as hal:
        _, vaddr = hal.dma_alloc(1, BufferDirection.Both)
        line = next(line for line in Path("/proc/self/maps").read_text().splitlines() if line.startswith(f"{vaddr:x}-"))
        assert "rw-s" in line, "the kernel gives a process no private memory"
        assert "/memfd:hwloop-dma" in line


def test_a_buffer_goes_out_and_comes_back(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path) as hal:
        buffer = bytearray(b"out" * 100)
        paddr = hal.share(buffer, BufferDirection.Both)
        at = kernel.iotlb.translate(paddr, 300, writable=True)
        assert ctypes.string_at(at, 300) == buffer
        ctypes.memmove(at, b"in", 2)
        hal.unshare(paddr, buffer, BufferDirection.Both)
        assert buffer[:6] == b"intout"


def test_a_mapping_that_is_refused_without_a_reason_names_the_limit(
    kernel: VdpaKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64 << 10, 64 << 10))
    kernel.refuse_map = errno.EFAULT
    with VhostVdpaHal(kernel.path) as hal:
        with pytest.raises(DmaError, match=r"did not map 2048 KiB.*does not say why.*64 KiB; raise it with: ulimit"):
            hal.dma_alloc(1, BufferDirection.Both)
        kernel.refuse_map = errno.EPERM
        with pytest.raises(DmaError, match="cannot map 2048 KiB for the device: Operation not permitted"):
            hal.dma_alloc(1, BufferDirection.Both)
        kernel.refuse_map = 0
        paddr, _ = hal.dma_alloc(1, BufferDirection.Both)
        assert list(kernel.mapped) == [paddr], "the address of what was refused is free again"


def test_memory_in_quarantine_is_the_kernels_to_take_back(kernel: VdpaKernel) -> None:
    hal = VhostVdpaHal(kernel.path)
    paddr, _ = hal.dma_alloc(1, BufferDirection.Both)
    hal.quarantine()
    hal.release_memory()
    assert paddr in kernel.mapped
    hal.close()
    assert kernel.mapped == {}


def test_a_device_that_does_not_let_go_of_memory_is_closed_all_the_same(
    kernel: VdpaKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hal = VhostVdpaHal(kernel.path)
    hal.dma_alloc(1, BufferDirection.Both)

    def refuse(fd: int, data: bytes) -> int:
        raise OSError(errno.EFAULT, "Bad address")

    monkeypatch.setattr(vdpa, "write", refuse)
    with pytest.raises(OSError, match="Bad address"):
        hal.close()
    assert kernel.nodes == set()


def test_there_are_no_registers(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path) as hal, pytest.raises(Unsupported, match="no registers in memory"):
        hal.mmio_phys_to_virt(PhysAddr(0x1000), 4)


def test_a_child_lets_go_and_does_nothing_to_the_parents_device(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path) as hal:
        hal.dma_alloc(1, BufferDirection.Both)
        hal.call_line(None)
        before = (len(kernel.calls), len(kernel.messages))
        pid = os.fork()
        if not pid:
            try:
                open_here = kernel.nodes
                hal.close()
                os._exit(0 if (open_here, len(kernel.calls), len(kernel.messages)) == (set(), *before) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert kernel.nodes == {hal.fd}


# --- Interrupts -------------------------------------------------------------------------------------------------------


def test_a_vector_has_one_eventfd_and_the_device_another(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path) as hal:
        assert hal.call_line(3) == hal.call_line(3)
        assert len({hal.call_line(None), hal.call_line(0), hal.call_line(3), hal.config_line}) == 4
        with pytest.raises(InvalidParam, match="there is no vector 2048"):
            hal.interrupt(2048)


def test_an_interrupt_is_waited_for_with_a_deadline_and_taken_once(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path) as hal, hal.interrupt(1) as line:
        assert not line.needs_ack
        assert not line.wait(0.01)
        os.eventfd_write(hal.call_line(1), 3)
        assert line.wait(30)
        line.rearm()
        assert not line.wait(0)
        os.eventfd_write(hal.config_line, 1)
        assert not line.wait(0), "a vector tells of its queues alone"


def test_the_line_of_the_device_tells_of_its_configuration_until_that_is_acknowledged(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path) as hal, hal.interrupt() as line:
        assert line.needs_ack
        os.eventfd_write(hal.config_line, 1)
        assert line.wait(30)
        assert line.wait(30)
        os.eventfd_read(hal.config_line)
        assert not line.wait(0)


def test_an_interrupt_that_is_closed_does_not_wait(kernel: VdpaKernel) -> None:
    with VhostVdpaHal(kernel.path) as hal:
        line = hal.interrupt()
        assert isinstance(line, EventfdInterrupt)
        line.close()
        line.close()
        os.eventfd_write(hal.call_line(None), 1)
        assert not line.wait(10)


# --- The bytes of the system calls ------------------------------------------------------------------------------------


def test_the_request_numbers_are_those_of_the_kernel() -> None:
    """As a C compiler prints them for linux/vhost.h."""
    assert {name: getattr(vdpa, name) for name in REQUESTS} == REQUESTS


REQUESTS = {
    "GET_FEATURES": 0x8008AF00,
    "SET_FEATURES": 0x4008AF00,
    "SET_OWNER": 0xAF01,
    "SET_VRING_NUM": 0x4008AF10,
    "SET_VRING_ADDR": 0x4028AF11,
    "SET_VRING_BASE": 0x4008AF12,
    "SET_VRING_KICK": 0x4008AF20,
    "SET_VRING_CALL": 0x4008AF21,
    "SET_BACKEND_FEATURES": 0x4008AF25,
    "GET_BACKEND_FEATURES": 0x8008AF26,
    "GET_DEVICE_ID": 0x8004AF70,
    "GET_STATUS": 0x8001AF71,
    "SET_STATUS": 0x4001AF72,
    "GET_CONFIG": 0x8008AF73,
    "SET_CONFIG": 0x4008AF74,
    "SET_VRING_ENABLE": 0x4008AF75,
    "GET_VRING_NUM": 0x8002AF76,
    "SET_CONFIG_CALL": 0x4004AF77,
    "GET_IOVA_RANGE": 0x8010AF78,
    "GET_CONFIG_SIZE": 0x8004AF79,
    "GET_VQS_COUNT": 0x8004AF80,
}


def test_addresses_and_files_are_told_by_structures_of_the_kernels_size(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, bytes]] = []

    def ioctl(fd: int, request: int, argument: Any) -> int:
        told.append((request, bytes(argument)))
        return 0

    monkeypatch.setattr(vdpa, "ioctl", ioctl)
    vdpa.set_vring_addresses(1, 2, vdpa.VringAddresses(0x1000, 0x2000, 0x3000))
    vdpa.set_vring_kick(1, 2, -1)
    vdpa.write_config(1, 32, b"\x01")
    assert told == [
        (vdpa.SET_VRING_ADDR, struct.pack("<2I4Q", 2, 0, 0x1000, 0x3000, 0x2000, 0)),
        (vdpa.SET_VRING_KICK, struct.pack("<Ii", 2, -1)),
        (vdpa.SET_CONFIG, struct.pack("<2I", 32, 1) + b"\x01"),
    ]
