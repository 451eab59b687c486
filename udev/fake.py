"""A fake sysfs tree, with the /dev and /proc that belong to it, for tests of whatever stands on `udev`.

Plain files do not react, so the reaction is in the one method of `Sysfs` that writes: synchronous, and the same each
time. It is stricter than the kernel where a mistake would hang a real machine: a write that runs a driver's code must
come with a deadline.

    fake = FakeSysfs(tmp_path)
    fake.add_pci("0000:00:05.0", 0x1AF4, 0x1042, driver="virtio-pci", iommu_group=7, block="vda")
    fake.add_driver("vfio-pci")
    udev.bind.bind(fake.sysfs, "0000:00:05.0", "vfio-pci")
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from udev import vfio as udev_vfio
from udev.errors import BindTimeout
from udev.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NO_RESOURCES = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n" * 7
_LOCKED = ("bind", "unbind", "driver_override", "drivers_probe")
# The drivers for user space take a device only by override, and make a character device of their own.
_USER_SPACE = ("vfio-pci", "uio_pci_generic", "uio_pdrv_genirq")


@dataclass(slots=True)
class _Disk:
    """What a native driver makes of a device: a disk, with partitions numbered from 1 of the given sizes in bytes."""

    name: str
    number: tuple[int, int]
    size: int
    read_only: bool
    partitions: Sequence[int]
    content: bytes


@dataclass(slots=True)
class _Device:
    name: str
    bus: str
    path: Path
    home: str | None  # the driver that matches it without an override
    group: int | None = None
    disk: _Disk | None = None
    made: list[Path] = field(default_factory=list)  # what the driver that holds it now has made


class FakeSysfs:
    """Builds the tree below `tmp_path`, and is the kernel behind it; `.sysfs` is what the code under test gets.

    Switches, all off at first, which may be set at any time:

    - `bind_fails`: probe functions fail. As in the kernel, drivers_probe then succeeds and leaves the device unbound.
    - `unbind_hangs`: an unbind never returns (`BindTimeout`, at once: the deadline is not waited out), and its device
      stays locked, with its driver link gone and its disk still there, until `release()`.
    - `override_lost`: driver_override takes every value and keeps none, as when a udev rule resets it.
    - `stolen_by`: the name of a driver that takes any device that is probed, as a udev rule might.
    - `vfio_nodes`: VFIO makes a node for each device too, as a kernel with iommufd does.

    `writes` lists every write that succeeded or failed: (path below the root, text).
    """

    def __init__(self, tmp_path: Path) -> None:
        self.root, self.dev, self.proc = tmp_path / "sys", tmp_path / "dev", tmp_path / "proc"
        self.bind_fails = False
        self.unbind_hangs = False
        self.override_lost = False
        self.stolen_by: str | None = None
        self.vfio_nodes = False
        self.writes: list[tuple[str, str]] = []
        self.sysfs: Sysfs = _KernelSysfs(self)
        self._devices: dict[tuple[str, str], _Device] = {}
        self._stuck: set[str] = set()
        self._block_count = self._uio_count = self._virtio_count = self._vfio_count = 0
        self._make_skeleton()

    # Building

    def add_pci(
        self,
        address: str,
        vendor_id: int,
        device_id: int,
        *,
        driver: str | None = None,
        iommu_group: int | None = None,
        block: str | None = None,
        subsystem_vendor_id: int | None = None,
        subsystem_id: int | None = None,
        class_code: int | None = None,
        revision: int = 0,
        driver_override: str | None = None,
        enabled: bool = True,
        resource: str = _NO_RESOURCES,
        config: bytes | None = None,
        home: str | None = None,
        block_size: int = 1 << 20,
        partitions: Sequence[int] = (),
        read_only: bool = False,
        content: bytes = b"",
    ) -> Path:
        """Add a PCI function; return its folder.

        `driver` holds it at first, and is registered if need be; `home` (default: `driver`) is the one that takes it
        when there is no override. While the home driver holds it there is the disk `block`, of `block_size` bytes,
        with `partitions` (sizes in bytes); its node in /dev is a plain file that begins with `content`.
        """
        folder = self.root / "devices" / f"pci{address[:7]}" / address
        sub_vendor = vendor_id if subsystem_vendor_id is None else subsystem_vendor_id
        sub_device = device_id if subsystem_id is None else subsystem_id
        kind = class_code if class_code is not None else (0x010000 if block else 0x020000)
        header = _header(vendor_id, device_id, kind, revision, sub_vendor, sub_device)
        values: dict[str, str | bytes] = {
            "vendor": f"{vendor_id:#06x}\n",
            "device": f"{device_id:#06x}\n",
            "subsystem_vendor": f"{sub_vendor:#06x}\n",
            "subsystem_device": f"{sub_device:#06x}\n",
            "class": f"{kind:#08x}\n",
            "revision": f"{revision:#04x}\n",
            "modalias": _modalias(vendor_id, device_id, sub_vendor, sub_device, kind),
            "enable": f"{int(enabled)}\n",
            "resource": resource,
            "config": header if config is None else config,
            "driver_override": f"{driver_override or '(null)'}\n",
        }
        device = _Device(address, "pci", folder, home or driver, iommu_group)
        if block is not None:
            device.disk = self._new_disk(block, block_size, read_only, partitions, content)
        self._add_device(device, values, driver)
        return folder

    def add_mmio(
        self,
        name: str,
        *,
        driver: str | None = None,
        address: int | None = None,
        size: int = 0x200,
        block: str | None = None,
        block_size: int = 1 << 20,
        partitions: Sequence[int] = (),
    ) -> Path:
        """Add a platform device; with `address` it has an entry in /proc/iomem, with `block` a disk while `driver`
        holds it. Returns its folder."""
        folder = self.root / "devices/platform" / name
        device = _Device(name, "platform", folder, driver)
        if block is not None:
            device.disk = self._new_disk(block, block_size, False, partitions, b"")
        self._add_device(device, {"driver_override": "(null)\n"}, driver)
        if address is not None:
            self.add_iomem(address, size, name)
        return folder

    def add_device_tree(self, name: str, reg: bytes, address_cells: int = 2, size_cells: int = 2) -> None:
        """Give the platform device `name` an `of_node` with this `reg`."""
        node = self.root / "firmware/devicetree/base" / name.replace(".", "@")
        _write_all(node, {"reg": reg})
        _write_all(
            node.parent,
            {
                "#address-cells": address_cells.to_bytes(4, "big"),
                "#size-cells": size_cells.to_bytes(4, "big"),
            },
        )
        _link(self._devices["platform", name].path / "of_node", node)

    def add_driver(self, name: str, bus: str = "pci") -> None:
        """Register a driver, as loading its module does. Nothing is probed by that."""
        _write_all(self.root / "bus" / bus / "drivers" / name, {"bind": "", "unbind": "", "new_id": ""})

    def remove_pci(self, address: str) -> None:
        """Take a PCI function out, as a hot-unplug does."""
        device = self._devices.pop(("pci", address))
        self._detach(device)
        (self.root / "bus/pci/devices" / address).unlink()
        if device.group is not None:
            (self.root / "kernel/iommu_groups" / str(device.group) / "devices" / address).unlink()
        shutil.rmtree(device.path)

    def add_holder(self, block: str, holder: str) -> None:
        """Stack the device `holder` (`dm-0`) on a disk or partition."""
        folder = self.root / "devices/virtual/block" / holder
        if not folder.exists():
            self._make_block(folder, self._next_number(), 1 << 20, False)
        _link((self.root / "class/block" / block).resolve() / "holders" / holder, folder)

    def add_loop(self, name: str, backing_file: str) -> None:
        """Add a loop device that reads and writes `backing_file`."""
        folder = self.root / "devices/virtual/block" / name
        self._make_block(folder, self._next_number(), 1 << 20, False)
        _write_all(folder / "loop", {"backing_file": f"{backing_file}\n"})

    def add_process(self, pid: int, *, namespace: int = 4026531841, root: str = "/") -> Path:
        """Add a process in a mount namespace, and return its folder in /proc."""
        folder = self.proc / str(pid)
        if not folder.exists():
            _write_all(folder, {"mountinfo": ""})
            (folder / "ns").mkdir()
            (folder / "ns/mnt").symlink_to(f"mnt:[{namespace}]")
            (folder / "root").symlink_to(root)
        return folder

    def add_open_file(self, pid: int, path: Path) -> None:
        """Let process `pid` have `path` open."""
        folder = self.add_process(pid) / "fd"
        folder.mkdir(exist_ok=True)
        (folder / str(3 + len(list(folder.iterdir())))).symlink_to(path)

    def add_mount(
        self,
        block: str | tuple[int, int],
        mount_point: str,
        *,
        pid: int = 1,
        source: str | None = None,
        fstype: str = "ext4",
    ) -> None:
        """Mount a disk or partition by name (or a device number), as process `pid` sees it; names are escaped here."""
        number = self.number_of(block) if isinstance(block, str) else block
        device = source if source is not None else f"/dev/{block}"
        table = self.add_process(pid) / "mountinfo"
        with table.open("a") as lines:
            lines.write(
                f"36 1 {number[0]}:{number[1]} / {_escape(mount_point)} rw,relatime shared:1 - "
                f"{fstype} {_escape(device)} rw\n"
            )

    def add_swap(self, node: str) -> None:
        """Use a device node (`/dev/vda2`) as swap space."""
        with (self.proc / "swaps").open("a") as lines:
            lines.write(f"{_escape(node):<40}partition\t1048572\t\t0\t\t-2\n")

    def add_iomem(self, address: int, size: int, name: str) -> None:
        """Add a line to /proc/iomem."""
        with (self.proc / "iomem").open("a") as lines:
            lines.write(f"{address:08x}-{address + size - 1:08x} : {name}\n")

    def set_cmdline(self, text: str) -> None:
        """Set the kernel's command line."""
        (self.proc / "cmdline").write_text(f"{text}\n")

    def add_iommufd(self) -> None:
        """Be a kernel with iommufd, whose VFIO makes nodes for devices."""
        self.vfio_nodes = True
        _link_to_null(self.dev / "iommu")

    def set_noiommu_mode(self, value: str) -> None:
        """Be a kernel whose VFIO can hand out functions without an IOMMU: does so (`Y`), or not now (`N`)."""
        _write_all(self.root / "module/vfio/parameters", {"enable_unsafe_noiommu_mode": f"{value}\n"})

    def number_of(self, block: str) -> tuple[int, int]:
        """The device number of a disk or partition."""
        major, minor = (self.root / "class/block" / block / "dev").read_text().split(":")
        return int(major), int(minor)

    def release(self) -> None:
        """Let every unbind that hangs come to its end, after its deadline and ours."""
        self.unbind_hangs = False
        stuck, self._stuck = self._stuck, set()
        for device in self._devices.values():
            if device.name in stuck:
                self._detach(device)

    # The kernel's side

    def _react(self, path: Path, data: bytes, seconds: float | None) -> int:
        text = data.decode()
        self.writes.append((str(path.relative_to(self.root)), text))
        if not path.exists():
            raise OSError(errno.ENOENT, "no such attribute", str(path))
        if path.name not in _LOCKED:
            path.write_bytes(data)
            return len(data)
        if seconds is None:
            raise AssertionError(f"{path}: written without a deadline; the kernel can hold such a write for ever")
        self._control(path, text.strip(), seconds)
        return len(data)

    def _read(self, path: Path, seconds: float) -> bytes | OSError:
        if path.name == "driver_override" and path.parent.name in self._stuck:
            return BindTimeout(f"{path}: not readable for {seconds:.1f} s; a driver keeps it: see `dmesg`")
        try:
            return path.read_bytes()
        except OSError as error:
            return error

    def _control(self, path: Path, text: str, seconds: float) -> None:
        if path.name == "driver_override":
            device = self._find(path.parent.parent.parent.name, path.parent.name)
            self._lock(device, seconds)
            lost = self.override_lost or not text
            path.write_text("(null)\n" if lost else f"{text}\n")
            return
        bus = path.parent.name if path.name == "drivers_probe" else path.parent.parent.parent.name
        device = self._find(bus, text)
        self._lock(device, seconds)
        if path.name == "drivers_probe":
            self._probe(device)
        elif path.name == "bind":
            self._bind_directly(device, path.parent.name)
        else:
            self._unbind(device, path.parent.name, seconds)

    def _find(self, bus: str, name: str) -> _Device:
        if (bus, name) not in self._devices:
            raise OSError(errno.ENODEV, "no such device", name)
        return self._devices[bus, name]

    def _lock(self, device: _Device, seconds: float) -> None:
        if device.name in self._stuck:
            raise BindTimeout(f"{device.name}: its lock was not free within {seconds:.1f} s; `dmesg | tail`")

    def _probe(self, device: _Device) -> None:
        if self._driver_of(device) is None:
            candidate = self.stolen_by or self._override_of(device) or device.home
            if candidate is not None and not self.bind_fails and self._is_registered(device, candidate):
                self._attach(device, candidate)

    def _bind_directly(self, device: _Device, driver: str) -> None:
        if driver not in (self._override_of(device) or device.home, self.stolen_by):
            raise OSError(errno.ENODEV, "the driver does not match the device", driver)
        if self._driver_of(device) is not None:
            raise OSError(errno.EBUSY, "the device has a driver", device.name)
        if self.bind_fails:
            raise OSError(errno.EINVAL, "the probe function failed", device.name)
        self._attach(device, driver)

    def _unbind(self, device: _Device, driver: str, seconds: float) -> None:
        if self._driver_of(device) != driver:
            raise OSError(errno.ENODEV, "not bound to this driver", device.name)
        if self.unbind_hangs:
            self._stuck.add(device.name)
            (device.path / "driver").unlink()  # as in the kernel: the link goes before the remove function is called
            self._lock(device, seconds)
        self._detach(device)

    def _driver_of(self, device: _Device) -> str | None:
        link = device.path / "driver"
        return Path(os.readlink(link)).name if link.is_symlink() else None

    def _override_of(self, device: _Device) -> str | None:
        text = (device.path / "driver_override").read_text().strip()
        return None if text == "(null)" else text

    def _is_registered(self, device: _Device, driver: str) -> bool:
        return (self.root / "bus" / device.bus / "drivers" / driver).is_dir()

    def _attach(self, device: _Device, driver: str) -> None:
        folder = self.root / "bus" / device.bus / "drivers" / driver
        _link(device.path / "driver", folder)
        _link(folder / device.name, device.path)
        device.made = [device.path / "driver", folder / device.name]
        if driver in _USER_SPACE:
            self._make_user_node(device, driver)
        elif device.disk is not None and driver == device.home:
            self._make_disk(device, device.disk)

    def _detach(self, device: _Device) -> None:
        shared = {path for other in self._devices.values() if other is not device for path in other.made}
        for path in reversed(device.made):
            if path in shared:
                continue  # the node of an IOMMU group that another member still holds
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        device.made = []

    def _make_user_node(self, device: _Device, driver: str) -> None:
        # The nodes lead to /dev/null: a character device that anybody may open.
        if driver == "vfio-pci":
            self._make_vfio_nodes(device)
            return
        name = f"uio{self._uio_count}"
        self._uio_count += 1
        _write_all(device.path / "uio" / name, {"name": f"{driver}\n"})
        device.made += [device.path / "uio", _link_to_null(self.dev / name)]

    def _make_vfio_nodes(self, device: _Device) -> None:
        if device.group is not None:
            device.made.append(_link_to_null(self.dev / "vfio" / str(device.group)))
        elif udev_vfio.noiommu_mode(self.sysfs):
            self._make_noiommu_group(device)
        name = f"vfio{self._vfio_count}"
        self._vfio_count += 1
        # The folder is there in any case; the number of a device node only where there is one.
        _write_all(device.path / "vfio-dev" / name, {"dev": "511:0\n"} if self.vfio_nodes else {"uevent": ""})
        device.made.append(device.path / "vfio-dev")
        if self.vfio_nodes:
            device.made.append(_link_to_null(self.dev / "vfio/devices" / name))

    def _make_noiommu_group(self, device: _Device) -> None:
        number = len(list((self.root / "kernel/iommu_groups").iterdir()))
        group = self.root / "kernel/iommu_groups" / str(number)
        _write_all(group, {"name": "vfio-noiommu\n", "type": "unknown\n"})
        _link(device.path / "iommu_group", group)
        _link(group / "devices" / device.name, device.path)
        node = _link_to_null(self.dev / "vfio" / f"noiommu-{number}")
        device.made += [group, device.path / "iommu_group", node]

    # Details of the tree

    def _make_skeleton(self) -> None:
        for folder in ("class/block", "block", "kernel/iommu_groups", "bus/pci/devices", "bus/platform/devices"):
            (self.root / folder).mkdir(parents=True)
        for bus in ("pci", "platform"):
            _write_all(self.root / "bus" / bus, {"drivers_probe": "", "rescan": ""})
            (self.root / "bus" / bus / "drivers").mkdir()
        swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        _write_all(self.proc, {"swaps": swaps, "iomem": "", "cmdline": "quiet\n"})
        self.add_mount((254, 250), "/", source="/dev/root")
        self.dev.mkdir()

    def _add_device(self, device: _Device, values: Mapping[str, str | bytes], driver: str | None) -> None:
        _write_all(device.path, values)
        _link(device.path / "subsystem", self.root / "bus" / device.bus)
        _link(self.root / "bus" / device.bus / "devices" / device.name, device.path)
        if device.group is not None:
            group = self.root / "kernel/iommu_groups" / str(device.group)
            _link(device.path / "iommu_group", group)
            _link(group / "devices" / device.name, device.path)
        self._devices[device.bus, device.name] = device
        if driver is not None:
            self.add_driver(driver, device.bus)
            self._attach(device, driver)

    def _new_disk(self, name: str, size: int, read_only: bool, partitions: Sequence[int], content: bytes) -> _Disk:
        return _Disk(name, self._next_number(), size, read_only, partitions, content)

    def _next_number(self) -> tuple[int, int]:
        self._block_count += 1
        return 254, 16 * (self._block_count - 1)

    def _make_disk(self, device: _Device, disk: _Disk) -> None:
        virtio = device.path / f"virtio{self._virtio_count}"
        self._virtio_count += 1
        folder = virtio / "block" / disk.name
        device.made += [virtio, *self._make_block(folder, disk.number, disk.size, disk.read_only, disk.content)]
        for index, size in enumerate(disk.partitions, 1):
            number = (disk.number[0], disk.number[1] + index)
            part = folder / f"{disk.name}{index}"
            device.made += self._make_block(part, number, size, disk.read_only)
            _write_all(part, {"partition": f"{index}\n"})

    def _make_block(
        self, folder: Path, number: tuple[int, int], size: int, read_only: bool, content: bytes = b""
    ) -> list[Path]:
        """A disk or partition; what has to go with it apart from `folder` is returned."""
        values = {"dev": f"{number[0]}:{number[1]}\n", "size": f"{size // 512}\n", "ro": f"{int(read_only)}\n"}
        _write_all(folder, values)
        (folder / "holders").mkdir()
        _link(folder / "subsystem", self.root / "class/block")
        made = [self.root / "class/block" / folder.name, self.dev / folder.name]
        if folder.parent.name == "block":
            made.append(self.root / "block" / folder.name)
        for link in made[:1] + made[2:]:
            _link(link, folder)
        _write_all(self.dev, {folder.name: content})
        return made


