"""What feature bits mean, in a few words (VIRTIO 1.4, 5 and 6)."""

from __future__ import annotations

from enum import IntFlag

from hwloop.spec import BlkFeature, ConsoleFeature, DeviceType, Feature

_ANY: dict[IntFlag, str] = {
    Feature.NOTIFY_ON_EMPTY: "legacy: an interrupt when the ring has run empty",
    Feature.ANY_LAYOUT: "legacy: a request may be cut into parts anywhere",
    Feature.INDIRECT_DESC: "a request may have its descriptors in a table of its own",
    Feature.EVENT_IDX: "each side says at which index it wants to be notified",
    Feature.UNUSED: "legacy: the back end itself answers",
    Feature.VERSION_1: "VIRTIO 1.0 or later",
    Feature.ACCESS_PLATFORM: "addresses go through the platform's IOMMU",
    Feature.RING_PACKED: "packed virtqueues",
    Feature.IN_ORDER: "buffers are used in the order in which they were made available",
    Feature.ORDER_PLATFORM: "memory accesses need the barriers of real hardware",
    Feature.SR_IOV: "the device has virtual functions",
    Feature.NOTIFICATION_DATA: "a notification carries how far the ring is",
    Feature.NOTIF_CONFIG_DATA: "a notification carries a number that the device chose",
    Feature.RING_RESET: "one queue can be reset by itself",
    Feature.ADMIN_VQ: "the device has administration queues",
    Feature.SUSPEND: "the device can be suspended",
}

_OF_TYPE: dict[DeviceType, dict[IntFlag, str]] = {
    DeviceType.Block: {
        BlkFeature.BARRIER: "legacy: requests can be barriers",
        BlkFeature.SIZE_MAX: "a segment has a largest size (size_max)",
        BlkFeature.SEG_MAX: "a request has a largest number of segments (seg_max)",
        BlkFeature.GEOMETRY: "cylinders, heads and sectors are told",
        BlkFeature.RO: "read-only",
        BlkFeature.BLK_SIZE: "the size of a block is told (blk_size)",
        BlkFeature.SCSI: "legacy: SCSI commands",
        BlkFeature.FLUSH: "has a cache that can be flushed",
        BlkFeature.TOPOLOGY: "physical blocks, alignment and the best sizes are told",
        BlkFeature.CONFIG_WCE: "the cache can be switched between writeback and writethrough",
        BlkFeature.MQ: "several request queues (num_queues)",
        BlkFeature.DISCARD: "discard: sectors can be given up",
        BlkFeature.WRITE_ZEROES: "zeros are written without sending them",
        BlkFeature.LIFETIME: "tells how worn it is",
        BlkFeature.SECURE_ERASE: "sectors can be erased so that nobody gets them back",
        BlkFeature.ZONED: "a zoned device",
    },
    DeviceType.Console: {
        ConsoleFeature.SIZE: "tells its columns and rows",
        ConsoleFeature.MULTIPORT: "several ports",
        ConsoleFeature.EMERG_WRITE: "characters can be written with no queue",
    },
}


def meaning_of(bit: int, device_type: DeviceType | None) -> str:
    """What a bit means on a device of this type, or "" for one that nobody described here."""
    table = _OF_TYPE.get(device_type, {}) if device_type is not None else {}
    return next((text for flag, text in (*table.items(), *_ANY.items()) if flag == 1 << bit), "")
