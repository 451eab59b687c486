"""Measurements of fake disks: what reaches the device, what is counted, and how a run ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hwloop.bench.cost import Costs, CountedPlace
from hwloop.bench.result import as_json
from hwloop.bench.run import Measurement, Run
from hwloop.bench.workload import Workload
from hwloop.device.blk import VirtioBlk
from hwloop.device.blk_protocol import RequestType
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import InvalidParam, IoError, Unsupported
from hwloop.hal.fake import FakeHal
from hwloop.queue_options import QueueOptions
from hwloop.signals import Interrupted, raise_interrupted
from hwloop.spec import BlkFeature
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN
from tests.unit.hwloop.cli.fake_place import DevicePlace

SIZE = 1 << 20
FOREVER = 3600.0


@pytest.fixture
def device() -> FakeBlk:
    device = FakeBlk(FakeHal(), SIZE, features=MODERN | BlkFeature.MQ, queues=3)
    device.data[:] = b"\xaa" * SIZE
    return device


@pytest.fixture(params=["loops", "requests"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of a disk with queues: by the loop of a queue, and a call a request."""
    name = str(request.param)
    if name == "requests":
        monkeypatch.setattr("hwloop.bench.run.why_not", lambda disk, workload: "the test says so")
    return name


@contextmanager
def opened(device: FakeBlk, queues: int = 1) -> Iterator[VirtioBlk]:
    with VirtioBlk(FakeTransport(device), device.hal, options=QueueOptions(queues=queues)) as disk:
        yield disk
    assert device.hal.leaks() == []
    assert not [thread for thread in threading.enumerate() if thread.name == "bench job"]


def measured(device: FakeBlk, workload: Workload, requests: int = 200) -> Measurement:
    with opened(device, workload.jobs) as disk:
        return Run(disk, workload).measure(FOREVER, requests)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["randread", "read"])
def test_reading_sends_reads_only(device: FakeBlk, kind: str) -> None:
    measured(device, Workload(kind, depth=8))
    assert device.requests == [RequestType.IN] * 200
    assert device.data == b"\xaa" * SIZE


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["randwrite", "write"])
def test_writing_stays_in_its_range_and_writes_no_two_blocks_alike(device: FakeBlk, kind: str) -> None:
    first, size = 64 << 10, 128 << 10
    measured(device, Workload(kind, 4096, 4, offset=first, size=size), 400)
    assert device.requests == [RequestType.OUT] * 400
    assert device.data[:first] == b"\xaa" * first
    assert device.data[first + size :] == b"\xaa" * (SIZE - first - size)
    blocks = {bytes(device.data[at : at + 4096]) for at in range(first, first + size, 4096)}
    assert len(blocks) == size // 4096


@pytest.mark.usefixtures("way")
def test_a_mix_sends_both(device: FakeBlk) -> None:
    result = measured(device, Workload("randrw"))
    counts = [device.requests.count(kind) for kind in (RequestType.IN, RequestType.OUT)]
    assert [total.count for total in result.samples.totals] == counts
    assert min(counts) > 0


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("jobs", [1, 3])
def test_requests_are_shared_by_the_jobs_and_none_is_lost(device: FakeBlk, jobs: int) -> None:
    result = measured(device, Workload(jobs=jobs, depth=4), 200)
    assert result.requests == 200 == len(device.requests)
    assert sum(total.count for total in result.samples.totals) == 200
    assert result.ending is None
    assert result.iops > 0


@pytest.mark.usefixtures("way")
def test_the_same_seed_sends_the_same_requests_warmed_up_or_not() -> None:
    def writes(warm_up: float) -> bytes:
        device = FakeBlk(FakeHal(), SIZE)
        with opened(device) as disk:
            run = Run(disk, Workload("randread", seed=3))
            run.warm_up(warm_up)
            sent: list[int] = []
            answer = device._answer

            def listen(number: int, sector: int, payload: bytes, room: int) -> tuple[int, bytes]:
                sent.append(sector)
                return answer(number, sector, payload, room)

            device._answer = listen  # type: ignore[method-assign]
            run.measure(FOREVER, 50)
        return repr(sent).encode()

    assert writes(0) == writes(0.01)


@pytest.mark.usefixtures("way")
def test_a_warm_up_is_in_no_figure(device: FakeBlk) -> None:
    with opened(device) as disk:
        run = Run(disk, Workload())
        run.warm_up(0.01)
        device.requests.clear()
        result = run.measure(FOREVER, 100)
    assert len(device.requests) == 100
    assert result.requests == 100
    assert sum(total.count for total in result.samples.totals) == 100
    assert result.costs.notifications == 100


# --- Costs ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
def test_what_has_a_counter_is_counted_always_and_the_rest_only_when_asked(device: FakeBlk) -> None:
    costs = measured(device, Workload()).costs.per_request(200)
    assert (costs["notifications"], costs["interrupts"]) == (1.0, 0.0)
    assert (costs["register_accesses"], costs["bytes_copied"]) == (None, None)
    assert costs["cpu_us"]


@pytest.mark.parametrize(("kind", "copied"), [("randread", 2 * 4096), ("randwrite", 4096)])
def test_accesses_and_copies_are_exact(device: FakeBlk, way: str, kind: str, copied: int) -> None:
    """By requests, a read is copied out of the arena, and again as the bytes that the caller gets; a write into the
    arena. A loop copies nothing, and notifies once for all four."""
    copied, notified = (copied, 1.0) if way == "requests" else (0, 0.25)
    place = CountedPlace(DevicePlace(device))
    with place.open() as disk:
        assert isinstance(disk, VirtioBlk)
        run = Run(disk, Workload(kind, depth=4), place)
        run.warm_up(0.01)
        result = run.measure(FOREVER, 100)
    costs = result.costs.per_request(result.requests)
    found = costs["notifications"], costs["register_accesses"], costs["bytes_copied"]
    assert found == (notified, notified, copied)
    assert device.hal.leaks() == []