class _KernelSysfs(Sysfs):
    """The tree of a `FakeSysfs`, which reacts to writes, and holds up readers of a locked device's override."""

    def __init__(self, fake: FakeSysfs) -> None:
        super().__init__(fake.root, fake.dev, fake.proc)
        self._fake = fake

    def _load_within(self, paths: Sequence[Path], seconds: float) -> list[bytes | OSError]:
        return [self._fake._read(path, seconds) for path in paths]

    def _store(self, path: Path, data: bytes, seconds: float | None) -> int:
        return self._fake._react(path, data, seconds)


def _write_all(folder: Path, values: Mapping[str, str | bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name).write_bytes(value if isinstance(value, bytes) else value.encode())


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))


def _link_to_null(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to("/dev/null")
    return path


def _escape(text: str) -> str:
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in text)


def _modalias(vendor: int, device: int, sub_vendor: int, sub_device: int, kind: int) -> str:
    classes = f"bc{kind >> 16:02X}sc{kind >> 8 & 0xFF:02X}i{kind & 0xFF:02X}"
    return f"pci:v{vendor:08X}d{device:08X}sv{sub_vendor:08X}sd{sub_device:08X}{classes}\n"


def _header(vendor: int, device: int, kind: int, revision: int, sub_vendor: int, sub_device: int) -> bytes:
    """A type 0 configuration header (PCI 3.0, 6.1) that agrees with the attributes, in 256 bytes, no capabilities."""
    header = bytearray(256)
    for offset, size, value in (
        (0x00, 2, vendor),
        (0x02, 2, device),
        (0x08, 1, revision),
        (0x09, 3, kind),
        (0x2C, 2, sub_vendor),
        (0x2E, 2, sub_device),
    ):
        header[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(header)
