"""hwloop drives virtio devices from Linux user space.

    import hwloop

    with hwloop.open("0000:00:05.0") as disk:
        print(disk.device_name(), disk.num_blocks())
        disk.write(8, b"x" * 512)
        disk.flush()

Names are imported when they are first used, so that `import hwloop` costs little.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwloop.aio import AsyncDisk, aopen
    from hwloop.device.base import BaseDriverOps, BlockDriverOps, Device
    from hwloop.device.blk import VirtioBlk, VirtIoBlkDev
    from hwloop.device.blk_cache import CacheMode
    from hwloop.device.blk_formats import Lifetime, ZonedModel, ZoneState, ZoneType
    from hwloop.device.blk_limits import BlkLimits
    from hwloop.device.blk_zoned import Zone
    from hwloop.device.console import VirtIOConsole, VirtioConsole
    from hwloop.device.rng import VirtioRng
    from hwloop.device.svirtb import SvirtbBlk
    from hwloop.errors import DeviceError, DriverError, HwloopError
    from hwloop.hal.base import BufferDirection, Dma, Hal
    from hwloop.owning_queue import OwningQueue
    from hwloop.probe import probe
    from hwloop.queue import VirtQueue
    from hwloop.session import open  # noqa: A004
    from hwloop.spec import PAGE_SIZE, DeviceStatus, DeviceType, InterruptStatus, PhysAddr
    from hwloop.target import Target
    from hwloop.transport.base import Transport
    from hwloop.transport.some import SomeTransport

_HOMES = {
    "AsyncDisk": "hwloop.aio",
    "BaseDriverOps": "hwloop.device.base",
    "BlkLimits": "hwloop.device.blk_limits",
    "BlockDriverOps": "hwloop.device.base",
    "BufferDirection": "hwloop.hal.base",
    "CacheMode": "hwloop.device.blk_cache",
    "Device": "hwloop.device.base",
    "DeviceError": "hwloop.errors",
    "DeviceStatus": "hwloop.spec",
    "DeviceType": "hwloop.spec",
    "Dma": "hwloop.hal.base",
    "DriverError": "hwloop.errors",
    "Hal": "hwloop.hal.base",
    "HwloopError": "hwloop.errors",
    "InterruptStatus": "hwloop.spec",
    "Lifetime": "hwloop.device.blk_formats",
    "OwningQueue": "hwloop.owning_queue",
    "PAGE_SIZE": "hwloop.spec",
    "PhysAddr": "hwloop.spec",
    "SomeTransport": "hwloop.transport.some",
    "SvirtbBlk": "hwloop.device.svirtb",
    "Target": "hwloop.target",
    "Transport": "hwloop.transport.base",
    "VirtIOConsole": "hwloop.device.console",
    "VirtIoBlkDev": "hwloop.device.blk",
    "VirtQueue": "hwloop.queue",
    "VirtioBlk": "hwloop.device.blk",
    "VirtioConsole": "hwloop.device.console",
    "VirtioRng": "hwloop.device.rng",
    "Zone": "hwloop.device.blk_zoned",
    "ZoneState": "hwloop.device.blk_formats",
    "ZoneType": "hwloop.device.blk_formats",
    "ZonedModel": "hwloop.device.blk_formats",
    "aopen": "hwloop.aio",
    "open": "hwloop.session",
    "probe": "hwloop.probe",
}

__all__ = [
    "PAGE_SIZE",
    "AsyncDisk",
    "BaseDriverOps",
    "BlkLimits",
    "BlockDriverOps",
    "BufferDirection",
    "CacheMode",
    "Device",
    "DeviceError",
    "DeviceStatus",
    "DeviceType",
    "Dma",
    "DriverError",
    "Hal",
    "HwloopError",
    "InterruptStatus",
    "Lifetime",
    "OwningQueue",
    "PhysAddr",
    "SomeTransport",
    "SvirtbBlk",
    "Target",
    "Transport",
    "VirtIOConsole",
    "VirtIoBlkDev",
    "VirtQueue",
    "VirtioBlk",
    "VirtioConsole",
    "VirtioRng",
    "Zone",
    "ZoneState",
    "ZoneType",
    "ZonedModel",
    "aopen",
    "open",
    "probe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hwloop' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