def test_a_counted_place_is_the_place_in_everything_else(device: FakeBlk) -> None:
    inner = DevicePlace(device)
    place = CountedPlace(inner)
    assert (place.name, place.device_type, place.target) == (inner.name, inner.device_type, inner.target)
    with place.open() as disk:
        assert isinstance(disk, VirtioBlk)
        disk.write(0, b"x" * 512)
        assert disk.read(0, 512) == b"x" * 512
        assert disk.transport.name == "fake"


def test_costs_are_added_where_either_is_counted_and_subtracted_where_the_first_is() -> None:
    one, other = Costs(notifications=5, interrupts=1), Costs(notifications=2, cpu_ns=7)
    assert one + other == Costs(notifications=7, interrupts=1, cpu_ns=7)
    assert one - other == Costs(notifications=3, interrupts=1)


def test_what_a_thread_uses_is_counted_without_the_looking_itself() -> None:
    from hwloop.bench.cost import OF_LOOKING

    before = Costs.of_thread()
    if before.read_write_syscalls is None:
        pytest.skip("this kernel does not count system calls of a thread (CONFIG_TASK_IO_ACCOUNTING)")
    assert (Costs.of_thread() - before - OF_LOOKING).read_write_syscalls == 0
    before = Costs.of_thread()
    reading, writing = os.pipe()
    for _ in range(10):
        os.write(writing, b"x")
        os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    used = Costs.of_thread() - before - OF_LOOKING
    assert used.read_write_syscalls == 20
    assert used.cpu_ns


# --- Waiting, and how it ends -----------------------------------------------------------------------------------------


def test_a_device_without_an_interrupt_cannot_be_waited_for_by_one(device: FakeBlk) -> None:
    with opened(device) as disk, pytest.raises(Unsupported, match="no interrupt"):
        Run(disk, Workload(wait="irq"))


def test_more_jobs_than_queues_are_refused(device: FakeBlk) -> None:
    with opened(device, 2) as disk:
        with pytest.raises(InvalidParam, match="3 jobs need a queue each, and the disk was opened with 2; open"):
            Run(disk, Workload(jobs=3))
        assert Run(disk, Workload(jobs=2)).measure(FOREVER, 50).requests == 50
    with pytest.raises(InvalidParam, match="4 queues in use: the device has 3; ask for fewer"), opened(device, 4):
        pass


@pytest.mark.usefixtures("way")
def test_adaptive_waiting_does_without_one(device: FakeBlk) -> None:
    assert measured(device, Workload(wait="adaptive", depth=4)).requests == 200


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_request_that_fails_ends_all_jobs_and_is_the_error(device: FakeBlk, jobs: int) -> None:
    device.blk_faults.io_error = 1
    with opened(device, jobs) as disk, pytest.raises(IoError, match="the device reports an I/O error"):
        Run(disk, Workload(jobs=jobs, depth=4)).measure(FOREVER)


def interrupt_after(device: FakeBlk, requests: int, signum: int = signal.SIGINT) -> None:
    """The signal comes from inside a job, so that nothing depends on time."""
    serve = device.serve

    def served(chain: object) -> int:
        if len(device.requests) == requests:
            os.kill(os.getpid(), signum)
        return serve(chain)  # type: ignore[arg-type]

    device.serve = served  # type: ignore[method-assign]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("jobs", [1, 3])
def test_ctrl_c_ends_it_with_what_was_measured(device: FakeBlk, jobs: int) -> None:
    interrupt_after(device, 150)
    with opened(device, jobs) as disk:
        result = Run(disk, Workload(jobs=jobs, depth=4)).measure(FOREVER)
    assert isinstance(result.ending, KeyboardInterrupt)
    assert result.requests == len(device.requests) > 150
    assert sum(total.count for total in result.samples.totals) == result.requests
    assert as_json(result, "fake:1M", counted=False)["ended_by"] == "SIGINT"


def test_sigterm_ends_it_in_the_same_way(device: FakeBlk) -> None:
    interrupt_after(device, 10, signal.SIGTERM)
    earlier = signal.signal(signal.SIGTERM, raise_interrupted)
    try:
        with opened(device) as disk:
            result = Run(disk, Workload()).measure(FOREVER)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert isinstance(result.ending, Interrupted)
    assert as_json(result, "fake:1M", counted=False)["ended_by"] == "SIGTERM"


def test_ctrl_c_in_the_warm_up_ends_everything(device: FakeBlk) -> None:
    interrupt_after(device, 10)
    with opened(device) as disk, pytest.raises(KeyboardInterrupt):
        Run(disk, Workload()).warm_up(FOREVER)


def test_who_watches_is_told_how_far_it_is(device: FakeBlk) -> None:
    seen: list[float] = []
    with opened(device) as disk:
        Run(disk, Workload()).measure(FOREVER, 10, lambda passed, sample: seen.append(passed))
    assert seen == sorted(seen)
    assert seen[0] >= 0


def test_a_display_that_fails_leaves_no_thread(device: FakeBlk) -> None:
    def fail(passed: float, sample: object) -> None:
        raise OSError("no terminal any more")

    with opened(device) as disk, pytest.raises(OSError, match="no terminal"):
        Run(disk, Workload()).measure(0.2, None, fail)
