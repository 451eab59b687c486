"""A virtio-mmio device of this machine, through /dev/mem: `mmio:0xfeb02e00`, or by the kernel's name for its node,
`mmio:LNRO0005:00`, `mmio:a003e00.virtio_mmio`.

While a driver of the kernel holds a node, it is refused; `?unbind=on` takes it from the driver and gives it back. An
address that no node has is believed: two processes are kept from one another, and the kernel keeps its own memory and
its drivers' registers to itself (STRICT_DEVMEM). With `?wait=irq` or `adaptive` the interrupt comes through
uio_pdrv_genirq, where the kernel has that driver (Debian's has not); otherwise one polls.
"""

from __future__ import annotations

import errno
import mmap
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import udev
from hwloop.claim import UIO_PLATFORM_DRIVER, Claim
from hwloop.door.base import QUEUE_OPTIONS, SWITCH, WAIT, KernelPlace, Opened, Place, check_options
from hwloop.errors import InvalidParam, RefusedError, SetupError, Unsupported
from hwloop.guardian import Guardian, ending
from hwloop.hal.base import Hal
from hwloop.hal.devmem import DevMemHal
from hwloop.inventory_mmio import bare_name, is_kernel_device, type_in_kernel
from hwloop.lock import DeviceLock
from hwloop.signals import shield
from hwloop.spec import DeviceType
from hwloop.target import Target
from hwloop.transport.mmio import MmioTransport, check_place
from hwloop.transport.mmio_registers import CONFIG_SPACE_OFFSET, SLOT_SIZE
from udev import MmioNode, Sysfs

OPTIONS = {"size": None, "unbind": SWITCH, "version": ("1", "2")} | WAIT | QUEUE_OPTIONS
BUS = "platform"
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]+")


@dataclass(frozen=True)
class Slot:
    """Where registers are, in bytes; `version` is the one that they must have, None: any."""

    address: int
    size: int
    version: int | None = None

    def open(
        self, owner: Claim | DeviceLock, sysfs: Sysfs, filtered: Callable[[Hal], Hal], line: Path | None = None
    ) -> Opened:
        """The device whose registers these are; `owner` holds them against others, and is closed last. `filtered` puts
        filters in front of the Hal. `line` is the UIO device that passes on the interrupt, None: one polls."""
        with ExitStack() as stack:
            guardian = stack.enter_context(Guardian())
            stack.enter_context(owner)
            stack.callback(guardian.device_ended)
            hal = stack.enter_context(DevMemHal(sysfs.dev / "mem", sysfs, line))
            seen = filtered(hal)
            transport = stack.enter_context(self._look(seen, sysfs))
            guardian.watch(owner, ending(transport, stops_dma=False))
            hal.memory_keeper = guardian.keep_memory
            if self.version not in (None, transport.version):
                raise Unsupported(
                    f"the registers at {self.address:#x} have version {transport.version}, not {self.version}",
                    remedy="the device cannot change it: leave version= out",
                )
            return Opened(transport, seen, stack.pop_all())

    def _look(self, hal: Hal, sysfs: Sysfs) -> MmioTransport:
        try:
            return MmioTransport(hal, self.address, self.size)
        except SetupError as error:
            held = [node for node in udev.list_mmio(sysfs) if node.driver is not None and self._shares_page(node)]
            if error.errno != errno.EPERM or not held:
                raise
            raise _page_is_held(self.address, held) from error

    def _shares_page(self, node: MmioNode) -> bool:
        first, last = self.address // mmap.PAGESIZE, (self.address + self.size - 1) // mmap.PAGESIZE
        return node.address is not None and first <= node.address // mmap.PAGESIZE <= last


class MmioPlace(KernelPlace):
    """A node of the kernel; `slot` None: where its registers are is hidden from us."""

    bus = BUS

    def __init__(self, target: Target, name: str, slot: Slot | None, sysfs: Sysfs) -> None:
        super().__init__(target)
        self.address = name
        self.slot = slot
        self._sysfs = sysfs

    @property
    def device_type(self) -> DeviceType | None:
        """Known while the kernel's driver holds it."""
        return type_in_kernel(self._sysfs, self.address)

    def open_transport(self) -> Opened:
        if self.slot is None:
            raise SetupError(
                f"the kernel does not show where the registers of {self.address} are", remedy="run as root"
            )
        self._refuse_driver()
        with ExitStack() as stack:
            with shield():
                driver = self._driver_for_line()
                claim = Claim(self.address, driver, self._sysfs, bus=BUS)
                line = udev.uio_node(self._sysfs, self.address, bus=BUS) if driver else None
                opened = self.slot.open(claim, self._sysfs, self.filtered, line)
                stack.push(opened.resources)
            # A signal that came meanwhile was raised at the end of the shield, and `stack` has given everything back.
            stack.pop_all()
        return opened

    def _driver_for_line(self) -> str | None:
        """What passes on the interrupt, where one is wanted and the kernel has that."""
        wanted = self.target.options.get("wait", "poll") != "poll"
        return UIO_PLATFORM_DRIVER if wanted and _has_uio(self._sysfs) else None

    def _refuse_driver(self) -> None:
        driver = udev.current_driver(self._sysfs, self.address, bus=BUS)
        if driver not in (None, UIO_PLATFORM_DRIVER) and self.target.options.get("unbind") != "on":
            raise RefusedError(
                f"{self.address} is held by the kernel's driver {driver}; it was not touched",
                remedy=f"take it for the time being: {_with_unbind(self.target)}",
            )


