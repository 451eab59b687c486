"""What a request means: one file a device driver.

To add a driver: one file, and one line in `DRIVERS`, under the label of its device type.
"""

from hwloop.device.base import BaseDriverOps, BlockDriverOps, Device, Driver
from hwloop.registry import Registry

DRIVERS: Registry[type[Device]] = Registry(
    "driver for device type",
    {
        "block": "hwloop.device.blk:VirtioBlk",
        "console": "hwloop.device.console:VirtioConsole",
        "entropy": "hwloop.device.rng:VirtioRng",
    },
)

__all__ = ["DRIVERS", "BaseDriverOps", "BlockDriverOps", "Device", "Driver"]
