from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cython_ring import Loopback, RingUsageError

PART = [(0x1000, 1)]


def publish(loop: Loopback, count: int) -> None:
    for _ in range(count):
        loop.driver.add(PART, [], None)
    loop.driver.publish()


def drain(loop: Loopback) -> int:
    count = 0
    while loop.driver.pop():
        count += 1
    return count


def round_trip(loop: Loopback, count: int) -> None:
    publish(loop, count)
    assert loop.device.serve(count, 0) == count
    assert drain(loop) == count


# --- Available buffer notifications ---


def test_a_device_that_wants_notifications_gets_one_for_each_publication() -> None:
    loop = Loopback(8)
    for _ in range(2):
        publish(loop, 2)
        assert loop.driver.needs_notification() is True


def test_a_device_that_does_not_want_notifications_gets_none() -> None:
    loop = Loopback(8)
    loop.device.set_used_flags(1)
    publish(loop, 1)
    assert loop.driver.needs_notification() is False


def test_other_bits_of_used_flags_mean_nothing() -> None:
    loop = Loopback(8)
    loop.device.set_used_flags(0xFFFE)
    publish(loop, 1)
    assert loop.driver.needs_notification() is True


@pytest.mark.parametrize("event_idx", [False, True])
def test_nothing_published_needs_no_notification(event_idx: bool) -> None:
    loop = Loopback(8, event_idx=event_idx)
    assert loop.driver.needs_notification() is False
    loop.driver.add(PART, [], None)
    assert loop.driver.needs_notification() is False
    loop.driver.publish()
    assert loop.driver.needs_notification() is True
    assert loop.driver.needs_notification() is False


def test_one_question_covers_several_publications() -> None:
    loop = Loopback(8, event_idx=True, first_index=65534)
    loop.device.set_avail_event(65534)
    for _ in range(4):
        publish(loop, 1)
    assert loop.driver.needs_notification() is True


def test_without_event_idx_avail_event_is_ignored() -> None:
    loop = Loopback(8)
    loop.device.set_avail_event(0x4000)
    publish(loop, 1)
    assert loop.driver.needs_notification() is True


def test_with_event_idx_used_flags_are_ignored() -> None:
    loop = Loopback(8, event_idx=True)
    loop.device.set_used_flags(1)
    publish(loop, 1)
    assert loop.driver.needs_notification() is True


@pytest.mark.parametrize("count", [1, 2, 7])
def test_with_event_idx_a_notification_is_due_exactly_when_avail_event_is_passed(count: int) -> None:
    """Every distance of avail_event from the index, while the index itself goes round `count` times."""
    loop = Loopback(8, event_idx=True)
    old = 0
    for distance in range(65536):
        loop.device.set_avail_event((old + distance) & 0xFFFF)
        publish(loop, count)
        assert loop.driver.needs_notification() is (distance < count), (old, distance)
        loop.device.serve(count, 0)
        drain(loop)
        old = (old + count) & 0xFFFF


@pytest.mark.parametrize("count", [3, 5])
def test_with_every_index_a_notification_is_due_exactly_at_the_edges_of_what_was_published(count: int) -> None:
    """All 65,536 indices after a publication, with avail_event on both sides of both its edges."""
    loop = Loopback(8, event_idx=True)
    old = 0
    for step in range(65536):
        distance = (0, count - 1, count, 65535)[step % 4]
        loop.device.set_avail_event((old + distance) & 0xFFFF)
        publish(loop, count)
        assert loop.driver.needs_notification() is (distance < count), (old, distance)
        loop.device.serve(count, 0)
        drain(loop)
        old = (old + count) & 0xFFFF


@pytest.mark.parametrize("window", [1, 2, 255, 256, 4095, 32767, 32768])
def test_with_event_idx_the_edges_are_right_for_windows_up_to_the_largest_queue(window: int) -> None:
    loop = Loopback(32768, event_idx=True, first_index=65000)
    for distance in edges(window):
        old = loop.driver.dump()["published_idx"]
        loop.device.set_avail_event((old + distance) & 0xFFFF)
        publish(loop, window)
        assert loop.driver.needs_notification() is (distance < window), (old, distance)
        loop.device.serve(window, 10**9)
        drain(loop)


def edges(window: int) -> list[int]:
    """Distances around both ends of the window and of the 16 bits."""
    near = (0, 1, window - 2, window - 1, window, window + 1, 32767, 32768, 65534, 65535)
    return sorted({distance & 0xFFFF for distance in near if distance >= 0})


@pytest.mark.parametrize("first_index", [0, 1, 32767, 32768, 65535])
def test_the_notification_data_of_a_split_ring_are_the_queue_and_the_published_index(first_index: int) -> None:
    loop = Loopback(8, first_index=first_index)
    assert loop.driver.notification_data(0xABCD) == 0xABCD | first_index << 16
    loop.driver.add(PART, [], None)
    assert loop.driver.notification_data(0) == first_index << 16
    loop.driver.publish()
    assert loop.driver.notification_data(0) == (first_index + 1 & 0xFFFF) << 16


