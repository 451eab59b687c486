"""Waiting for any of several requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.errors import DeadlineExpired, DeviceClosed, DeviceLost, WrongToken
from hwloop.hal.fake import FakeHal
from hwloop.transport.fake import FakeTransport


@dataclass
class Bench:
    device: FakeBlk
    disk: VirtioBlk

    def submit(self, count: int) -> list[int]:
        return [self.disk.submit_read(sector, 512) for sector in range(count)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    hal = FakeHal()
    device = FakeBlk(hal)
    with VirtioBlk(FakeTransport(device), hal) as disk:
        yield Bench(device, disk)
    assert hal.leaks() == []


def test_everything_that_has_completed_comes_at_once(bench: Bench) -> None:
    tokens = bench.submit(3)
    assert bench.disk.wait_any(tokens) == tokens


def test_the_first_one_that_completes_is_enough_whichever_it_is(bench: Bench) -> None:
    bench.device.hold = True
    tokens = bench.submit(3)
    bench.device.queues[0].held.reverse()
    bench.device.release(count=1)
    assert bench.disk.wait_any(tokens) == [tokens[2]]


def test_a_completion_that_comes_later_is_waited_for(bench: Bench) -> None:
    bench.device.hold = True
    tokens = bench.submit(1)
    later = threading.Timer(0.02, bench.device.release)
    later.start()
    assert bench.disk.wait_any(tokens, 30) == tokens
    later.join()


def test_what_others_have_not_taken_is_neither_returned_nor_in_the_way(bench: Bench) -> None:
    others = bench.submit(1)
    bench.device.hold = True
    mine = bench.submit(1)
    later = threading.Timer(0.02, bench.device.release)
    later.start()
    assert bench.disk.wait_any(mine, 30) == mine
    later.join()
    assert bench.disk.poll() == others + mine


@pytest.mark.parametrize("tokens", [[], [1], [99]])
def test_it_is_refused_when_nothing_can_come(bench: Bench, tokens: list[int]) -> None:
    """Token 1 was taken already. Waiting for it would end with the reset of a device that did nothing wrong."""
    bench.disk.complete(bench.submit(1)[0])
    with pytest.raises(WrongToken, match="is in flight"):
        bench.disk.wait_any(tokens)
    assert len(bench.disk.read(0, 512)) == 512


def test_it_ends_with_its_deadline(bench: Bench) -> None:
    bench.device.hold = True
    tokens = bench.submit(1)
    with pytest.raises(DeadlineExpired):
        bench.disk.wait_any(tokens, 0.02)
    # The device was reset, which ended the request.
    assert bench.disk.wait_any(tokens) == tokens
    with pytest.raises(DeviceLost):
        bench.disk.complete(tokens[0])


def test_a_closed_disk_has_what_it_ended(bench: Bench) -> None:
    bench.device.hold = True
    tokens = bench.submit(1)
    bench.disk.close()
    assert bench.disk.wait_any(tokens) == tokens
    with pytest.raises(DeviceClosed):
        bench.disk.complete(tokens[0])


def test_threads_that_share_a_disk_get_their_own_requests_only(bench: Bench) -> None:
    taken: dict[int, list[int]] = {1: [], 2: []}
    errors: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for sector in range(300):
                token = bench.disk.submit_read(sector, 512)
                assert bench.disk.wait_any({token}, 30) == [token]
                bench.disk.complete(token)
                taken[name].append(token)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(taken[1] + taken[2]) == list(range(1, 601))
