"""A root complex: what is on its buses, and the functions there by address."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pci import bar
from pci.access import check_value
from pci.bridge import check_bus_numbers, read_bus_numbers
from pci.config import ConfigSpace
from pci.function import DeviceFunction
from pci.header import IDS_OFFSET, NO_VENDOR, Command, DeviceFunctionInfo, HeaderType, Status

if TYPE_CHECKING:
    from pci.access import RootAccess
    from pci.capability import CapabilityIterator

_DEVICES: Final = 32
_FUNCTIONS: Final = 8


class PciRoot:
    """Functions by address. `access` says how configuration space is reached, and stays the caller's.

    All methods raise ConfigAccessError; those that ask a function which is not there, with ENODEV where it shows.
    """

    def __init__(self, access: RootAccess) -> None:
        self._access = access

    def config(self, device_function: DeviceFunction) -> ConfigSpace:
        """The configuration space of one function. Touches nothing."""
        return ConfigSpace(self._access.config(device_function))

    def enumerate_bus(self, bus: int, domain: int = 0, recursive: bool = False) -> BusDeviceIterator:
        """The functions on one bus; with `recursive` also those behind each bridge, right after the bridge.

        A bridge without bus numbers hides what is behind it (`number_buses` assigns them). Raises BridgeError, while
        the functions are taken, for bus numbers that lead back or to a bus that another bridge leads to.
        """
        return BusDeviceIterator(self, bus, domain, recursive)

    def get_status_command(self, device_function: DeviceFunction) -> tuple[Status, Command]:
        """The status and the command register."""
        config = self.config(device_function)
        return config.read_status(), config.read_command()

    def set_command(self, device_function: DeviceFunction, command: Command) -> None:
        """Write the command register; the status register is left alone."""
        self.config(device_function).write_command(command)

    def capabilities(self, device_function: DeviceFunction) -> CapabilityIterator:
        """Raises CapabilityError, while the list is taken, where it is broken."""
        return self.config(device_function).capabilities()

    def bars(self, device_function: DeviceFunction) -> dict[int, bar.BarInfo]:
        """The BARs by index, sized by writing to them: only for a function that is yours. Raises InvalidBarType."""
        return self.config(device_function).read_bars()

    def bar_info(self, device_function: DeviceFunction, index: int) -> bar.BarInfo | None:
        """One BAR, sized by writing to it, or None when it is not implemented. Raises InvalidBarType."""
        return bar.read_bar(self.config(device_function), index)

    def set_bar_32(self, device_function: DeviceFunction, index: int, address: int) -> None:
        """Place a 32-bit memory BAR or an I/O BAR; turn decoding off before."""
        self.config(device_function).write32(bar.bar_offset(index), address)

    def set_bar_64(self, device_function: DeviceFunction, index: int, address: int) -> None:
        """Place a 64-bit memory BAR, lower register first; turn decoding off before."""
        config, lower, upper = self.config(device_function), bar.bar_offset(index), bar.bar_offset(index + 1)
        check_value(config, 8, address)
        config.write32(lower, address & 0xFFFF_FFFF)
        config.write32(upper, address >> 32)


class BusDeviceIterator(Iterator[tuple[DeviceFunction, DeviceFunctionInfo]]):
    """Every function on a bus, by device and function number, and behind its bridges if that is asked for.

    Functions 1 to 7 are looked for only where function 0 is there and says that there are more (PCI 3.0, 3.2.2.3.4). A
    virtual function of SR-IOV reads 0xffff as its vendor, and so is not found.
    """

    def __init__(self, root: PciRoot, bus: int, domain: int = 0, recursive: bool = False) -> None:
        self._walk = _walk_tree(root, bus, domain, {bus}) if recursive else _walk_bus(root, bus, domain)

    def __next__(self) -> tuple[DeviceFunction, DeviceFunctionInfo]:
        return next(self._walk)


def _walk_bus(root: PciRoot, bus: int, domain: int) -> Iterator[tuple[DeviceFunction, DeviceFunctionInfo]]:
    for device in range(_DEVICES):
        for number in range(_FUNCTIONS):
            function = DeviceFunction(bus, device, number, domain)
            info = _read_present(root.config(function))
            if info is not None:
                yield function, info
            if number == 0 and (info is None or not info.multifunction):
                break


def _walk_tree(
    root: PciRoot, bus: int, domain: int, seen: set[int]
) -> Iterator[tuple[DeviceFunction, DeviceFunctionInfo]]:
    for function, info in _walk_bus(root, bus, domain):
        yield function, info
        if info.header_type is HeaderType.PciPciBridge:
            numbers = read_bus_numbers(root.config(function))
            if numbers.assigned:
                check_bus_numbers(function, numbers, seen)
                seen.add(numbers.secondary)
                yield from _walk_tree(root, numbers.secondary, domain, seen)


def _read_present(config: ConfigSpace) -> DeviceFunctionInfo | None:
    return None if config.read16(IDS_OFFSET) == NO_VENDOR else config.read_info()
