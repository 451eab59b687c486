from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pci import DeviceFunction, PciError

functions = st.builds(
    DeviceFunction, st.integers(0, 255), st.integers(0, 31), st.integers(0, 7), st.integers(0, 0xFFFFFFFF)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0000:00:05.0", DeviceFunction(0, 5, 0)),
        ("00:05.0", DeviceFunction(0, 5, 0)),
        ("0001:ff:1f.7", DeviceFunction(0xFF, 0x1F, 7, domain=1)),
        ("FF:1F.7", DeviceFunction(0xFF, 0x1F, 7)),
        ("10000:e1:00.0", DeviceFunction(0xE1, 0, 0, domain=0x10000)),
    ],
)
def test_addresses_are_parsed_with_and_without_a_domain(text: str, expected: DeviceFunction) -> None:
    assert DeviceFunction.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "00:05", "00:05.", "0:5.0", "00:05.0 ", " 00:05.0", "00:05.0\n", "00-05.0", "000:00:05.0"),
        *("00:20.0", "00:1f.8", "gg:00.0", "0000:00:05.00", "0000:0000:05.0", "-0:05.0", "0x:05.0", "٠٠:٠٥.٠"),
        "123456789:00:05.0",
    ],
)
def test_anything_else_is_refused_with_the_text_in_the_error(text: str) -> None:
    with pytest.raises(PciError) as caught:
        DeviceFunction.parse(text)
    assert caught.value.errno == errno.EINVAL


def test_the_error_for_bad_text_shows_it_and_an_example() -> None:
    with pytest.raises(PciError, match=r"'05\.0'.*0000:00:05\.0"):
        DeviceFunction.parse("05.0")


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ((256, 0, 0, 0), "bus"),
        ((-1, 0, 0, 0), "bus"),
        ((0, 32, 0, 0), "device"),
        ((0, 0, 8, 0), "function"),
        ((0, 0, 0, 1 << 32), "domain"),
        ((0, 0, 0, -1), "domain"),
    ],
)
def test_a_part_out_of_range_is_refused_by_name(parts: tuple[int, int, int, int], name: str) -> None:
    with pytest.raises(PciError, match=f"the {name} is out of range") as caught:
        DeviceFunction(*parts)
    assert caught.value.errno == errno.EINVAL


def test_the_text_has_four_digits_of_domain_and_the_short_one_none() -> None:
    function = DeviceFunction(0xAB, 0x1C, 3, domain=2)

    assert str(function) == "0002:ab:1c.3"
    assert function.short == "ab:1c.3"


def test_addresses_sort_by_domain_then_bus_then_device_then_function() -> None:
    in_order = [
        DeviceFunction(9, 9, 0),
        DeviceFunction(9, 9, 1),
        DeviceFunction(9, 10, 0),
        DeviceFunction(10, 0, 0),
        DeviceFunction(0, 0, 0, domain=1),
    ]
    shuffled = [in_order[number] for number in (3, 4, 0, 2, 1)]
    assert sorted(shuffled) == in_order
    assert in_order[0] <= in_order[0] < in_order[1]


def test_an_address_does_not_compare_with_something_else() -> None:
    with pytest.raises(TypeError):
        DeviceFunction(0, 5, 0) < 5  # noqa: B015


def test_addresses_are_keys_and_cannot_be_changed() -> None:
    assert {DeviceFunction(0, 5, 0): 1}[DeviceFunction.parse("00:05.0")] == 1
    with pytest.raises(FrozenInstanceError):
        DeviceFunction(0, 5, 0).bus = 1  # type: ignore[misc]


@given(functions)
def test_what_is_printed_can_be_parsed_again(function: DeviceFunction) -> None:
    assert DeviceFunction.parse(str(function)) == function


@given(functions)
def test_the_short_text_is_the_address_in_domain_zero(function: DeviceFunction) -> None:
    again = DeviceFunction.parse(function.short)
    assert (again.bus, again.device, again.function, again.domain) == (
        function.bus,
        function.device,
        function.function,
        0,
    )


@given(st.text(max_size=14) | st.from_regex(r"([0-9a-f]{0,6}:)?[0-9a-fA-F]{2}:[0-9a-f]{2}\.[0-9a-f]", fullmatch=True))
def test_any_text_is_an_address_or_a_typed_error(text: str) -> None:
    with suppress(PciError):
        assert DeviceFunction.parse(text).short == text[-7:].lower()
