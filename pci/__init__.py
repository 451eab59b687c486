"""PCI configuration space: functions and their addresses, the header, capabilities, base address registers.

A `ConfigSpace` reads and writes the registers of one function through a `ConfigAccess`: the `config` file of sysfs, a
window of a file descriptor (a VFIO region), memory (`CamAccess`), two I/O ports (`PortAccess`), or bytes. A `PciRoot`
finds functions on a bus and behind bridges. Where no firmware did, `number_buses` and `allocate_bus` give out bus
numbers and addresses. It knows nothing about what a function is for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Imported when they are first used: a command needs few of these, and an emulated guest takes long over each.
_HOMES = {
    "AbsentConfigAccess": "pci.access",
    "AddressWindow": "pci.window",
    "AddressWindows": "pci.window",
    "AllocationError": "pci.errors",
    "BarInfo": "pci.bar",
    "BridgeError": "pci.errors",
    "BusDeviceIterator": "pci.root",
    "BusNumbers": "pci.bridge",
    "BytesConfigAccess": "pci.access_bytes",
    "BytesRootAccess": "pci.access_bytes",
    "CAPABILITY_NAMES": "pci.capability",
    "CONFIG_PORT": "pci.port",
    "CONFIG_SIZE": "pci.access",
    "Cam": "pci.cam",
    "CamAccess": "pci.cam",
    "CapabilityError": "pci.errors",
    "CapabilityId": "pci.capability",
    "CapabilityInfo": "pci.capability",
    "CapabilityIterator": "pci.capability",
    "Command": "pci.header",
    "ConfigAccess": "pci.access",
    "ConfigAccessError": "pci.errors",
    "ConfigSpace": "pci.config",
    "DeviceFunction": "pci.function",
    "DeviceFunctionInfo": "pci.header",
    "EXTENDED_CAPABILITY_NAMES": "pci.capability",
    "EXTENDED_CONFIG_SIZE": "pci.access",
    "ExtendedCapabilityInfo": "pci.capability",
    "ExtendedCapabilityIterator": "pci.capability",
    "FakeBridge": "pci.fake_bus",
    "FakeBusAccess": "pci.fake_bus",
    "FakeCam": "pci.fake_bus",
    "FakePorts": "pci.fake_bus",
    "FdConfigAccess": "pci.access_fd",
    "HeaderType": "pci.header",
    "InvalidBarType": "pci.errors",
    "IoBar": "pci.bar",
    "MemoryBar": "pci.bar",
    "MemoryBarType": "pci.bar",
    "MsixEntry": "pci.msix",
    "MsixInfo": "pci.msix",
    "MsixTable": "pci.msix",
    "PciError": "pci.errors",
    "PciRoot": "pci.root",
    "PortAccess": "pci.port",
    "RecordedAccess": "pci.access_bytes",
    "Registers": "pci.registers",
    "RootAccess": "pci.access",
    "Space": "pci.window",
    "Status": "pci.header",
    "SysfsConfigAccess": "pci.access_sysfs",
    "SysfsRootAccess": "pci.access_sysfs",
    "allocate_bars": "pci.allocate",
    "allocate_bus": "pci.allocate",
    "disable_msix": "pci.msix",
    "enable_msix": "pci.msix",
    "new_function": "pci.access_bytes",
    "number_buses": "pci.bridge",
    "parse_resource_file": "pci.bar",
    "read_bar": "pci.bar",
    "read_bars": "pci.bar",
    "read_bus_numbers": "pci.bridge",
    "read_windows": "pci.bridge_window",
    "write_bus_numbers": "pci.bridge",
    "write_window": "pci.bridge_window",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
