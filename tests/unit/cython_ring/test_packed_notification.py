from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cython_ring import PackedLoopback

PART = [(0x1000, 1)]
ENABLE, DISABLE, DESC = 0, 1, 2


def publish(loop: PackedLoopback, count: int) -> None:
    for _ in range(count):
        loop.driver.add(PART, [], None)
    loop.driver.publish()


def drain(loop: PackedLoopback) -> int:
    count = 0
    while loop.driver.pop():
        count += 1
    return count


def round_trip(loop: PackedLoopback, count: int) -> None:
    publish(loop, count)
    assert loop.device.serve(count, 0) == count
    assert drain(loop) == count


def place(value: int, size: int) -> int:
    """The event place of a number modulo two turns of the ring."""
    return value % size | (0x8000 if value % (2 * size) < size else 0)


# --- Available buffer notifications ---


@pytest.mark.parametrize(("flags", "wanted"), [(ENABLE, True), (DISABLE, False), (3, True), (0xFFFC, True), (5, False)])
def test_the_devices_flags_decide_and_reserved_bits_mean_nothing(flags: int, wanted: bool) -> None:
    loop = PackedLoopback(8)
    loop.device.set_device_event(0, flags)
    publish(loop, 1)
    assert loop.driver.needs_notification() is wanted


def test_a_device_that_asks_for_one_descriptor_without_event_idx_is_notified() -> None:
    loop = PackedLoopback(8)
    loop.device.set_device_event(place(5, 8), DESC)
    publish(loop, 1)
    assert loop.driver.needs_notification() is True


@pytest.mark.parametrize("event_idx", [False, True])
def test_nothing_published_needs_no_notification(event_idx: bool) -> None:
    loop = PackedLoopback(8, event_idx=event_idx)
    assert loop.driver.needs_notification() is False
    loop.driver.add(PART, [], None)
    assert loop.driver.needs_notification() is False
    loop.driver.publish()
    assert loop.driver.needs_notification() is True
    assert loop.driver.needs_notification() is False


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 11])
def test_with_event_idx_a_notification_is_due_exactly_when_the_descriptor_is_passed(size: int) -> None:
    """Every place, every event in two turns of the ring, and every number of descriptors of a publication."""
    loop = PackedLoopback(size, event_idx=True)
    old = 0
    for start in range(2 * size):
        for count in range(1, size + 1):
            for distance in range(2 * size):
                while old % (2 * size) != start:
                    round_trip(loop, 1)
                    loop.driver.needs_notification()
                    old += 1
                loop.device.set_device_event(place(old + distance, size), DESC)
                publish(loop, count)
                assert loop.driver.needs_notification() is (distance < count), (start, count, distance)
                loop.device.serve(count, 0)
                drain(loop)
                old += count


