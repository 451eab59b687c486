"""Block devices behind a PCI function, and what on this machine uses them. No block device is opened here."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from udev.errors import DeviceNotFound, UdevError
from udev.sysfs import check_name, is_pci_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from udev.sysfs import Sysfs

SECTOR_SIZE = 512  # the unit of the `size` attribute, whatever the device's logical block is
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A whole disk. `dev_node` is its path in /dev, `major_minor` its number, `size_bytes` its capacity.

    `partitions` are their names (`vda1`); `holders` the devices stacked on the disk or on a partition of it (`dm-0`).
    """

    name: str
    dev_node: str
    major_minor: tuple[int, int]
    size_bytes: int
    read_only: bool
    partitions: tuple[str, ...]
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Mount:
    major_minor: tuple[int, int]
    mount_point: str
    source: str


def block_devices_of(sysfs: Sysfs, address: str, *, bus: str = "pci") -> list[BlockDevice]:
    """The disks behind the device at `address`, sorted by name; for a PCI bridge, those behind all it leads to.

    Raises `DeviceNotFound`.
    """
    return block_devices_under(sysfs, sysfs.device(address, bus))


def block_devices_under(sysfs: Sysfs, path: Path) -> list[BlockDevice]:
    """The disks below a device's folder, such as `sysfs.device("a003e00.virtio_mmio", "platform")`, sorted by name."""
    if not path.is_dir():
        raise DeviceNotFound(f"{path}: no such device; `ls {path.parent}` lists them")
    return sorted((_read_disk(sysfs, disk) for disk in _find_disks(sysfs, path)), key=lambda disk: disk.name)


def read_block(sysfs: Sysfs, name: str) -> BlockDevice:
    """The disk called `name`, or the disk a partition of that name is on. Raises `DeviceNotFound`."""
    folder = class_block(sysfs, name)
    return _read_disk(sysfs, folder.parent if (folder / "partition").exists() else folder)


def pci_address_of_block(sysfs: Sysfs, name: str) -> str | None:
    """The PCI function that a disk or partition (`vda`, `vda1`) is behind, None for a disk of another kind (loop0).

    Raises `DeviceNotFound` when there is no block device of that name.
    """
    addresses = [part for part in class_block(sysfs, name).parts if is_pci_address(part)]
    return addresses[-1] if addresses else None  # the innermost: bridges come before it


def who_holds(sysfs: Sysfs, block: BlockDevice) -> list[str]:
    """Why the disk must not be taken: one text for each use of it or of a partition of it; empty when none is seen.

    - `mount@vda1:/mnt`: mounted there, in the mount namespace of any process that can be seen
    - `swap@vda2`: swap space
    - `holder@vda:dm-0`: device-mapper, md or the like is stacked on it
    - `loop@vda:loop0`: a loop device reads and writes it

    Not seen: a mount namespace that no process is in, and programs that have the node open. Opening the disk with
    O_EXCL, which this does not do, tells about mounts, swap and holders in all cases. Raises `UdevError` (EIO) when no
    mount table at all can be read: that must not look like an idle disk.
    """
    numbers = _numbers(sysfs, block)
    return [
        *_mount_reasons(sysfs, numbers),
        *_swap_reasons(sysfs, numbers),
        *_holder_reasons(sysfs, block),
        *_loop_reasons(sysfs, numbers),
    ]


