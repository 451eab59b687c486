"""A device of QEMU's, with no guest and no root: `qemu:DISK.img?machine=microvm&mmio-version=1`.

QEMU starts with a halted processor, we set up its bus and drive the device, and it ends when the device is closed. A
device that is no disk needs no image: `qemu:none?device=rng`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

from hwloop.door import guestless
from hwloop.door.base import BLOCK_SIZES, SWITCH, WAIT, Opened, Place, check_options
from hwloop.errors import InvalidParam, SetupError
from hwloop.qtest.machine import MACHINES
from hwloop.qtest.qemu import QemuMachine
from hwloop.queue_options import SWITCHES
from hwloop.signals import shield
from hwloop.size import parse_size
from hwloop.spec import SECTOR_SIZE, DeviceType
from hwloop.target import Target
from udev import Sysfs

NO_IMAGE = "none"
"""The name of a target whose device is no disk."""
DEVICE_ID = "hwloop0"
"""What QEMU calls the device, for QMP."""
DISK_NODE = "disk0"
"""What QEMU calls the image, for QMP."""

_PCI_OPTIONS = {"legacy": SWITCH, "transitional": SWITCH, "mode": ("modern", "legacy")}
_MMIO_OPTIONS = {"mmio-version": ("1", "2")}
_DISK_OPTIONS = {
    "format": ("raw", "qcow2"),
    "read-only": SWITCH,
    "serial": None,
    "block-size": BLOCK_SIZES,
    "write-cache": SWITCH,
    "num-queues": None,
    "queues": None,
    "queue-size": None,
}
_CONSOLE_OPTIONS = {"socket": None}
_ANY_OPTIONS = {
    "machine": tuple(MACHINES),
    "device": ("block", "console", "rng"),
    **dict.fromkeys(SWITCHES, SWITCH),
    "accel": ("tcg", "kvm"),
}
OPTIONS = _ANY_OPTIONS | WAIT | _PCI_OPTIONS | _MMIO_OPTIONS | _DISK_OPTIONS | _CONSOLE_OPTIONS

_TYPES = {"block": DeviceType.Block, "console": DeviceType.Console, "rng": DeviceType.EntropySource}
_LONGEST_SERIAL = 20
_MOST_QUEUES = 1024
_QUEUE_SIZES = tuple(str(1 << shift) for shift in range(2, 11))


class QemuPlace(Place):
    """A device of a machine that does not run yet. Raises InvalidParam for options that do not go together."""

    running: QemuMachine | None = None
    """The machine of the device that was opened last, for its QMP."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.options = target.options
        self.machine = MACHINES[self.options.get("machine", "q35")]
        self.device = self.options.get("device", "block")
        self._check_belonging()
        self._check_numbers()
        self._mode = self._choose_mode()

    @property
    def device_type(self) -> DeviceType:
        return _TYPES[self.device]

    def open_transport(self) -> Opened:
        with ExitStack() as stack:
            with shield():
                machine = self.running = stack.enter_context(self.open_machine())
                opened = self.reach(machine)
                stack.push(opened.resources)
            # A signal that came meanwhile was raised at the end of the shield, and `stack` has given everything back.
            return Opened(opened.transport, opened.hal, stack.pop_all())

    def open_machine(self, arguments: Sequence[str] = (), *, pass_fds: Sequence[int] = ()) -> QemuMachine:
        """Start the machine, and touch nothing of it: for what needs QMP (resizing, unplugging) or more devices, which
        `arguments` add.

        Raises SetupError for an image that cannot be used and for what QEMU refuses, RefusedError for one that is in
        use.
        """
        if self.device == "block":
            check_image(self.target.name, self._is_on("read-only"), self.options.get("format", "raw"))
        accel = self.options.get("accel", "tcg")
        return QemuMachine(self.machine, [*self.arguments(), *arguments], pass_fds=pass_fds, accel=accel)

    def reach(self, machine: QemuMachine) -> Opened:
        """The device of a machine that `open_machine` started; the machine stays the caller's. May be called again when
        what it returned before is closed."""
        transport, hal = guestless.reach(machine, self._mode, filtered=self.filtered)
        with ExitStack() as stack:
            stack.push(hal)
            stack.push(transport)
            return Opened(transport, hal, stack.pop_all())

    def arguments(self) -> list[str]:
        """What QEMU is told of the device."""
        return [*self._bus_arguments(), *_MAKERS[self.device](self)]

    # --- Private: options ---------------------------------------------------------------------------------------------

    def _check_belonging(self) -> None:
        """Options for other machines or devices mean that the user expects something else."""
        others = _MMIO_OPTIONS if self.machine.pci is not None else _PCI_OPTIONS
        self._refuse(others, f"is not for the machine {self.machine.name}")
        if self.device != "block":
            self._refuse(_DISK_OPTIONS, f"is not for device={self.device}")
        if self.device != "console":
            self._refuse(_CONSOLE_OPTIONS, f"is not for device={self.device}")
        if self.device != "block" and self.target.name != NO_IMAGE:
            raise InvalidParam(
                f"device={self.device} has no image, so not {self.target.name!r}",
                remedy=f"write qemu:{NO_IMAGE}?device={self.device}",
            )
        if self._is_on("legacy") and self._is_on("transitional"):
            raise InvalidParam("a device is legacy or transitional", remedy="leave out one of the two options")

    def _refuse(self, keys: Iterable[str], why: str) -> None:
        for key in keys:
            if key in self.options:
                raise InvalidParam(f"option {key} {why}", remedy=f"leave {key} out")

    def _check_numbers(self) -> None:
        if self.options.get("queue-size", _QUEUE_SIZES[0]) not in _QUEUE_SIZES:
            raise InvalidParam(
                f"option queue-size cannot be {self.options['queue-size']!r}",
                remedy=f"choose one of: {', '.join(_QUEUE_SIZES)}",
            )
        queues = self._queue_count() or "1"
        if not (queues.isascii() and queues.isdecimal() and 0 < int(queues) <= _MOST_QUEUES):
            raise InvalidParam(f"option num-queues cannot be {queues!r}", remedy=f"give 1 to {_MOST_QUEUES}")
        if len(os.fsencode(self.options.get("serial", ""))) > _LONGEST_SERIAL:
            raise InvalidParam(f"the serial has more than {_LONGEST_SERIAL} bytes")

    def _queue_count(self) -> str | None:
        """How many queues the device has; None: as QEMU likes. `queues` alone is how many are used, too."""
        return self.options.get("num-queues", self.options.get("queues"))

    def _choose_mode(self) -> str | None:
        """The interface of a transitional function; None where there is only one."""
        wanted = self.options.get("mode")
        if self._is_on("transitional"):
            return wanted or "modern"
        have = "legacy" if self._is_on("legacy") else "modern"
        if wanted not in (None, have):
            raise InvalidParam(f"the device has no {wanted} interface", remedy="add transitional=on for both")
        return None

    def _is_on(self, option: str) -> bool:
        return self.options.get(option) == "on"

    # --- Private: QEMU's arguments ------------------------------------------------------------------------------------

    def _bus_arguments(self) -> list[str]:
        if self.machine.pci is not None:
            return []
        legacy = "true" if self.options.get("mmio-version") == "1" else "false"
        return ["-global", f"virtio-mmio.force-legacy={legacy}"]

    def device_argument(self, kind: str, **properties: str | None) -> str:
        """The value of `-device` for a virtio device of this kind (`virtio-blk`) on the machine's bus."""
        bus = "device"
        if self.machine.pci is not None:
            bus = "pci"
            modern, legacy = not self._is_on("legacy"), self._is_on("legacy") or self._is_on("transitional")
            properties |= {"disable-modern": _off_on(modern), "disable-legacy": _off_on(legacy)}
        properties |= {"packed": self.options.get("packed"), "id": DEVICE_ID}
        return _joined(f"{kind}-{bus}", **properties)

    def disk_arguments(self) -> list[str]:
        """The image and the disk."""
        read_only = self.options.get("read-only", "off")
        size = self.options.get("block-size") and str(parse_size(self.options["block-size"]))
        cache = self.options.get("write-cache", "on")
        # What is discarded, or zeroed with leave to unmap, becomes a hole of the image.
        node_options = {"read-only": read_only, "discard": "unmap"}
        image = _joined("driver=file", **{"node-name": "file0", "filename": self.target.name, **node_options})
        node = _joined(
            f"driver={self.options.get('format', 'raw')}", **{"node-name": DISK_NODE, "file": "file0", **node_options}
        )
        device = self.device_argument(
            "virtio-blk",
            **{
                "drive": DISK_NODE, "serial": self.options.get("serial"), "write-cache": cache,
                "config-wce": "off" if cache == "off" else None,
                "logical_block_size": size, "physical_block_size": size,
                "num-queues": self._queue_count(), "queue-size": self.options.get("queue-size"),
                # Or QEMU would stop the machine at an error, and never complete the request.
                "rerror": "report", "werror": "report",
            },
        )  # fmt: skip
        return ["-blockdev", image, "-blockdev", node, "-device", device]

    def rng_arguments(self) -> list[str]:
        """Entropy comes from QEMU's own generator."""
        return ["-device", self.device_argument("virtio-rng")]

    def console_arguments(self) -> list[str]:
        """A console whose other end is a socket that others connect to, or nothing."""
        path = self.options.get("socket")
        end = _joined("socket", path=path, server="on", wait="off", id="console0") if path else "null,id=console0"
        serial = self.device_argument("virtio-serial", max_ports="1")
        return ["-chardev", end, "-device", serial, "-device", "virtconsole,chardev=console0"]


