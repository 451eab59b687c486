"""The order in which a device ends, and that it ends whatever fails on the way."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hwloop.device import DRIVERS, BaseDriverOps, BlockDriverOps, Device
from hwloop.device.base import Driver
from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DeadlineExpired, DmaError, IoError
from hwloop.hal.arena import Arena
from hwloop.hal.fake import FakeHal
from hwloop.signals import Interrupted, unwind_on_signals
from hwloop.spec import DeviceStatus, DeviceType
from hwloop.transport.fake import FakeTransport

STEPS: list[str] = []


class SpyHal(FakeHal):
    def _free_arena(self, arena: Arena) -> None:
        STEPS.append("memory freed")
        super()._free_arena(arena)

    def close(self) -> None:
        super().close()
        STEPS.append("hal closed")


class SpyTransport(FakeTransport):
    def set_status(self, status: DeviceStatus) -> None:
        super().set_status(status)
        STEPS.append(f"status {int(status)}")

    def stop_dma(self) -> None:
        super().stop_dma()
        STEPS.append("bus mastering off")

    def close(self) -> None:
        super().close()
        STEPS.append("registers unmapped")


def opened() -> tuple[VirtioBlk, FakeBlk, SpyHal]:
    hal = SpyHal()
    device = FakeBlk(hal, 1 << 20)
    disk = VirtioBlk(SpyTransport(device), hal, request_seconds=0.05)
    disk.call_when_closed(lambda: STEPS.append("given back"))
    STEPS.clear()
    return disk, device, hal


def once(steps: list[str]) -> list[str]:
    """Neighbours that are the same are one: there is an arena for each direction."""
    return [step for index, step in enumerate(steps) if index == 0 or steps[index - 1] != step]


def test_the_end_has_this_order() -> None:
    disk, _, hal = opened()
    disk.read(0, 512)
    disk.submit_read(0, 512)
    disk.close()
    expected = ["status 0", "bus mastering off", "memory freed", "registers unmapped", "hal closed", "given back"]
    assert once(STEPS) == expected
    assert hal.leaks() == []
    disk.close()
    assert once(STEPS) == expected


def test_a_with_block_closes_the_device_also_when_it_fails() -> None:
    disk, _, _ = opened()
    with pytest.raises(ValueError, match="mine"), disk:
        raise ValueError("mine")
    assert STEPS[-1] == "given back"


def short(disk: VirtioBlk) -> None:
    reset = disk.transport.reset
    disk.transport.reset = lambda seconds=0.02: reset(seconds)  # type: ignore[method-assign]


def test_no_memory_is_freed_when_the_reset_does_not_complete() -> None:
    disk, device, hal = opened()
    short(disk)
    device.faults.reset_reads = -1
    with pytest.raises(DeadlineExpired):
        disk.close()
    assert STEPS == ["status 0", "bus mastering off", "registers unmapped", "hal closed", "given back"]
    assert hal.leaks() != []


def test_no_memory_is_freed_when_the_status_cannot_be_read() -> None:
    disk, device, _ = opened()

    def broken() -> int:
        raise IoError("the bus is broken")

    device.read_status = broken  # type: ignore[method-assign]
    with pytest.raises(IoError):
        disk.close()
    assert "memory freed" not in STEPS
    assert STEPS[-1] == "given back"


def test_the_hal_is_told_that_a_device_no_longer_answers_before_its_memory_is_freed() -> None:
    disk, device, hal = opened()
    hal.device_lost = lambda: STEPS.append("told")  # type: ignore[method-assign]
    device.faults.gone = True
    disk.close()
    assert once(STEPS) == [
        "status 0", "told", "bus mastering off", "memory freed", "registers unmapped", "hal closed", "given back",
    ]  # fmt: skip
    assert hal.leaks() == []


@pytest.mark.parametrize(
    ("owner", "method", "taken"),
    [
        ("transport", "stop_dma", ["memory freed", "registers unmapped", "hal closed", "given back"]),
        ("hal", "release_memory", ["bus mastering off", "registers unmapped", "given back"]),
        ("transport", "close", ["bus mastering off", "memory freed", "hal closed", "given back"]),
        ("hal", "close", ["bus mastering off", "memory freed", "registers unmapped", "given back"]),
    ],
)
def test_a_step_that_fails_does_not_keep_the_others_from_being_taken(owner: str, method: str, taken: list[str]) -> None:
    disk, _, _ = opened()

    def broken() -> None:
        raise DmaError(f"{method} is broken")

    setattr(getattr(disk, owner), method, broken)
    with pytest.raises(DmaError, match=f"{method} is broken"):
        disk.close()
    assert once(STEPS) == ["status 0", *taken]


def test_a_signal_while_a_device_is_closed_comes_when_it_is_closed() -> None:
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    unwind_on_signals()
    try:
        disk, _, _ = opened()
        stop_dma = disk.transport.stop_dma

        def interrupted() -> None:
            signal.raise_signal(signal.SIGTERM)
            stop_dma()

        disk.transport.stop_dma = interrupted  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            disk.close()
        assert STEPS[-1] == "given back"
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def test_a_signal_as_a_close_begins_leaves_nothing_open() -> None:
    def trace(frame: Any, event: str, argument: object) -> Any:
        """A signal between any two lines of `close`."""
        if frame.f_code is Driver.close.__code__ and event == "line":
            frames.append(frame.f_lineno)
            if len(frames) == step:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    for step in range(1, 30):
        disk, _, _ = opened()
        frames: list[int] = []
        sys.settrace(trace)
        try:
            disk.close()
        except KeyboardInterrupt:
            disk.close()
        finally:
            sys.settrace(None)
        assert STEPS[-1] == "given back"
        if len(frames) < step:
            break
    else:
        pytest.fail("close has more lines than were tried")


class Broken(Device):
    """A driver whose initialisation goes wrong at the step that the test puts here."""

    SUPPORTED_FEATURES = VirtioBlk.SUPPORTED_FEATURES
    step: Callable[[Broken], None]

    def device_name(self) -> str:
        return "broken"

    def _set_up(self) -> None:
        type(self).step(self)


def nothing(device: Broken) -> None:
    """No step goes wrong."""


def a_queue_and_then_an_error(device: Broken) -> None:
    device._add_queue(0)
    raise IoError("no")


def a_bug(device: Broken) -> None:
    raise KeyError("bug")


@pytest.mark.parametrize(("step", "kind"), [(a_queue_and_then_an_error, IoError), (a_bug, KeyError)])
def test_an_initialisation_that_fails_ends_in_failed_and_leaves_nothing_behind(
    step: Callable[[Broken], None], kind: type[Exception]
) -> None:
    hal = SpyHal()
    device = FakeBlk(hal, 1 << 20)
    driver: Any = type("Driver", (Broken,), {"step": staticmethod(step)})
    STEPS.clear()
    with pytest.raises(kind):
        driver(SpyTransport(device), hal)
    assert [entry for entry in STEPS if entry.startswith("status")] == [
        "status 0", "status 1", "status 3", "status 11", "status 139", "status 0",
    ]  # fmt: skip
    assert STEPS[-1] == "hal closed"
    assert hal.leaks() == []


def test_a_driver_of_another_device_needs_only_to_set_itself_up() -> None:
    hal = FakeHal()
    driver: Any = type("Driver", (Broken,), {"step": staticmethod(nothing)})
    with driver(FakeTransport(FakeBlk(hal, 512)), hal) as device:
        assert device.device_type() is DeviceType.Block
        assert device.device_name() == "broken"
        assert isinstance(device, BaseDriverOps)


def test_the_table_of_drivers_has_the_label_of_a_device_type_for_each() -> None:
    labels = {kind.label for kind in DeviceType}
    assert set(DRIVERS) <= labels
    assert DRIVERS.get("block") is VirtioBlk
    assert issubclass(VirtioBlk, BlockDriverOps)
