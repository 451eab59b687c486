"""A model of the kernel's vhost-vdpa over a fake device. It is stricter than the kernel where that leaves a rule to the
device.

Linux, drivers/vhost/vdpa.c and drivers/vhost/vhost.c.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hwloop.device.fake_blk import FakeBlk
from hwloop.hal import vhost_vdpa_ioctl as vdpa
from hwloop.hal.fake import DmaFault, FakeHal
from hwloop.spec import BlkFeature, DeviceStatus, Feature
from hwloop.transport.fake_device import FakeDevice, RuleBroken

MODERN_DISK = int(
    Feature.VERSION_1 | Feature.ACCESS_PLATFORM | BlkFeature.FLUSH | BlkFeature.BLK_SIZE | BlkFeature.CONFIG_WCE
)
_CONFIG_VECTOR = 1 << 20


def refusal(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Iotlb(FakeHal):
    """What the device reaches: the mappings of the node, in the direction that each allows."""

    def __init__(self) -> None:
        super().__init__()
        self.mapped: dict[int, tuple[int, int, int]] = {}
        """Device address to size, our address, access."""

    def translate(self, address: int, length: int, writable: bool) -> int:
        for iova, (size, vaddr, access) in self.mapped.items():
            if iova <= address and address + length <= iova + size:
                if access & (2 if writable else 1):
                    return vaddr + address - iova
                raise DmaFault(f"the device may not {'write' if writable else 'read'} at {address:#x}")
        raise DmaFault(f"nothing is mapped for the device at {address:#x}")

    def overlaps(self, iova: int, size: int) -> bool:
        return any(iova < at + length and at < iova + size for at, (length, _, _) in self.mapped.items())


class VdpaKernel:
    """A node `path`, and the device behind it. `fail` maps a request to the errno it is refused with, `refuse_map` is
    the errno of every mapping. `calls` are the requests in order; `kicks` and `config_call` descriptors of the
    kernel's own."""

    def __init__(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        make: Callable[[FakeHal], FakeDevice] | None = None,
    ) -> None:
        self.path = tmp_path / "vhost-vdpa-0"
        self.path.touch()
        self.iotlb = Iotlb()
        self.device = make(self.iotlb) if make else FakeBlk(self.iotlb, 1 << 20, features=MODERN_DISK)
        self.fail: dict[int, int] = {}
        self.refuse_map = 0
        self.refuse_open = 0
        self.offered_backend = 0x1 << 1 | 1 << 2 | 1 << 3 | 1 << 8
        self.backend = 0
        self.iova_range = (0, (1 << 64) - 1)
        self.owned = False
        self.calls: list[int] = []
        self.messages: list[bytes] = []
        self.nodes: set[int] = set()
        self.kicks: dict[int, int] = {}
        self.vring_calls: dict[int, int] = {}
        self.config_call: int | None = None
        self.bases: dict[int, int] = {}
        self.areas: dict[int, tuple[int, int, int]] = {}
        self.device.send_message = self._call
        self._open, self._close, self._eventfd_write = os.open, os.close, os.eventfd_write
        for name, replaced in (("open", self.open), ("close", self.close), ("eventfd_write", self.eventfd_write)):
            monkeypatch.setattr(os, name, replaced)
        monkeypatch.setattr(vdpa, "ioctl", self.ioctl)
        monkeypatch.setattr(vdpa, "write", self.write)

    @property
    def mapped(self) -> dict[int, tuple[int, int, int]]:
        return self.iotlb.mapped

    # --- The node -----------------------------------------------------------------------------------------------------

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if str(path) != str(self.path):
            return self._open(path, flags, mode, **more)
        if self.nodes or self.refuse_open:
            raise refusal(self.refuse_open or errno.EBUSY)
        assert flags & os.O_CLOEXEC
        fd = self._open(path, flags, mode, **more)
        self.nodes.add(fd)
        self.device.reset_itself()
        return fd

    def close(self, fd: int) -> None:
        if fd in self.nodes:
            self.nodes.discard(fd)
            self.owned = False
            self.device.reset_itself()
            self.mapped.clear()
            for kept in (*self.kicks.values(), *self.vring_calls.values(), self.config_call):
                if kept is not None:
                    self._close(kept)
            self.kicks, self.vring_calls, self.config_call = {}, {}, None
        self._close(fd)

    def ioctl(self, fd: int, request: int, argument: Any = b"") -> int:
        assert fd in self.nodes, "a call on something else than the node"
        self.calls.append(request)
        if request in self.fail:
            raise refusal(self.fail[request])
        handler = self._handlers().get(request)
        if handler is None:
            raise refusal(errno.ENOTTY)
        assert len(argument) >= request >> 16 & 0x3FFF, "the kernel reads as much as the request says"
        if not self.owned and request != vdpa.SET_OWNER:
            raise RuleBroken("the owner comes before everything else")
        answer = handler(bytes(argument))
        if answer is not None:
            argument[: len(answer)] = answer
        return 0

    def _handlers(self) -> dict[int, Callable[[bytes], bytes | None]]:
        device = self.device
        return {
            vdpa.SET_OWNER: self._own,
            vdpa.GET_BACKEND_FEATURES: lambda data: struct.pack("<Q", self.offered_backend),
            vdpa.SET_BACKEND_FEATURES: self._set_backend,
            vdpa.GET_DEVICE_ID: lambda data: struct.pack("<I", int(device.device_type)),
            vdpa.GET_IOVA_RANGE: lambda data: struct.pack("<2Q", *self.iova_range),
            vdpa.GET_FEATURES: lambda data: struct.pack("<Q", device.offered),
            vdpa.SET_FEATURES: self._set_features,
            vdpa.GET_STATUS: lambda data: bytes([device.read_status()]),
            vdpa.SET_STATUS: self._set_status,
            vdpa.GET_CONFIG_SIZE: lambda data: struct.pack("<I", len(device.config)),
            vdpa.GET_CONFIG: self._get_config,
            vdpa.SET_CONFIG: self._set_config,
            vdpa.SET_CONFIG_CALL: self._set_config_call,
            vdpa.GET_VQS_COUNT: lambda data: struct.pack("<I", len(device.queues)),
            vdpa.GET_VRING_NUM: lambda data: struct.pack("<H", device.queues[0].max_size),
            vdpa.SET_VRING_NUM: self._set_size,
            vdpa.SET_VRING_BASE: self._set_base,
            vdpa.SET_VRING_ADDR: self._set_addresses,
            vdpa.SET_VRING_KICK: self._set_kick,
            vdpa.SET_VRING_CALL: self._set_call,
            vdpa.SET_VRING_ENABLE: self._enable,
        }

    # --- Calls --------------------------------------------------------------------------------------------------------

    def _own(self, data: bytes) -> None:
        if self.owned:
            raise refusal(errno.EBUSY)
        self.owned = True

    def _set_backend(self, data: bytes) -> None:
        (features,) = struct.unpack("<Q", data)
        if features & ~self.offered_backend:
            raise refusal(errno.EOPNOTSUPP)
        self.backend = features

    def _set_features(self, data: bytes) -> None:
        if self.device.status & DeviceStatus.FEATURES_OK:
            raise refusal(errno.EBUSY)
        self.device.write_features(struct.unpack("<Q", data)[0])

    def _set_status(self, data: bytes) -> None:
        (value,) = data
        if value and int(self.device.status) & ~value:
            raise refusal(errno.EINVAL)
        before = self.device.status
        self.device.bus_master = bool(value & DeviceStatus.DRIVER_OK)
        self.device.write_status(value)
        if value & ~before & DeviceStatus.DRIVER_OK:
            # As the kernel does: one call of every queue, for nothing.
            for queue in self.vring_calls:
                self._call(queue)

    def _config_part(self, data: bytes) -> slice:
        offset, length = struct.unpack_from("<2I", data)
        if not length or offset + length > len(self.device.config):
            raise refusal(errno.EINVAL)
        assert len(data) == 8 + length
        return slice(offset, offset + length)

    def _get_config(self, data: bytes) -> bytes:
        return data[:8] + bytes(self.device.config[self._config_part(data)])

    def _set_config(self, data: bytes) -> None:
        part = self._config_part(data)
        self.device.write_config(part.start, part.stop - part.start, int.from_bytes(data[8:], "little"))

    def _set_config_call(self, data: bytes) -> None:
        (fd,) = struct.unpack("<i", data)
        self.config_call = os.dup(fd)
        self.device.config_vector = _CONFIG_VECTOR

    def _queue(self, data: bytes) -> tuple[int, int]:
        index, value = struct.unpack("<Ii", data)
        if index >= len(self.device.queues):
            raise refusal(errno.ENOBUFS)
        return index, value

    def _set_size(self, data: bytes) -> None:
        index, size = self._queue(data)
        if not 0 < size <= 0xFFFF or size & (size - 1):
            raise refusal(errno.EINVAL)
        self.device.queues[index].size = size

    def _set_base(self, data: bytes) -> None:
        index, base = self._queue(data)
        self.bases[index] = base & 0xFFFF_FFFF

    def _set_addresses(self, data: bytes) -> None:
        index, flags, desc, used, avail, log = struct.unpack("<2I4Q", data)
        if flags or log % 4 or used % 4 or avail % 2:
            raise refusal(errno.EINVAL)
        assert desc % 16 == 0
        queue = self.device.queues[index]
        queue.desc, queue.driver, queue.device = desc, avail, used

    def _set_kick(self, data: bytes) -> None:
        index, fd = self._queue(data)
        if index in self.kicks:
            self._close(self.kicks[index])
        self.kicks[index] = os.dup(fd)

    def _set_call(self, data: bytes) -> None:
        index, fd = self._queue(data)
        if index in self.vring_calls:
            self._close(self.vring_calls[index])
        self.vring_calls[index] = os.dup(fd)
        self.device.queues[index].vector = index

    def _enable(self, data: bytes) -> None:
        index, on = self._queue(data)
        if on != 1 or index not in self.kicks or index not in self.bases:
            raise RuleBroken(f"queue {index} was enabled before it had all that it needs")
        if self.device.status & DeviceStatus.DRIVER_OK:
            raise RuleBroken(f"queue {index} was enabled after DRIVER_OK, which this device does not take")
        self.device.enable(index)

    # --- Mappings and events ------------------------------------------------------------------------------------------

    def write(self, fd: int, data: bytes) -> int:
        """A message about mappings, which are told apart only by EFAULT (vhost_chr_write_iter)."""
        assert fd in self.nodes
        assert self.backend & 1 << 1, "messages of version 2 were not agreed on"
        assert len(data) == 72
        self.messages.append(data)
        version, space, iova, size, vaddr, access, kind = struct.unpack("<2I3Q2B38x", data)
        assert (version, space) == (2, 0)
        if not self.owned:
            raise refusal(errno.EFAULT)
        if kind == 2:
            self._map(iova, size, vaddr, access)
        else:
            assert kind == 3
            self._unmap(iova, size)
        return 72

    def _map(self, iova: int, size: int, vaddr: int, access: int) -> None:
        if self.refuse_map:
            raise refusal(self.refuse_map)
        if not size:
            raise refusal(errno.EINVAL)
        first, last = self.iova_range
        if self.iotlb.overlaps(iova, size) or iova < first or iova + size - 1 > last:
            raise refusal(errno.EFAULT)
        assert not (iova | size | vaddr) % 4096
        assert access in (1, 2, 3)
        self.mapped[iova] = (size, vaddr, access)

    def _unmap(self, iova: int, size: int) -> None:
        if self.device.status & DeviceStatus.DRIVER_OK:
            raise RuleBroken("memory was taken from a device at work")
        assert self.mapped.pop(iova)[0] == size

    def eventfd_write(self, fd: int, value: int) -> None:
        """The kernel waits for kicks in a thread of its own; here it hears of each at once."""
        self._eventfd_write(fd, value)
        for queue, kick in self.kicks.items():
            with suppress(BlockingIOError):
                os.eventfd_read(kick)
                self.device.notify(queue)

    def _call(self, vector: int | None) -> bool:
        line = self.config_call if vector == _CONFIG_VECTOR else self.vring_calls.get(-1 if vector is None else vector)
        if line is not None:
            self._eventfd_write(line, 1)
        return True


def disk_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **shape: Any) -> VdpaKernel:
    """A disk behind the node; keyword arguments are those of `FakeBlk`."""
    shape.setdefault("features", MODERN_DISK)
    return VdpaKernel(tmp_path, monkeypatch, lambda hal: FakeBlk(hal, 1 << 20, **shape))
