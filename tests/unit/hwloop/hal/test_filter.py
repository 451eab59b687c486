"""A Hal in front of another one: everything reaches the one inside."""

from __future__ import annotations

import inspect
from unittest.mock import create_autospec

import pytest

from hwloop.filter.observe import ObservedInterrupt
from hwloop.filter.watch import Watch
from hwloop.hal.base import Hal
from hwloop.hal.filter import HalFilter
from hwloop.hal.interrupt import Interrupt


def public(kind: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("name", public(Hal))
def test_each_method_calls_that_of_the_hal_inside(name: str) -> None:
    inner = create_autospec(Hal, instance=True)
    inner.name = "inner"
    parameters = list(inspect.signature(getattr(Hal, name)).parameters.values())[1:]
    arguments = [object() for one in parameters if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    getattr(HalFilter(inner), name)(*arguments)
    assert list(getattr(inner, name).call_args.args) == arguments


def test_no_method_is_forgotten_when_the_hal_gets_another() -> None:
    assert set(public(Hal)) <= set(vars(HalFilter))


def test_what_only_one_back_end_has_is_found_there() -> None:
    inner = create_autospec(Hal, instance=True)
    inner.name, inner.special = "inner", 5
    assert HalFilter(inner).special == 5


def test_no_method_of_an_interrupt_is_forgotten() -> None:
    assert set(public(Interrupt)) <= set(vars(ObservedInterrupt))


def test_what_only_one_interrupt_has_is_found_there() -> None:
    inner = create_autospec(Interrupt, instance=True)
    inner.special = 5
    assert ObservedInterrupt(inner, Watch(None), None).special == 5