_MAKERS: dict[str, Callable[[QemuPlace], list[str]]] = {
    "block": QemuPlace.disk_arguments,
    "console": QemuPlace.console_arguments,
    "rng": QemuPlace.rng_arguments,
}


def find(target: Target, sysfs: Sysfs) -> QemuPlace:
    """Raises InvalidParam."""
    check_options(target, OPTIONS)
    return QemuPlace(target)


def check_image(path: str, read_only: bool, image_format: str) -> None:
    """Whether an image can be a disk, before QEMU says so in its own way. Raises SetupError with what to do."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise SetupError(f"{path} is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}, not a disk image")
        os.close(os.open(path, os.O_RDONLY if read_only else os.O_RDWR))
    except FileNotFoundError as error:
        raise SetupError.refused(f"cannot open {path}", error, remedy=f"make one: truncate -s 16M {path}") from error
    except PermissionError as error:
        remedy = "make it readable" if read_only else "make it writable, or add read-only=on"
        raise SetupError.refused(f"cannot open {path}", error, remedy=remedy) from error
    except OSError as error:
        if isinstance(error, SetupError):
            raise
        raise SetupError.refused(f"cannot open {path}", error, remedy="check the path") from error
    if image_format == "raw" and (not status.st_size or status.st_size % SECTOR_SIZE):
        raise SetupError(
            f"{path} has {status.st_size} bytes, which is no disk: a raw image has one or more sectors of "
            f"{SECTOR_SIZE} bytes",
            remedy=f"make it larger: truncate -s {max(1, -(-status.st_size // SECTOR_SIZE)) * SECTOR_SIZE} {path}",
        )


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFBLK: "a device of the kernel",
    stat.S_IFCHR: "a device of the kernel",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def _off_on(enabled: bool) -> str:
    """The value of a `disable-` property."""
    return "off" if enabled else "on"


def _joined(first: str, **properties: str | None) -> str:
    """QEMU's own syntax of properties, in which a comma is written twice; None is left out."""
    pairs = [f"{key}={value.replace(',', ',,')}" for key, value in properties.items() if value is not None]
    return ",".join([first, *pairs])
