"""PCI configuration space: functions and their addresses, the header, capabilities, base address registers.

A `ConfigSpace` reads and writes the registers of one function through a `ConfigAccess`: the `config` file of sysfs, a
window of a file descriptor (a VFIO region), or bytes in memory. A `PciRoot` finds functions on a bus. It knows nothing
about what a function is for.
"""

from pci.access import (
    CONFIG_SIZE,
    EXTENDED_CONFIG_SIZE,
    AbsentConfigAccess,
    ConfigAccess,
    RootAccess,
)
from pci.access_bytes import BytesConfigAccess, BytesRootAccess, RecordedAccess, new_function
from pci.access_fd import FdConfigAccess
from pci.access_sysfs import SysfsConfigAccess, SysfsRootAccess
from pci.bar import BarInfo, IoBar, MemoryBar, MemoryBarType, parse_resource_file, read_bar, read_bars
from pci.capability import (
    CAPABILITY_NAMES,
    EXTENDED_CAPABILITY_NAMES,
    CapabilityId,
    CapabilityInfo,
    CapabilityIterator,
    ExtendedCapabilityInfo,
    ExtendedCapabilityIterator,
)
from pci.config import ConfigSpace
from pci.errors import CapabilityError, ConfigAccessError, InvalidBarType, PciError
from pci.function import DeviceFunction
from pci.header import Command, DeviceFunctionInfo, HeaderType, Status
from pci.msix import MsixInfo
from pci.root import BusDeviceIterator, PciRoot

__all__ = [
    "CAPABILITY_NAMES",
    "CONFIG_SIZE",
    "EXTENDED_CAPABILITY_NAMES",
    "EXTENDED_CONFIG_SIZE",
    "AbsentConfigAccess",
    "BarInfo",
    "BusDeviceIterator",
    "BytesConfigAccess",
    "BytesRootAccess",
    "CapabilityError",
    "CapabilityId",
    "CapabilityInfo",
    "CapabilityIterator",
    "Command",
    "ConfigAccess",
    "ConfigAccessError",
    "ConfigSpace",
    "DeviceFunction",
    "DeviceFunctionInfo",
    "ExtendedCapabilityInfo",
    "ExtendedCapabilityIterator",
    "FdConfigAccess",
    "HeaderType",
    "InvalidBarType",
    "IoBar",
    "MemoryBar",
    "MemoryBarType",
    "MsixInfo",
    "PciError",
    "PciRoot",
    "RecordedAccess",
    "RootAccess",
    "Status",
    "SysfsConfigAccess",
    "SysfsRootAccess",
    "new_function",
    "parse_resource_file",
    "read_bar",
    "read_bars",
]
