"""Recorded on a device of QEMU's, played back with none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwloop import session
from hwloop.device.block import BlockDevice
from hwloop.filter.event import Kind
from hwloop.filter.file import Trace
from hwloop.filter.replay import Departed

DRIVERS = ("wait=irq", "packed=on")
"""Options that are the driver's, and so the player's too."""
DATA = bytes(range(256)) * 6


def use(target: str, sector: int = 3) -> list[bytes]:
    with session.open(target) as disk:
        assert isinstance(disk, BlockDevice)
        disk.write(sector, DATA)
        disk.flush()
        tokens = [disk.submit_read(at, 512) for at in range(6)]
        return [disk.wait(token) for token in tokens]


@pytest.mark.parametrize("options", ["", "legacy=on", "machine=microvm", "machine=microvm&mmio-version=1", *DRIVERS])
def test_what_was_recorded_is_played_back_with_no_device(image: Path, tmp_path: Path, options: str) -> None:
    path = tmp_path / "blk.rec"
    recorded = use(f"qemu:{image}?filter=record:{path}{'&' + options if options else ''}")
    assert b"".join(recorded[3:]) == DATA
    image.unlink()
    assert use(f"replay:{path}{'?' + options if options in DRIVERS else ''}") == recorded
    with pytest.raises(Departed, match="the driver departs from the recording"):
        use(f"replay:{path}{'?' + options if options in DRIVERS else ''}", sector=4)


def test_each_register_access_is_in_a_trace(image: Path, tmp_path: Path) -> None:
    use(f"qemu:{image}?filter=trace:{tmp_path / 't'}")
    events = list(Trace.read(tmp_path / "t").events())
    places = {event.queue: event.value for event in events if event.kind is Kind.REGISTERS}
    accesses = [event for event in events if event.kind in (Kind.REGISTER_READ, Kind.REGISTER_WRITE)]
    assert len(places) == 4, "common, interrupt status, device, and the doorbell of queue 0"
    assert {event.queue for event in accesses} <= set(places)
    doorbell = next(event.queue for event in events if event.kind is Kind.REGISTERS and event.arg == 2)
    rung = sum(event.queue == doorbell for event in accesses)
    assert rung == sum(event.kind is Kind.NOTIFY for event in events) > 0
