"""Registers that a loop rings by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from cython_ring import Engine, Loopback
from hwloop.spec import Feature
from hwloop.transport.mapped_doorbell import mapped_doorbell
from mmio import FakeRegion, MappedFile


@pytest.mark.parametrize(
    ("negotiated", "width", "stored"),
    [(0, 2, "0300"), (0, 4, "03000000"), (Feature.NOTIFICATION_DATA, 2, "03000100")],
)
def test_a_request_is_one_store_of_the_right_width(tmp_path: Path, negotiated: int, width: int, stored: str) -> None:
    path = tmp_path / "registers"
    path.write_bytes(b"\xff" * 4096)
    with MappedFile(path, 0, 4096) as region:
        bell = mapped_doorbell(region, 3, negotiated, width=width)
        assert bell is not None
        loop = Loopback(8, slots=True)
        engine = Engine(loop.driver, loop.slot_memory(), doorbell=bell)
        assert engine.put(0, 0, [(0x1000, 512)], True, 1)
        assert bell.count == 1
        assert path.read_bytes()[:5] == bytes.fromhex(stored).ljust(5, b"\xff")


def test_a_register_that_is_not_mapped_has_none() -> None:
    assert mapped_doorbell(FakeRegion(16), 0, 0, width=2) is None
