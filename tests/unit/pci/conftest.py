from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pci import BytesConfigAccess, ConfigSpace

CAPTURES = Path(__file__).parent / "captures"

Capture = Callable[[str, int], bytes]


@pytest.fixture
def capture() -> Capture:
    """Configuration space as a device showed it: capture("pcie-root-port", 0x1000) is that many bytes."""

    def load(name: str, size: int) -> bytes:
        data = bytearray(size)
        for line in (CAPTURES / f"{name}.txt").read_text().splitlines():
            if not line.startswith("#"):
                offset, row = line.split(":")
                data[int(offset, 16) : int(offset, 16) + 16] = bytes.fromhex(row)
        return bytes(data)

    return load


@pytest.fixture
def blk(capture: Capture) -> ConfigSpace:
    """The modern virtio block function that QEMU shows on a q35 root bus."""
    return ConfigSpace(BytesConfigAccess(capture("virtio-blk-modern", 0x100), name="blk"))
