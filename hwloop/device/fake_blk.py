"""A block device in process: the meaning of a `FakeDevice`'s requests, over a bytearray.

Serves only what was negotiated, and refuses what breaks a rule of the block protocol (VIRTIO 1.4, 5.2.6).
"""

from __future__ import annotations

from dataclasses import dataclass

from cython_ring import Chain
from hwloop.device.blk_protocol import DEVICE_ID_BYTES, HEADER_BYTES, BlkConfig, RequestType, RespStatus
from hwloop.hal.fake import FakeHal
from hwloop.spec import SECTOR_SIZE, BlkFeature, DeviceType
from hwloop.transport.fake_device import MODERN, FakeDevice, RuleBroken

_CONFIG_BYTES = 60


@dataclass
class BlkFaults:
    """One switch for each way in which requests may go wrong; each names how many further requests it spoils."""

    io_error: int = 0
    undefined_status: int = 0
    no_status: int = 0
    short_length: int = 0
    unsupported: int = 0


class FakeBlk(FakeDevice):
    """A disk of `size` bytes (whole blocks). `data` is what is written, `durable` what was flushed."""

    def __init__(
        self,
        hal: FakeHal,
        size: int = 1 << 20,
        *,
        features: int = MODERN | BlkFeature.FLUSH | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX,
        queue_size: int = 64,
        block_size: int = SECTOR_SIZE,
        serial: bytes = b"FAKE0",
        size_max: int = 0,
        seg_max: int = 126,
    ) -> None:
        super().__init__(hal, DeviceType.Block, features, [queue_size], bytes(_CONFIG_BYTES))
        self.data = bytearray(size)
        self.durable = bytes(size)
        self.serial = serial
        self.blk_faults = BlkFaults()
        self.requests: list[RequestType] = []
        for field, value in (
            (BlkConfig.capacity, size // SECTOR_SIZE),
            (BlkConfig.size_max, size_max),
            (BlkConfig.seg_max, seg_max),
            (BlkConfig.blk_size, block_size),
        ):
            self.set_config(field.offset, field.width, value)

    def set_config(self, offset: int, width: int, value: int) -> None:
        """Change the configuration as a device does: the generation changes with it."""
        self.config[offset : offset + width] = value.to_bytes(width, "little")
        self.config_changed()

    def serve(self, chain: Chain) -> int:
        everything = chain.read()
        header, payload = everything[:HEADER_BYTES], everything[HEADER_BYTES:]
        if len(header) < HEADER_BYTES or chain.writable_bytes < 1:
            raise RuleBroken("a request without a whole header and a status byte (5.2.6)")
        if any(header[4:8]):
            raise RuleBroken(f"the reserved bytes of the header are {header[4:8].hex()} (5.2.6)")
        self._check_segments(chain)
        sector, room = int.from_bytes(header[8:], "little"), chain.writable_bytes - 1
        status, answer = self._answer(int.from_bytes(header[:4], "little"), sector, payload, room)
        chain.write(answer[:room])
        return self._complete(chain, room, status)

    def _check_segments(self, chain: Chain) -> None:
        """VIRTIO 1.4, 5.2.6: size_max and seg_max bind the data, without header and status."""
        segments = [length for _, length in (*chain.readable[1:], *chain.writable[:-1])]
        seg_max, size_max = self._limit(BlkFeature.SEG_MAX, 12), self._limit(BlkFeature.SIZE_MAX, 8)
        if seg_max and len(segments) > seg_max:
            raise RuleBroken(f"a request of {len(segments)} segments, more than seg_max {seg_max} (5.2.6)")
        if size_max and max(segments, default=0) > size_max:
            raise RuleBroken(f"a segment of {max(segments)} bytes, more than size_max {size_max} (5.2.6)")

    def _limit(self, feature: BlkFeature, offset: int) -> int:
        """A limit of the configuration, 0 when it was not negotiated or says nothing."""
        return int.from_bytes(self.config[offset : offset + 4], "little") if self.driver_features & feature else 0

    def _complete(self, chain: Chain, room: int, status: int) -> int:
        if self.blk_faults.no_status:
            self.blk_faults.no_status -= 1
            return room
        if self.blk_faults.undefined_status:
            self.blk_faults.undefined_status -= 1
            status = 0x77
        chain.write(bytes([status]), room)
        if self.blk_faults.short_length:
            self.blk_faults.short_length -= 1
            return 1
        return room + 1

    def _answer(self, number: int, sector: int, payload: bytes, room: int) -> tuple[int, bytes]:
        if self.blk_faults.io_error:
            self.blk_faults.io_error -= 1
            return RespStatus.IO_ERR, b""
        if self.blk_faults.unsupported or number not in list(RequestType):
            self.blk_faults.unsupported = max(0, self.blk_faults.unsupported - 1)
            return RespStatus.UNSUPPORTED, b""
        kind = RequestType(number)
        self.requests.append(kind)
        if kind == RequestType.IN:
            start = self._check(sector, room)
            return RespStatus.OK, bytes(self.data[start : start + room])
        if kind == RequestType.OUT:
            if self.features & BlkFeature.RO:
                raise RuleBroken("a write was sent to a read-only disk (5.2.6)")
            start = self._check(sector, len(payload))
            self.data[start : start + len(payload)] = payload
            if not self.driver_features & BlkFeature.FLUSH:
                # Without FLUSH a write is durable when it completes (5.2.6.2).
                self.durable = bytes(self.data)
            return RespStatus.OK, b""
        if kind == RequestType.FLUSH:
            self._check_flush(sector, payload)
            self.durable = bytes(self.data)
            return RespStatus.OK, b""
        if room != DEVICE_ID_BYTES:
            raise RuleBroken(f"GET_ID with a buffer of {room} bytes; it has {DEVICE_ID_BYTES} (5.2.6.1)")
        return RespStatus.OK, self.serial.ljust(DEVICE_ID_BYTES, b"\0")

    def _check(self, sector: int, length: int) -> int:
        if not length or length % SECTOR_SIZE:
            raise RuleBroken(f"a request of {length} bytes, which is not whole sectors (5.2.6.1)")
        if sector * SECTOR_SIZE + length > len(self.data):
            raise RuleBroken(f"a request for {length} bytes at sector {sector}, behind the capacity (5.2.6.1)")
        return sector * SECTOR_SIZE

    def _check_flush(self, sector: int, payload: bytes) -> None:
        if not self.driver_features & BlkFeature.FLUSH:
            raise RuleBroken("a flush without VIRTIO_BLK_F_FLUSH (5.2.6)")
        if sector or payload:
            raise RuleBroken("a flush with a sector or with data (5.2.6.1)")
