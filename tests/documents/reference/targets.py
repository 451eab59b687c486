"""docs/reference/targets.md: the options of every kind of target and the filters, from the tables of the doors.

What an option means is said here; a test compares the names with the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hwloop.door import fake, mmio, pci, qemu, qtest, replay, svirtb, vhost_user, vhost_vdpa
from hwloop.door.base import QUEUE_OPTIONS, WAIT
from hwloop.door.fake_shape import FAULTS, SHAPE
from hwloop.filter import FILTERS
from hwloop.filter.fault import _KNOWN as FILTER_FAULTS

Values = Mapping[str, tuple[str, ...] | None]

_HEAD = """# Targets

Made from the tables of the doors by `make docs`. A target is a kind, a name, and options behind a question mark, joined
by `&`: `qemu:disk.img?machine=q35&queues=4`; quote it for the shell. An option that a kind does not have is refused,
with the list of those that it has. Sizes take `k`, `M`, `G`, `KiB`, `kB` and so on.
"""

KINDS: dict[str, tuple[str, Values]] = {
    "`0000:00:05.0`, `pci:0000:00:05.0`, `vda`": (
        "A PCI function, by its address or the name of its disk.",
        pci.OPTIONS,
    ),
    "`mmio:0xfeb02e00`, `mmio:LNRO0005:00`": (
        "Registers in memory, by address or by the name of the node.",
        mmio.OPTIONS,
    ),
    "`qemu:disk.img`": (
        "A device model of QEMU's, with no guest; `qemu:none` where the device is no disk. `machine` decides which of "
        "the options there are.",
        qemu.OPTIONS,
    ),
    "`qtest:/path.sock`": ("A QEMU that you started with a qtest server.", qtest.OPTIONS),
    "`vhost-user:/path.sock`": ("A device that is a process.", vhost_user.OPTIONS),
    "`vhost-vdpa:/dev/vhost-vdpa-0`": ("A vDPA device behind the kernel's node.", vhost_vdpa.OPTIONS),
    "`replay:FILE`": ("A device that a `record` filter has recorded.", replay.OPTIONS),
    "`svirtb:disk.img`": ("A \"Simple VirtIO Block\" device.", svirtb.OPTIONS),
    "`svirtb:0xfeb00000`": ("The same, with registers of this machine.", svirtb.PHYSICAL_OPTIONS),
    "`fake:16M`": (
        "A disk in process, strict with its driver. Besides these it has every option of the two tables below.",
        {key: values for key, values in fake.OPTIONS.items() if key not in SHAPE | FAULTS},
    ),
}  # fmt: skip
COMMON: Values = WAIT | QUEUE_OPTIONS

MEANINGS = {
    "wait": "how the driver waits: `poll` spins, then naps; `irq` sleeps on the interrupt, and is refused where there "
    "is none; `adaptive` spins for a while, then sleeps. Default: `poll`",
    "packed": "packed rings in place of split ones. Default: off, unless the device refuses to do without",
    "indirect": "VIRTIO_F_INDIRECT_DESC. Default: where it is offered",
    "event-idx": "VIRTIO_F_EVENT_IDX. Default: where it is offered",
    "in-order": "VIRTIO_F_IN_ORDER. Default: where it is offered",
    "notification-data": "VIRTIO_F_NOTIFICATION_DATA. Default: where it is offered",
    "ring-reset": "VIRTIO_F_RING_RESET: a queue whose request got stuck is reset by itself. Default: off",
    "queues": "how many queues a disk uses; `qemu:` and `fake:` make so many. Default: 1",
    "queue-size": "descriptors of each queue. Default: 256, or what the device allows",
    "hal": "how it is reached. Default: `iommufd` or `vfio` where there is an IOMMU, else `uio`",
    "mode": "the registers of a transitional device: those of VIRTIO 1, or the legacy ones",
    "size": "bytes of the registers (`mmio:`), or of the disk (`svirtb:` at an address, where it is required)",
    "unbind": "take the node from the driver of the kernel that holds it, and give it back",
    "version": "what the registers have to be: 1 is legacy",
    "machine": "of QEMU. Default: `q35`",
    "device": "what kind of device it is. Default: `block`",
    "accel": "QEMU's accelerator; no code runs in the machine in either case. Default: `tcg`",
    "legacy": "a legacy device (`disable-modern=on`)",
    "transitional": "a transitional device",
    "mmio-version": "of the registers: 1 is legacy. Default: 2",
    "format": "of the image. Default: `raw`",
    "read-only": "a disk that refuses writes",
    "serial": "the disk's serial, up to 20 characters",
    "block-size": "bytes of a logical block. Default: 512",
    "write-cache": "whether the disk has a cache, and CONFIG_WCE. Default: on",
    "num-queues": "how many queues the disk has, used or not. Default: as `queues`, or as QEMU likes",
    "socket": "where the console's other side is: a socket that QEMU listens at",
    "ram": "the file that is the machine's memory: the `mem-path` of its memory-backend-file with `share=on`. Required",
    "ram-base": "where that memory begins in the machine",
    "qmp": "the socket of its QMP monitor",
    "at": "which device: a PCI function or a slot. Default: the first",
    "reconnect": "for how many seconds a back end that has died is waited for; 0: not at all. Default: 10",
    "trapped": "put it behind a real page of registers of QEMU's",
    "reset": "end the connection of a driver that died, first",
    "vectors": "MSI-X vectors of the device. Default: 2",
}
SHAPES = {
    "block-size": "512 to 65536 bytes",
    "queue-size": "the most descriptors of a queue",
    "queues": "request queues",
    "read-only": "it refuses writes",
    "serial": "up to 20 characters",
    "strict": "`off`: answer a request against the rules with the status that the specification has for it, and go on",
    "flush": "`off`: no VIRTIO_BLK_F_FLUSH, and no volatile cache",
    "write-cache": "VIRTIO_BLK_F_CONFIG_WCE, and how the cache begins",
    "size-max": "the most bytes of a segment",
    "seg-max": "the most segments of a request",
    "geometry": "cylinders, heads, sectors: `16383/16/63`",
    "physical-block-size": "topology: a size",
    "alignment-offset": "topology: in logical blocks",
    "min-io": "topology: a size",
    "opt-io": "topology: a size",
    "discard": "VIRTIO_BLK_F_DISCARD",
    "discard-max": "the most bytes of a range",
    "discard-segments": "the most ranges of a request",
    "discard-alignment": "a size",
    "write-zeroes": "VIRTIO_BLK_F_WRITE_ZEROES",
    "write-zeroes-max": "the most bytes of a range",
    "write-zeroes-segments": "the most ranges of a request",
    "write-zeroes-may-unmap": "whether zeros may be deallocated",
    "secure-erase": "VIRTIO_BLK_F_SECURE_ERASE",
    "secure-erase-max": "the most bytes of a range",
    "secure-erase-segments": "the most ranges of a request",
    "secure-erase-alignment": "a size",
    "lifetime": "VIRTIO_BLK_F_LIFETIME: pre-end-of-life 0 to 3, wear of SLC and of MLC cells 0 to 11: `1,3,3`",
    "zoned": "VIRTIO_BLK_F_ZONED, and the model",
    "zone-size": "a size",
    "zone-capacity": "how much of a zone can be written: a size",
    "conventional-zones": "so many at the beginning are not sequential",
    "max-open-zones": "0: no limit",
    "max-active-zones": "0: no limit",
    "max-append": "the most bytes of an append; 0: it has none",
    "write-granularity": "a size",
}
MISBEHAVIOUR = {
    "reset-reads": "how many reads of the status it takes until a reset shows; -1: for ever",
    "refuse-features": "FEATURES_OK does not stick",
    "ignore-driver-ok": "DRIVER_OK does not stick",
    "drop": "buffers are taken and never used",
    "lose-notifications": "so many notifications are not seen",
    "generation-steps": "the configuration changes at so many further reads of the generation; -1: at every one",
    "queue-reset-reads": "how many looks it takes until the reset of a queue shows; -1: for ever",
    "refuse-vectors": "no MSI-X vector can be given to an event",
    "refuse-vectors-from": "none from this one on; 0: all can",
    "gone": "the device was unplugged: every register reads all ones",
    "io-error": "so many further requests fail with VIRTIO_BLK_S_IOERR",
    "undefined-status": "so many have a status that there is not",
    "no-status": "so many have none written",
    "short-length": "so many are said to have written too little",
    "unsupported": "so many fail with VIRTIO_BLK_S_UNSUPP",
}
FILTER_MEANINGS = {
    "trace": "`trace` keeps the last 64 events for errors; `trace:FILE` writes all of them",
    "record": "`record:FILE`: a trace with the bytes of every buffer",
    "replay": "`replay:FILE`: play a recording back",
    "delay": "`delay:5ms`, or `delay:notify=5ms:register=1ms`: accesses reach the device late",
    "fault": f"`fault:NAME[=N]`, joined by colons: {', '.join(f'`{name}`' for name in FILTER_FAULTS)}",
}
COMMON_NAMES = frozenset(COMMON)


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_common(), *_kinds(), *_fake(), *_filters()])


def _common() -> Iterator[str]:
    yield "## Queues, and how they wait\n\nOptions of every kind that has queues, unless its table says otherwise.\n"
    yield from _table(COMMON, MEANINGS)


def _kinds() -> Iterator[str]:
    for name, (text, options) in KINDS.items():
        yield f"## {name}\n\n{text}\n"
        own = {key: values for key, values in options.items() if key not in COMMON_NAMES or values != COMMON[key]}
        missing = sorted(COMMON_NAMES - set(options))
        if own:
            yield from _table(own, MEANINGS)
        if not missing:
            yield "And those of queues.\n"
        elif len(missing) < len(COMMON_NAMES):
            shared = [key for key in COMMON if key in options and key not in own]
            yield f"And {', '.join(f'`{key}`' for key in shared)}.\n" if shared else ""


def _fake() -> Iterator[str]:
    yield "## What a fake disk, and one of `hwloop testdev`, is like\n"
    yield from _table(SHAPE, SHAPES)
    yield "## How it misbehaves\n"
    yield from _table(FAULTS, MISBEHAVIOUR)


def _filters() -> Iterator[str]:
    yield "## Filters\n\n`?filter=NAME,...` of any kind but `svirtb:`, the one nearest to the driver first"
    yield "([trace.md](../trace.md)).\n\n| filter | |\n|---|---|"
    yield from (f"| `{name}` | {FILTER_MEANINGS[name]} |" for name in FILTERS)
    yield ""


def _table(options: Values, meanings: Mapping[str, str]) -> Iterator[str]:
    yield "| option | values | |\n|---|---|---|"
    for key, values in options.items():
        yield f"| `{key}` | {', '.join(f'`{value}`' for value in values or ())} | {meanings[key]} |"
    yield ""
