"""PCI configuration space: functions and their addresses, the header, capabilities, base address registers.

A `ConfigSpace` reads and writes the registers of one function through a `ConfigAccess`: the `config` file of sysfs, a
window of a file descriptor (a VFIO region), memory (`CamAccess`), two I/O ports (`PortAccess`), or bytes. A `PciRoot`
finds functions on a bus and behind bridges. Where no firmware did, `number_buses` and `allocate_bus` give out bus
numbers and addresses. It knows nothing about what a function is for.
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
from pci.allocate import allocate_bars, allocate_bus
from pci.bar import BarInfo, IoBar, MemoryBar, MemoryBarType, parse_resource_file, read_bar, read_bars
from pci.bridge import BusNumbers, number_buses, read_bus_numbers, write_bus_numbers
from pci.bridge_window import read_windows, write_window
from pci.cam import Cam, CamAccess
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
from pci.errors import (
    AllocationError,
    BridgeError,
    CapabilityError,
    ConfigAccessError,
    InvalidBarType,
    PciError,
)
from pci.fake_bus import FakeBridge, FakeBusAccess, FakeCam, FakePorts
from pci.function import DeviceFunction
from pci.header import Command, DeviceFunctionInfo, HeaderType, Status
from pci.msix import MsixEntry, MsixInfo, MsixTable, disable_msix, enable_msix
from pci.port import CONFIG_PORT, PortAccess
from pci.registers import Registers
from pci.root import BusDeviceIterator, PciRoot
from pci.window import AddressWindow, AddressWindows, Space

__all__ = [
    "CAPABILITY_NAMES",
    "CONFIG_PORT",
    "CONFIG_SIZE",
    "EXTENDED_CAPABILITY_NAMES",
    "EXTENDED_CONFIG_SIZE",
    "AbsentConfigAccess",
    "AddressWindow",
    "AddressWindows",
    "AllocationError",
    "BarInfo",
    "BridgeError",
    "BusDeviceIterator",
    "BusNumbers",
    "BytesConfigAccess",
    "BytesRootAccess",
    "Cam",
    "CamAccess",
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
    "FakeBridge",
    "FakeBusAccess",
    "FakeCam",
    "FakePorts",
    "FdConfigAccess",
    "HeaderType",
    "InvalidBarType",
    "IoBar",
    "MemoryBar",
    "MemoryBarType",
    "MsixEntry",
    "MsixInfo",
    "MsixTable",
    "PciError",
    "PciRoot",
    "PortAccess",
    "RecordedAccess",
    "Registers",
    "RootAccess",
    "Space",
    "Status",
    "SysfsConfigAccess",
    "SysfsRootAccess",
    "allocate_bars",
    "allocate_bus",
    "disable_msix",
    "enable_msix",
    "new_function",
    "number_buses",
    "parse_resource_file",
    "read_bar",
    "read_bars",
    "read_bus_numbers",
    "read_windows",
    "write_bus_numbers",
    "write_window",
]
