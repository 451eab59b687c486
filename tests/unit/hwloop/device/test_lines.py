"""Which interrupts a device gets: the best that it and the machine have; and what it says when nobody has asked."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from cython_ring import RingUsageError
from cython_ring.engine import InsideEngine
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_protocol import BlkConfig
from hwloop.device.fake_blk import FakeBlk
from hwloop.device.fake_rng import FakeRng
from hwloop.device.lines import choose_lines
from hwloop.device.rng import VirtioRng
from hwloop.errors import DeadlineExpired, DeviceError, InvalidParam, Unsupported
from hwloop.hal.fake import FakeHal
from hwloop.hal.fake_interrupt import FakeInterrupt, FakeInterrupts
from hwloop.hal.interrupt import Interrupt
from hwloop.queue_options import QueueOptions
from hwloop.spec import BlkFeature, DeviceStatus, Feature
from hwloop.transport.base import Transport
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, RINGS, FakeDevice, FakeQueue
from hwloop.transport.fake_mmio import FakeMmioDevice
from hwloop.transport.fake_pci import FakePciFunction
from hwloop.transport.fake_pci_legacy import FakePciLegacyFunction
from hwloop.transport.mmio import MmioTransport
from hwloop.transport.pci_legacy import PciLegacyTransport
from hwloop.transport.pci_modern import PciTransport
from pci import ConfigSpace

SIZE = 1 << 20
SECTORS = SIZE // 512


class Machine:
    """A device with so many queues, vectors and a line, by one of the transports."""

    def __init__(self, transport: str = "fake", *, vectors: int = 2, line: bool = True, queues: int = 1) -> None:
        self.interrupts = FakeInterrupts(vectors, line=line)
        self.hal = FakeHal(interrupts=self.interrupts)
        legacy = transport in ("pci-legacy", "mmio-1")
        features = MODERN | BlkFeature.BLK_SIZE | BlkFeature.SEG_MAX | (Feature.ANY_LAYOUT if legacy else 0)
        self.device = FakeBlk(self.hal, SIZE, features=features)
        self.device.queues = [FakeQueue(64) for _ in range(queues)]
        self.transport = TRANSPORTS[transport](self)

    def disk(self, wait: str = "irq") -> VirtioBlk:
        return VirtioBlk(self.transport, self.hal, request_seconds=5, wait=wait)

    def negotiated(self) -> Transport:
        self.transport.begin_init(VirtioBlk.SUPPORTED_FEATURES)
        return self.transport

    def resize(self, sectors: int) -> None:
        self.device.data = self.device.data.ljust(sectors * 512, b"\0")
        self.device.set_config(BlkConfig.capacity.offset, BlkConfig.capacity.width, sectors)


def plain(machine: Machine) -> Transport:
    machine.device.connect(machine.interrupts)
    return FakeTransport(machine.device)


def modern(machine: Machine) -> Transport:
    function = FakePciFunction(machine.device, msix_vectors=machine.interrupts.count)
    function.msix.connect(machine.interrupts)
    machine.device.connect(machine.interrupts)
    machine.hal.regions[function.address] = function.region
    return PciTransport(machine.hal, ConfigSpace(function.config), function.bars)


def legacy(machine: Machine) -> Transport:
    function = FakePciLegacyFunction(machine.device, msix_vectors=machine.interrupts.count)
    function.msix.connect(machine.interrupts)
    machine.device.connect(machine.interrupts)
    machine.hal.ports[function.port] = function.ports
    return PciLegacyTransport(machine.hal, ConfigSpace(function.config), function.bars)


def mmio(machine: Machine, version: int = 2) -> Transport:
    bank = FakeMmioDevice(machine.device, version, config=BlkConfig)
    machine.device.connect(machine.interrupts)
    machine.hal.regions[bank.address] = bank.region
    return MmioTransport(machine.hal, bank.address)


TRANSPORTS: dict[str, Callable[[Machine], Transport]] = {
    "fake": plain,
    "pci": modern,
    "pci-legacy": legacy,
    "mmio-2": mmio,
    "mmio-1": lambda machine: mmio(machine, 1),
}
MESSAGES = ["fake", "pci", "pci-legacy"]


def no_messages(name: str, **more: int) -> Machine:
    return Machine(name, vectors=0, **more)


def held_read(disk: VirtioBlk, machine: Machine) -> bytes:
    """A read whose completion comes while it is waited for."""
    line = disk.virtqueues[0].waiter.line
    assert isinstance(line, FakeInterrupt)
    machine.device.hold = True
    token = disk.submit_read(0, 512)
    waited, original = [], line.wait

    def wait(seconds: float) -> bool:
        if not waited:
            waited.append(seconds)
            machine.device.release()
        return original(seconds)

    line.wait = wait  # type: ignore[method-assign]
    data = disk.wait(token)
    line.wait = original  # type: ignore[method-assign]
    machine.device.hold = False
    return data


# --- Vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MESSAGES)
def test_a_queue_and_the_configuration_have_vectors_of_their_own(name: str) -> None:
    machine = Machine(name, vectors=2)
    with machine.disk() as disk:
        assert (disk.lines.kind, disk.lines.why, disk.lines.shared) == ("msix", "", False)
        assert (machine.transport.queue_vectors, machine.transport.config_vector) == ({0: 1}, 0)
        assert held_read(disk, machine) == bytes(512)
        assert disk.virtqueues[0].interrupts == 1
        assert machine.interrupts.sent == [1]
    assert machine.interrupts.lost == []
    assert not machine.interrupts.enabled
    assert machine.hal.leaks() == []


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("vectors", "shares", "why"),
    [
        (5, {0: 1, 1: 2, 2: 3, 3: 4}, ""),
        (3, {0: 1, 1: 2, 2: 1, 3: 2}, "there are 3 vectors for 4 queues and the configuration"),
        (2, {0: 1, 1: 1, 2: 1, 3: 1}, "there are 2 vectors for 4 queues and the configuration"),
        (1, {0: 0, 1: 0, 2: 0, 3: 0}, "there are 1 vectors for 4 queues and the configuration"),
    ],
)
def test_queues_share_vectors_where_there_are_fewer(vectors: int, shares: dict[int, int], why: str) -> None:
    machine = Machine("pci", vectors=vectors, queues=4)
    with choose_lines(machine.hal, machine.negotiated()) as lines:
        assert (machine.transport.queue_vectors, machine.transport.config_vector) == (shares, 0)
        assert (lines.why, lines.shared) == (why, vectors < 5)
        assert len(lines.all()) == min(vectors, 5)
        assert (lines.config is None) == (vectors == 1)
    machine.transport.close()


@pytest.mark.fault(36)
@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize(("refused_from", "shares"), [(3, {0: 1, 1: 1}), (2, {0: 1, 1: 1}), (1, {0: 0, 1: 0})])
def test_a_device_that_refuses_vectors_gets_fewer(name: str, refused_from: int, shares: dict[int, int]) -> None:
    machine = Machine(name, vectors=3, queues=2)
    machine.device.faults.refuse_vectors_from = refused_from
    with choose_lines(machine.hal, machine.negotiated()) as lines:
        expected = {0: 1, 1: 2} if refused_from == 3 else shares
        assert machine.transport.queue_vectors == expected
        assert lines.kind == "msix"
        assert ("refused vector" in lines.why) == (refused_from < 3)
    machine.transport.close()


@pytest.mark.fault(36)
@pytest.mark.parametrize("name", MESSAGES)
def test_a_device_that_refuses_every_vector_has_its_line(name: str) -> None:
    machine = Machine(name, vectors=3)
    machine.device.faults.refuse_vectors = True
    with machine.disk() as disk:
        assert disk.lines.kind == "intx"
        assert "the device refused vector 0 for queue 0" in disk.lines.why
        assert not machine.interrupts.enabled
        assert held_read(disk, machine) == bytes(512)
        assert (disk.virtqueues[0].interrupts, machine.interrupts.sent) == (1, [])


def test_without_vectors_and_without_a_line_it_is_polled_and_the_reason_kept(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine("pci", vectors=3, line=False)
    machine.device.faults.refuse_vectors = True
    with caplog.at_level(logging.WARNING), machine.disk() as disk:
        assert disk.lines.kind == "poll"
        assert "refused vector" in disk.lines.why
        assert "brings no interrupt of this device" in disk.lines.why
        assert disk.read(0, 512) == bytes(512)
    assert "virtio-blk is polled: the device refused vector" in caplog.text


def test_irq_is_refused_where_there_is_no_interrupt_at_all_and_adaptive_polls() -> None:
    machine = Machine(vectors=0, line=False)
    with pytest.raises(Unsupported, match="the fake HAL brings no interrupt of this device; poll: leave wait=irq out"):
        machine.disk()
    machine = Machine(vectors=0, line=False)
    with machine.disk("adaptive") as disk:
        assert (disk.lines.kind, disk.virtqueues[0].waiter.mode) == ("poll", "poll")
        assert disk.read(0, 512) == bytes(512)


def test_a_mode_that_there_is_not_is_refused_and_the_device_left_alone() -> None:
    machine = Machine()
    with pytest.raises(InvalidParam, match="'never'"):
        machine.disk("never")
    assert machine.hal.leaks() == []


# --- The line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_line_is_waited_for_acknowledged_and_armed_again(name: str) -> None:
    machine = no_messages(name)
    with machine.disk() as disk:
        assert disk.lines.kind == "intx"
        for number in range(1, 4):
            assert held_read(disk, machine) == bytes(512)
            assert disk.virtqueues[0].interrupts == number
            assert not machine.interrupts.raised


@pytest.mark.fault(27)
@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize("vectors", [0, 2])
def test_a_lost_interrupt_costs_no_request(name: str, vectors: int) -> None:
    machine = Machine(name, vectors=vectors if name in MESSAGES else 0)
    with machine.disk() as disk:
        machine.interrupts.lose = 1
        assert held_read(disk, machine) == bytes(512)
        assert disk.virtqueues[0].interrupts == 0
        assert disk.read(0, 512) == bytes(512)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_device_that_is_polled_sends_nothing(name: str) -> None:
    machine = Machine(name, vectors=2)
    with machine.disk() as disk:
        disk.disable_interrupts()
        for _ in range(50):
            disk.read(0, 512)
        assert machine.interrupts.sent == []
    machine = no_messages(name)
    with machine.disk("poll") as disk:
        for _ in range(50):
            disk.read(0, 512)
        assert not machine.device.interrupt_status


@pytest.mark.parametrize("name", MESSAGES)
def test_an_adaptive_wait_that_does_not_sleep_causes_no_interrupt(name: str) -> None:
    machine = Machine(name, vectors=2)
    with machine.disk("adaptive") as disk:
        for _ in range(50):
            disk.read(0, 512)
        assert machine.interrupts.sent == []
        assert held_read(disk, machine) == bytes(512)
        assert machine.interrupts.sent == [1]
        disk.read(0, 512)
        assert machine.interrupts.sent == [1]


def test_interrupts_can_be_had_and_given_up_later_on() -> None:
    machine = Machine()
    with machine.disk("poll") as disk:
        disk.enable_interrupts("adaptive")
        assert (disk.lines.kind, disk.virtqueues[0].waiter.mode) == ("intx", "adaptive")
        disk.disable_interrupts()
        assert (disk.lines.kind, disk.virtqueues[0].waiter.mode) == ("poll", "poll")


# --- Changes of the configuration -------------------------------------------------------------------------------------


@pytest.mark.fault(11)
@pytest.mark.parametrize("wait", ["poll", "irq", "adaptive"])
@pytest.mark.parametrize("vectors", [0, 2])
@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_disk_that_grows_tells_it_and_may_be_used_to_its_new_end(name: str, vectors: int, wait: str) -> None:
    machine = Machine(name, vectors=vectors if name in MESSAGES else 0)
    with machine.disk(wait) as disk:
        told: list[int] = []
        disk.on_config_change(lambda: told.append(disk.capacity()))
        disk.check_events()
        assert told == []
        machine.resize(2 * SECTORS)
        disk.check_events()
        disk.check_events()
        assert told == [2 * SECTORS]
        disk.write(2 * SECTORS - 1, b"E" * 512)
        assert machine.device.data[-512:] == b"E" * 512


@pytest.mark.fault(11)
@pytest.mark.parametrize("name", TRANSPORTS)
def test_a_request_for_what_has_just_grown_needs_no_wait_before(name: str) -> None:
    machine = Machine(name, vectors=0)
    with machine.disk("poll") as disk:
        with pytest.raises(InvalidParam, match="end behind the disk"):
            disk.read(SECTORS, 512)
        machine.resize(SECTORS + 8)
        assert disk.read(SECTORS, 512) == bytes(512)
        assert disk.capacity() == SECTORS + 8


@pytest.mark.parametrize("wait", ["poll", "irq", "adaptive"])
def test_a_change_is_seen_by_whoever_waits(wait: str) -> None:
    machine = Machine(vectors=0)
    with machine.disk(wait) as disk:
        told: list[int] = []
        disk.on_config_change(lambda: told.append(disk.capacity()))
        machine.device.hold = True
        token = disk.submit_read(0, 512)
        machine.resize(SECTORS // 2)
        disk.on_config_change(machine.device.release)
        assert disk.wait(token) == bytes(512)
        assert told == [SECTORS // 2]
        with pytest.raises(InvalidParam, match=f"which has {SECTORS // 2} sectors"):
            disk.read(SECTORS // 2, 512)


def test_a_callback_that_fails_is_logged_and_keeps_no_other_from_being_called(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    told: list[int] = []

    def fail() -> None:
        raise ValueError("what the callback says")

    with machine.disk("poll") as disk:
        disk.on_config_change(fail)
        disk.on_config_change(lambda: told.append(1))
        machine.resize(8)
        disk.check_events()
    assert told == [1]
    assert "what the callback says" in caplog.text


@pytest.mark.fault(13)
def test_a_configuration_that_does_not_stop_changing_is_the_devices_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwloop.transport.base.Transport.read_consistent.__defaults__", (0.01,))
    machine = Machine()
    with machine.disk("poll") as disk:
        machine.device.faults.generation_steps = -1
        with pytest.raises(DeviceError, match="did not stop changing"):
            disk.check_events()


def test_somebody_who_wants_the_device_back_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    told: list[int] = []
    with machine.disk("poll") as disk:
        disk.on_removal_request(lambda: told.append(1))
        disk.check_events()
        assert told == []
        monkeypatch.setattr(FakeHal, "removal_requested", True)
        disk.check_events()
        disk.check_events()
        assert told == [1]


def test_a_device_that_is_no_disk_waits_in_the_same_ways() -> None:
    for wait in ("poll", "irq", "adaptive"):
        interrupts = FakeInterrupts(2)
        hal = FakeHal(interrupts=interrupts)
        device: FakeDevice = FakeRng(hal)
        device.connect(interrupts)
        with VirtioRng(FakeTransport(device), hal, request_seconds=5, wait=wait) as rng:
            assert len(rng.read(10_000)) == 10_000
            rng.check_events()
        assert device.status == DeviceStatus(0)


# --- Calls of disk.queues ---------------------------------------------------------------------------------------------


def release_when_it_sleeps(machine: Machine, line: Interrupt, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the device complete what it holds when the driver goes to sleep; for how long each time."""
    slept: list[float] = []
    usual = line.wait

    def wait(seconds: float) -> bool:
        slept.append(seconds)
        machine.device.release()
        return usual(seconds)

    monkeypatch.setattr(line, "wait", wait)
    machine.device.hold = True
    return slept


