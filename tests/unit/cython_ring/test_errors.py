from __future__ import annotations

import errno

import pytest

from cython_ring import DriverViolation, RingBroken, RingError, RingFull, RingUsageError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RingFull(), errno.ENOSPC),
        (RingUsageError("no"), errno.EINVAL),
        (RingBroken("used index jumped", 0, 0, 9), errno.EIO),
        (DriverViolation("a rule", 3), errno.EPROTO),
    ],
)
def test_every_error_is_a_ring_error_and_an_os_error_with_its_errno(error: RingError, code: int) -> None:
    assert isinstance(error, OSError)
    assert error.errno == code


def test_a_full_ring_says_so_in_the_words_that_people_search_for() -> None:
    assert str(RingFull()).startswith("Virtqueue is full")


def test_a_broken_ring_says_what_the_device_wrote_and_what_to_do() -> None:
    error = RingBroken("used id out of range", 0x10002, 513, 7)
    assert (error.kind, error.id, error.length, error.index) == ("used id out of range", 0x10002, 513, 7)
    assert str(error) == (
        "the device broke the used ring: used id out of range (id 0x10002, length 513, index 7); "
        "reset the device and set the queue up again"
    )


def test_a_violation_by_the_driver_fails_a_test_like_an_assertion() -> None:
    error = DriverViolation("a chain may not loop (2.7.5.2)", 4)
    assert isinstance(error, AssertionError)
    assert (error.rule, error.value) == ("a chain may not loop (2.7.5.2)", 4)
