"""The write cache of a block device, and how worn the device is (VIRTIO 1.4, 5.2.5 and 5.2.6)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from hwloop.config import read_config, write_config
from hwloop.device.blk_formats import LIFETIME_BYTES, Lifetime
from hwloop.device.blk_protocol import BlkConfig, RequestType
from hwloop.device.block import BlockDevice
from hwloop.errors import DeviceError, InvalidParam, Unsupported
from hwloop.spec import BlkFeature

if TYPE_CHECKING:
    from hwloop.transport.base import Transport


class CacheMode(Enum):
    """Whether a write that has completed may be lost until the next flush."""

    WRITEBACK = "writeback"
    WRITETHROUGH = "writethrough"


class BlkCache(BlockDevice):
    """What a disk keeps in its cache, and for how long it will."""

    negotiated: int
    transport: Transport
    _cache_mode = CacheMode.WRITETHROUGH

    @property
    def cache_mode(self) -> CacheMode:
        """As it was when it was last read or set. A device with FLUSH and no CONFIG_WCE is taken to have a writeback
        cache, one without both not to (VIRTIO 1.4, 5.2.5.1)."""
        return self._cache_mode

    def read_cache_mode(self) -> CacheMode:
        """Ask the device (`writeback`), where it can be asked."""
        self.check_working()
        if self.negotiated & BlkFeature.CONFIG_WCE:
            writeback = bool(read_config(self.transport, BlkConfig.writeback))
        else:
            writeback = bool(self.negotiated & BlkFeature.FLUSH)
        self._cache_mode = CacheMode.WRITEBACK if writeback else CacheMode.WRITETHROUGH
        return self._cache_mode

    def set_cache_mode(self, mode: CacheMode | str) -> None:
        """Change it (`writeback` or `writethrough`), and flush what a writeback cache held until now.

        Writes that are in flight meanwhile may be of either kind. Raises InvalidParam, Unsupported without
        VIRTIO_BLK_F_CONFIG_WCE, DeviceError where the device does not take it.
        """
        wanted = _parse_mode(mode)
        self.check_working()
        if not self.negotiated & BlkFeature.CONFIG_WCE:
            raise Unsupported("the device's cache cannot be switched: it does not offer VIRTIO_BLK_F_CONFIG_WCE")
        write_config(self.transport, BlkConfig.writeback, int(wanted is CacheMode.WRITEBACK))
        if self.read_cache_mode() is not wanted:
            raise DeviceError(f"the device did not take {wanted.value} for its cache mode", section="5.2.6.1")
        if wanted is CacheMode.WRITETHROUGH:
            # That alone persists nothing of what was written before (VIRTIO 1.4, 5.2.6.1).
            self.flush()

    def lifetime(self) -> Lifetime:
        """How worn the device is. Raises Unsupported without VIRTIO_BLK_F_LIFETIME, DeviceError for values that no
        device may send."""
        self.check_working()
        if not self.negotiated & BlkFeature.LIFETIME:
            raise Unsupported("the device does not tell its lifetime: it does not offer VIRTIO_BLK_F_LIFETIME")
        return Lifetime.parse(self._run(RequestType.GET_LIFETIME, 0, bytearray(LIFETIME_BYTES)))


def _parse_mode(mode: CacheMode | str) -> CacheMode:
    try:
        return CacheMode(mode)
    except ValueError:
        raise InvalidParam(f"there is no cache mode {mode!r}", remedy="writeback or writethrough") from None