@pytest.mark.parametrize("wait", ["irq", "adaptive"])
@pytest.mark.parametrize("vectors", [0, 2])
def test_calls_of_a_queue_sleep_on_its_interrupt(wait: str, vectors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(vectors=vectors)
    with machine.disk(wait) as disk, disk.alloc(4096) as buffer:
        slept = release_when_it_sleeps(machine, disk.lines.queues[0], monkeypatch)
        disk.queues[0].write_from(0, buffer)
        assert (len(slept), disk.virtqueues[0].interrupts) == (1, 1)
        disk.queues[0].submit_read(0, buffer, 7)
        assert disk.queues[0].reap(1).tags == (7,)
        assert (len(slept), disk.virtqueues[0].interrupts) == (2, 2)
        # The ring is the engine's again, and nobody else's.
        with pytest.raises(RingUsageError, match="no call of the engine waits"):
            kept_inside(disk).wait(0, 0)


def kept_inside(disk: VirtioBlk) -> InsideEngine:
    """What a waiter is given, in the hands of one who keeps it."""
    kept: list[InsideEngine] = []
    disk.queues[0].engine.waiter = lambda seconds, inside: kept.append(inside)
    buffer = disk.alloc(512)
    disk.queues[0].submit_read(0, buffer, 1)
    with pytest.raises(DeadlineExpired):
        disk.queues[0].reap(1, deadline=0.2)
    return kept[0]


def test_calls_of_a_queue_that_is_polled_do_not_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    with machine.disk("irq") as disk, disk.alloc(4096) as buffer:
        slept = release_when_it_sleeps(machine, disk.lines.queues[0], monkeypatch)
        machine.device.hold = False
        disk.virtqueues[0].use_interrupt(None)
        disk.queues[0].read_into(0, buffer)
        assert slept == []


def test_what_waits_on_a_shared_interrupt_looks_at_its_own_ring_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another queue's thread may have taken the event."""
    machine = Machine(vectors=1, queues=2)
    with machine.disk("irq") as disk, disk.alloc(4096) as buffer:
        assert disk.lines.shared
        slept = release_when_it_sleeps(machine, disk.lines.queues[0], monkeypatch)
        machine.interrupts.lose = 1
        disk.queues[0].read_into(0, buffer)
        assert 0 < max(slept) <= 0.01


@pytest.mark.fault(27)
def test_a_lost_interrupt_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    with machine.disk("irq") as disk, disk.alloc(4096) as buffer:
        slept = release_when_it_sleeps(machine, disk.lines.queues[0], monkeypatch)
        machine.interrupts.lose = 1
        disk.queues[0].read_into(0, buffer)
        assert len(slept) == 1
        assert disk.virtqueues[0].interrupts == 0


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("in_order", [False, True])
def test_a_queue_that_is_polled_is_sent_no_interrupts_whatever_the_ring(
    packed: bool, event_idx: bool, in_order: bool
) -> None:
    machine = Machine(vectors=2)
    machine.device.features |= RINGS
    options = QueueOptions({"packed": packed, "event-idx": event_idx, "in-order": in_order})
    with (
        VirtioBlk(machine.transport, machine.hal, request_seconds=5, wait="irq", options=options) as disk,
        disk.alloc(4096) as buffer,
    ):
        assert bool(disk.negotiated & Feature.RING_PACKED) == packed
        assert bool(disk.negotiated & Feature.EVENT_IDX) == event_idx

        def interrupts_of_reads(count: int) -> int:
            before = len(machine.interrupts.sent)
            for sector in range(count):
                disk.queues[0].read_into(sector, buffer)
            return len(machine.interrupts.sent) - before

        # With EVENT_IDX one is asked for anew only where a call goes to sleep, and none does here.
        asked = {1} if event_idx else {40}
        assert interrupts_of_reads(40) in asked
        disk.virtqueues[0].use_interrupt(None)
        # With EVENT_IDX the index that is asked for lies half a turn behind, and is met once in 65,536 requests.
        assert interrupts_of_reads(40) == 0
        disk.virtqueues[0].use_interrupt(disk.lines.queues[0])
        assert interrupts_of_reads(40) in asked