class BarePlace(Place):
    """Registers that no device of the kernel stands for."""

    def __init__(self, target: Target, slot: Slot, sysfs: Sysfs) -> None:
        super().__init__(target)
        self.slot = slot
        self._sysfs = sysfs

    def open_transport(self) -> Opened:
        with ExitStack() as stack:
            with shield():
                opened = self.slot.open(DeviceLock(bare_name(self.slot.address)), self._sysfs, self.filtered)
                stack.push(opened.resources)
            stack.pop_all()
        return opened


def find(target: Target, sysfs: Sysfs) -> Place:
    """Raises InvalidParam, udev.DeviceNotFound for a node that is not there, MmioRegionTooSmall for a small one."""
    check_options(target, OPTIONS)
    address = _parse_address(target.name)
    node = _read_node(sysfs, target.name) if address is None else _node_at(sysfs, address)
    if node is None:
        assert address is not None
        slot = _slot(target, address, None)
        _refuse_overlap(slot, udev.list_mmio(sysfs))
        return BarePlace(target, slot, sysfs)
    slot_of_node = _slot(target, node.address, node.size) if node.address is not None else None
    if is_kernel_device(sysfs, node.name):
        return MmioPlace(target, node.name, slot_of_node, sysfs)
    assert slot_of_node is not None, "the command line says where"
    return BarePlace(target, slot_of_node, sysfs)


def _has_uio(sysfs: Sysfs) -> bool:
    if not udev.driver_exists(sysfs, UIO_PLATFORM_DRIVER, bus=BUS):
        with suppress(udev.UdevError):
            udev.load_module(UIO_PLATFORM_DRIVER)
    return udev.driver_exists(sysfs, UIO_PLATFORM_DRIVER, bus=BUS)


def _page_is_held(address: int, held: list[MmioNode]) -> SetupError:
    """The kernel maps whole pages, and none of which a driver holds a part (IO_STRICT_DEVMEM); slots are smaller."""
    names = ", ".join(node.name for node in held)
    return SetupError(
        f"the registers at {address:#x} are in one page of memory with those of {names}, which drivers of the kernel "
        "hold, and the kernel maps no such page",
        errno=errno.EPERM,
        remedy=f"unbind each of those too: hwloop unbind mmio:{held[0].name}; hwloop restore puts all back",
    )


def _node_at(sysfs: Sysfs, address: int) -> MmioNode | None:
    return next((node for node in udev.list_mmio(sysfs) if node.address == address), None)


def _slot(target: Target, address: int, size: int | None) -> Slot:
    text, version = target.options.get("size"), target.options.get("version")
    wanted = _parse_size(text) if text is not None else size or SLOT_SIZE
    check_place(address, wanted)
    return Slot(address, wanted, int(version) if version else None)


def _read_node(sysfs: Sysfs, name: str) -> MmioNode:
    try:
        return udev.read_mmio(sysfs, name)
    except udev.DeviceNotFound as error:
        if _HEXADECIMAL.fullmatch(name):
            error.add_note(f"an address begins with 0x: mmio:0x{name}")
        raise


def _refuse_overlap(slot: Slot, nodes: list[MmioNode]) -> None:
    """Registers that are half a node's are no device, and nothing would keep the node's driver off them."""
    for node in nodes:
        start, size = node.address, node.size or SLOT_SIZE
        if start is not None and start < slot.address + slot.size and slot.address < start + size:
            raise InvalidParam(
                f"{slot.size:#x} bytes at {slot.address:#x} reach into the registers of {node.name}",
                remedy=f"name the node by its address: mmio:{start:#x}",
            )


def _parse_address(text: str) -> int | None:
    """None for what must be a name. Raises InvalidParam for what can be neither."""
    try:
        return int(text, 0)
    except ValueError:
        if text[:2].lower() == "0x" and "." not in text:
            raise InvalidParam(f"{text!r} is not an address", remedy="one looks like 0xfeb02e00") from None
        return None


def _parse_size(text: str) -> int:
    try:
        size = int(text, 0)
    except ValueError:
        raise InvalidParam(f"option size cannot be {text!r}", remedy="give bytes, such as 0x200") from None
    if size < CONFIG_SPACE_OFFSET:
        raise InvalidParam(f"option size cannot be {text!r}", remedy=f"give {CONFIG_SPACE_OFFSET:#x} bytes or more")
    return size


def _with_unbind(target: Target) -> str:
    options = target.options | {"unbind": "on"}
    return f"{target}?" + "&".join(f"{key}={value}" for key, value in options.items())