@pytest.mark.parametrize("queue", [-1, 65536])
def test_a_queue_that_no_notification_can_name_is_refused(queue: int) -> None:
    with pytest.raises(RingUsageError, match="16 bits"):
        Loopback(8).driver.notification_data(queue)


@pytest.mark.parametrize("turns", [1, 2])
def test_with_event_idx_a_whole_turn_of_the_index_passes_every_event(turns: int) -> None:
    loop = Loopback(16, event_idx=True)
    loop.device.set_avail_event(77)
    for _ in range(65536 // 16 * turns):
        round_trip(loop, 16)
    assert loop.driver.needs_notification() is True


# --- Used buffer notifications ---


def test_used_notifications_are_on_to_begin_with() -> None:
    for event_idx in (False, True):
        loop = Loopback(8, event_idx=event_idx)
        publish(loop, 1)
        loop.device.serve(1, 0)
        assert loop.device.needs_used_notification() is True


def test_without_event_idx_avail_flags_turn_them_off_and_on() -> None:
    loop = Loopback(8)
    loop.driver.set_used_notifications(False)
    assert loop.device.read_avail_flags() == 1
    loop.driver.set_used_notifications(True)
    assert loop.device.read_avail_flags() == 0


def test_with_event_idx_avail_flags_stay_zero() -> None:
    loop = Loopback(8, event_idx=True)
    loop.driver.set_used_notifications(False)
    assert loop.device.read_avail_flags() == 0
    loop.driver.set_used_notifications(True)
    assert loop.device.read_avail_flags() == 0


def test_with_event_idx_a_drain_asks_again_where_it_ended() -> None:
    loop = Loopback(8, event_idx=True, first_index=65530)
    for total in range(1, 10):
        round_trip(loop, 3)
        assert loop.device.read_used_event() == (65530 + 3 * total) & 0xFFFF


def test_with_event_idx_a_drain_asks_once_and_not_for_each_element() -> None:
    loop = Loopback(8, event_idx=True)
    publish(loop, 3)
    loop.device.serve(3, 0)
    loop.driver.pop()
    loop.driver.pop()
    assert loop.device.read_used_event() == 0
    drain(loop)
    assert loop.device.read_used_event() == 3


@pytest.mark.parametrize("size", [1, 8, 16384, 32768])
def test_with_event_idx_turned_off_notifications_stay_off_for_ever(size: int) -> None:
    loop = Loopback(size, event_idx=True, first_index=65000)
    loop.driver.set_used_notifications(False)
    wanted = 0
    batch = min(size, 512) if size < 32768 else size
    for _ in range(max(5, 70000 // batch)):
        publish(loop, batch)
        loop.device.serve(batch, 0)
        wanted += loop.device.needs_used_notification()
        drain(loop)
    assert wanted == 0


def test_with_event_idx_turned_on_again_the_next_completion_is_notified() -> None:
    loop = Loopback(8, event_idx=True)
    loop.driver.set_used_notifications(False)
    round_trip(loop, 5)
    assert loop.device.needs_used_notification() is False
    loop.driver.set_used_notifications(True)
    publish(loop, 1)
    loop.device.serve(1, 0)
    assert loop.device.needs_used_notification() is True


# --- Both directions ---

STEPS = st.lists(st.sampled_from(["add", "publish", "driver", "device", "off", "on"]), max_size=80)


class Sleepers:
    """A driver and a device that each do something only when notified, as long as the ring lets them sleep."""

    def __init__(self, event_idx: bool, first_index: int) -> None:
        self.loop = Loopback(8, event_idx=event_idx, first_index=first_index)
        self.device_notified = self.driver_notified = False

    def add(self) -> None:
        if self.loop.driver.free:
            self.loop.driver.add(PART, [], None)

    def publish(self) -> None:
        self.loop.driver.publish()
        self.device_notified |= self.loop.driver.needs_notification()

    def device(self) -> None:
        if not self.device_notified:
            return
        self.device_notified = False
        while chain := self.loop.device.fetch():
            self.loop.device.complete(chain.head, 0)
        self.driver_notified |= self.loop.device.needs_used_notification()

    def driver(self) -> None:
        if self.driver_notified:
            self.driver_notified = False
            drain(self.loop)

    def off(self) -> None:
        self.loop.driver.set_used_notifications(False)

    def on(self) -> None:
        self.loop.driver.set_used_notifications(True)
        # What came in between was not notified: whoever turns them on looks once more.
        drain(self.loop)


@pytest.mark.parametrize("event_idx", [False, True])
@given(steps=STEPS, first_index=st.sampled_from([0, 65500, 65535]))
@settings(max_examples=150, deadline=None)
def test_two_sides_that_sleep_until_notified_never_leave_a_request_behind(
    event_idx: bool, steps: list[str], first_index: int
) -> None:
    both = Sleepers(event_idx, first_index)
    for step in [*steps, "on", "publish", "device", "driver"]:
        getattr(both, step)()
    assert both.loop.driver.outstanding == 0