@pytest.mark.parametrize("size", [255, 1000, 16385, 32767, 32768])
def test_the_edges_are_right_in_rings_of_any_size_across_every_wrap(size: int) -> None:
    """Windows up to the whole ring, which the places in it are no multiple of, with the event around both ends."""
    loop = PackedLoopback(size, event_idx=True)
    old = 0
    for window in (1, 2, size // 2, size - 1, size):
        near = {0, 1, window - 2, window - 1, window, window + 1, size - 1, size, 2 * size - 2, 2 * size - 1}
        for distance in sorted(distance for distance in near if 0 <= distance < 2 * size):
            loop.device.set_device_event(place(old + distance, size), DESC)
            publish(loop, window)
            assert loop.driver.needs_notification() is (distance < window), (old, window, distance)
            assert loop.device.serve(window, 10**10) == window
            drain(loop)
            old += window


@pytest.mark.parametrize("off", [5, 6, 0x7FFF])
def test_an_event_that_is_no_place_in_the_ring_gets_notified(off: int) -> None:
    loop = PackedLoopback(5, event_idx=True)
    loop.device.set_device_event(off, DESC)
    publish(loop, 1)
    assert loop.driver.needs_notification() is True


@pytest.mark.parametrize("rounds", [2, 3, 7])
def test_with_event_idx_two_whole_turns_pass_every_event(rounds: int) -> None:
    loop = PackedLoopback(5, event_idx=True)
    loop.device.set_device_event(place(9, 5), DESC)
    for _ in range(rounds):
        round_trip(loop, 5)
    assert loop.driver.needs_notification() is True


def test_what_is_added_and_not_published_is_decided_on_later() -> None:
    loop = PackedLoopback(5, event_idx=True)
    loop.device.set_device_event(place(2, 5), DESC)
    publish(loop, 1)
    loop.driver.add(PART, [], None)
    loop.driver.add(PART, [], None)
    assert loop.driver.needs_notification() is False
    loop.driver.publish()
    assert loop.driver.needs_notification() is True


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_notification_data_are_the_queue_and_the_place_that_is_not_published(size: int) -> None:
    loop = PackedLoopback(size)
    for total in range(4 * size):
        assert loop.driver.notification_data(0xABCD) == 0xABCD | place(total, size) << 16
        loop.driver.add(PART, [], None)
        assert loop.driver.notification_data(0) == place(total, size) << 16
        loop.driver.publish()
        loop.device.serve(1, 0)
        drain(loop)


# --- Used buffer notifications ---


def test_used_notifications_are_on_to_begin_with() -> None:
    for event_idx in (False, True):
        loop = PackedLoopback(3, event_idx=event_idx)
        publish(loop, 1)
        loop.device.serve(1, 0)
        assert loop.device.needs_used_notification() is True


@pytest.mark.parametrize(("event_idx", "on"), [(False, (0x8000, ENABLE)), (True, (0x8000, DESC))])
def test_they_are_turned_off_and_on_in_the_drivers_event_suppression(event_idx: bool, on: tuple[int, int]) -> None:
    loop = PackedLoopback(8, event_idx=event_idx)
    assert loop.device.read_driver_event() == on
    loop.driver.set_used_notifications(False)
    assert loop.device.read_driver_event() == (0x8000, DISABLE)
    loop.driver.set_used_notifications(True)
    assert loop.device.read_driver_event() == on


@pytest.mark.parametrize("size", [3, 5, 8])
def test_with_event_idx_a_drain_asks_again_where_it_ended(size: int) -> None:
    loop = PackedLoopback(size, event_idx=True)
    for total in range(3, 60, 3):
        round_trip(loop, 3)
        assert loop.device.read_driver_event() == (place(total, size), DESC)


def test_with_event_idx_a_drain_asks_once_and_not_for_each_descriptor() -> None:
    loop = PackedLoopback(8, event_idx=True)
    publish(loop, 3)
    loop.device.serve(3, 0)
    loop.driver.pop()
    loop.driver.pop()
    assert loop.device.read_driver_event()[0] == place(0, 8)
    drain(loop)
    assert loop.device.read_driver_event()[0] == place(3, 8)


@pytest.mark.parametrize("event_idx", [False, True])
def test_turned_off_notifications_stay_off_for_ever(event_idx: bool) -> None:
    loop = PackedLoopback(7, event_idx=event_idx)
    loop.driver.set_used_notifications(False)
    wanted = 0
    for _ in range(5000):
        round_trip(loop, 5)
        wanted += loop.device.needs_used_notification()
    assert wanted == 0
    loop.driver.set_used_notifications(True)
    publish(loop, 1)
    loop.device.serve(1, 0)
    assert loop.device.needs_used_notification() is True


# --- Both directions ---

STEPS = st.lists(st.sampled_from(["add", "publish", "driver", "device", "off", "on"]), max_size=80)


class Sleepers:
    """A driver and a device that each do something only when notified, as long as the ring lets them sleep."""

    def __init__(self, event_idx: bool, size: int) -> None:
        self.loop = PackedLoopback(size, event_idx=event_idx)
        self.device_notified = self.driver_notified = False

    def add(self) -> None:
        if self.loop.driver.free:
            self.loop.driver.add(PART * min(2, self.loop.driver.free), [], None)

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
@given(steps=STEPS, size=st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_two_sides_that_sleep_until_notified_never_leave_a_request_behind(
    event_idx: bool, steps: list[str], size: int
) -> None:
    both = Sleepers(event_idx, size)
    for step in [*steps, "on", "publish", "device", "driver"]:
        getattr(both, step)()
    assert both.loop.driver.outstanding == 0
