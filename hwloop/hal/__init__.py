"""Memory that the device can reach, one file a way of getting it.

To add a HAL: one file, and one line in `HALS`; the contract suite then runs over it.
"""

from hwloop.hal.base import BounceHal, BufferDirection, Dma, Hal
from hwloop.registry import Registry

HALS: Registry[type[Hal]] = Registry(
    "HAL",
    {
        "devmem": "hwloop.hal.devmem:DevMemHal",
        "fake": "hwloop.hal.fake:FakeHal",
        "iommufd": "hwloop.hal.iommufd:IommufdHal",
        "qtest": "hwloop.hal.qtest:QtestHal",
        "uio": "hwloop.hal.uio:UioHal",
        "vfio": "hwloop.hal.vfio:VfioHal",
        "vfio-noiommu": "hwloop.hal.vfio_noiommu:VfioNoIommuHal",
        "vhost": "hwloop.hal.vhost:VhostHal",
        "vhost-vdpa": "hwloop.hal.vhost_vdpa:VhostVdpaHal",
    },
)

__all__ = ["HALS", "BounceHal", "BufferDirection", "Dma", "Hal"]