def unescape(text: str) -> str:
    r"""Undo the kernel's octal escapes in mountinfo and swaps: `\040` is a space (seq_path in fs/seq_file.c)."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


# Disks and partitions


def class_block(sysfs: Sysfs, name: str) -> Path:
    """The folder of a disk or partition, below that of its device. Raises `DeviceNotFound`."""
    link = sysfs.root / "class/block" / check_name(name, "block device")
    if not link.exists():
        raise DeviceNotFound(f"block device {name}: not on this machine; `ls {link.parent}` lists them")
    return link.resolve()


def _find_disks(sysfs: Sysfs, path: Path) -> Iterator[Path]:
    # Links lead out of the device (subsystem, driver, iommu_group), so they are not followed; but `path` is one.
    for folder, names, _ in os.walk(path.resolve()):
        here = Path(folder)
        if sysfs.read_link(here / "subsystem") == "block" and (here / "dev").exists():
            names.clear()  # below a disk are only its partitions
            if not (here / "partition").exists():
                yield here


def _read_disk(sysfs: Sysfs, folder: Path) -> BlockDevice:
    partitions = _partitions(sysfs, folder)
    holders = {holder for part in (folder, *partitions) for holder in sysfs.read_names(part / "holders")}
    return BlockDevice(
        name=folder.name,
        dev_node=str(_dev_node(sysfs, folder.name)),
        major_minor=_read_number(sysfs, folder),
        size_bytes=SECTOR_SIZE * sysfs.read_int(folder / "size"),
        read_only=sysfs.read_int(folder / "ro") != 0,
        partitions=tuple(part.name for part in partitions),
        holders=tuple(sorted(holders)),
    )


def _partitions(sysfs: Sysfs, folder: Path) -> list[Path]:
    return [folder / name for name in sysfs.read_names(folder) if (folder / name / "partition").exists()]


def _dev_node(sysfs: Sysfs, name: str) -> Path:
    return sysfs.dev / name.replace("!", "/")  # the kernel's own spelling of a slash in a device's name


def _read_number(sysfs: Sysfs, folder: Path) -> tuple[int, int]:
    return parse_number(sysfs.read(folder / "dev"))


def parse_number(text: str) -> tuple[int, int]:
    """`254:1` as (254, 1). Raises `UdevError` (EINVAL)."""
    major, colon, minor = text.partition(":")
    if not (colon and major.isdigit() and minor.isdigit()):
        raise UdevError(f"device number {text!r}: not of the form MAJOR:MINOR", errno.EINVAL)
    return int(major), int(minor)


def _numbers(sysfs: Sysfs, block: BlockDevice) -> dict[tuple[int, int], str]:
    """The device numbers of the disk and its partitions as they are now, with their names."""
    folder = class_block(sysfs, block.name)
    return {_read_number(sysfs, part): part.name for part in (folder, *_partitions(sysfs, folder))}


# Uses


def _mount_reasons(sysfs: Sysfs, numbers: dict[tuple[int, int], str]) -> list[str]:
    reasons = set()
    for mount in _all_mounts(sysfs):
        # btrfs mounts have a number of their own (major 0): there the source tells.
        name = numbers.get(mount.major_minor) or (
            _name_of_node(sysfs, numbers, mount.source) if mount.major_minor[0] == 0 else None
        )
        if name is not None:
            reasons.add(f"mount@{name}:{mount.mount_point}")
    return sorted(reasons)


def _all_mounts(sysfs: Sysfs) -> Iterator[_Mount]:
    seen = set()
    for pid in filter(str.isdigit, sysfs.read_names(sysfs.proc)):
        view = _mount_view(sysfs.proc / pid)
        if view is not None and view in seen:
            continue
        text = _proc_text(sysfs.proc / pid / "mountinfo")
        if text:
            seen.add(view)
            yield from parse_mountinfo(text)
    if not seen:
        raise UdevError(
            f"{sysfs.proc}: no process's mountinfo is readable, so nobody knows what is mounted; "
            f"`mount -t proc proc {sysfs.proc}`"
        )


def _mount_view(process: Path) -> tuple[str, str] | None:
    # The kernel hides mounts outside the reader's root, so a chrooted process does not speak for its namespace.
    try:
        return os.readlink(process / "ns/mnt"), os.readlink(process / "root")
    except OSError:
        return None  # vanished, or not ours to look at: then its mountinfo is read for itself


def parse_mountinfo(text: str) -> Iterator[_Mount]:
    """The mounts in a /proc/PID/mountinfo (proc(5)): fields 3, 5 and the source after ` - `, escapes undone."""
    for line in text.splitlines():
        head, dash, tail = line.partition(" - ")
        fields, source = head.split(" "), tail.split(" ")
        if dash and len(fields) >= 6 and len(source) >= 2:
            yield _Mount(parse_number(fields[2]), unescape(fields[4]), unescape(source[1]))


def _swap_reasons(sysfs: Sysfs, numbers: dict[tuple[int, int], str]) -> list[str]:
    lines = _proc_text(sysfs.proc / "swaps").splitlines()[1:]
    names = (_name_of_node(sysfs, numbers, unescape(line.split()[0])) for line in lines if line.strip())
    return sorted({f"swap@{name}" for name in names if name is not None})


def _holder_reasons(sysfs: Sysfs, block: BlockDevice) -> list[str]:
    folder = class_block(sysfs, block.name)
    parts = (folder, *_partitions(sysfs, folder))
    return sorted(f"holder@{part.name}:{holder}" for part in parts for holder in sysfs.read_names(part / "holders"))


def _loop_reasons(sysfs: Sysfs, numbers: dict[tuple[int, int], str]) -> list[str]:
    # A loop device is not in the holders of what it reads.
    reasons = []
    for loop in sysfs.read_names(sysfs.root / "block"):
        backing = sysfs.read_optional(sysfs.root / "block" / loop / "loop/backing_file")
        name = _name_of_node(sysfs, numbers, backing) if backing else None
        if name is not None:
            reasons.append(f"loop@{name}:{loop}")
    return sorted(reasons)


def _name_of_node(sysfs: Sysfs, numbers: dict[tuple[int, int], str], node: str) -> str | None:
    """The name in `numbers` that the path `node` stands for: by the kernel's name, or by the number behind the path."""
    if not node.startswith("/dev/"):
        return None
    name = node.removeprefix("/dev/").replace("/", "!")
    return name if name in numbers.values() else numbers.get(_number_of_node(sysfs.dev / node.removeprefix("/dev/")))


def _number_of_node(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return (os.major(status.st_rdev), os.minor(status.st_rdev)) if stat.S_ISBLK(status.st_mode) else (-1, -1)


def _proc_text(path: Path) -> str:
    # Processes vanish at any moment: between the listing and the open (ENOENT), or before the read (ESRCH, EINVAL).
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return ""
