"""One type over all transports: everything reaches the transport inside."""

from __future__ import annotations

import inspect
from typing import Any
from unittest.mock import MagicMock, create_autospec

import pytest

from hwloop.device.blk import VirtioBlk
from hwloop.device.fake_blk import FakeBlk
from hwloop.hal.fake import FakeHal
from hwloop.spec import DeviceStatus
from hwloop.transport.base import Transport
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_mmio import FakeMmioDevice
from hwloop.transport.filter import TransportFilter
from hwloop.transport.mmio import MmioTransport
from hwloop.transport.some import SomeTransport

RUN_HERE = {"reset", "begin_init", "finish_init", "fail", "read_consistent"}
"""What is made of the other methods, and runs in the filter itself."""


def public_methods() -> list[str]:
    found = inspect.getmembers(Transport, inspect.isfunction)
    return [name for name, _ in found if not name.startswith("_") and name not in RUN_HERE]


@pytest.mark.parametrize("name", public_methods())
def test_each_method_calls_that_of_the_transport_inside(name: str) -> None:
    inner = create_autospec(Transport, instance=True)
    arguments = [object() for _ in list(inspect.signature(getattr(Transport, name)).parameters)[1:]]
    result = getattr(SomeTransport(inner), name)(*arguments)
    getattr(inner, name).assert_called_once_with(*arguments)
    if inspect.signature(getattr(Transport, name)).return_annotation != "None":
        assert result is getattr(inner, name).return_value


def test_no_method_is_forgotten_when_the_transport_gets_another() -> None:
    assert set(public_methods()) <= set(vars(TransportFilter))
    assert set(Transport.__abstractmethods__) <= set(vars(TransportFilter))


def attributes_of_a_transport() -> list[str]:
    instance = FakeTransport(FakeBlk(FakeHal()))
    public = {name for name in (*vars(Transport), *vars(instance)) if not name.startswith("_")}
    methods = {name for name, _ in inspect.getmembers(Transport, callable)}
    return sorted(public - methods - {"device", "closed"})


@pytest.mark.parametrize("name", attributes_of_a_transport())
def test_each_attribute_is_that_of_the_transport_inside(name: str) -> None:
    inner = MagicMock()
    some = SomeTransport(inner)
    assert getattr(some, name) is getattr(inner, name)
    value = object()
    setattr(some, name, value)
    assert getattr(inner, name) is value


def test_a_misspelt_name_is_an_error() -> None:
    some: Any = SomeTransport(FakeTransport(FakeBlk(FakeHal())))
    with pytest.raises(AttributeError):
        some.read_device_feature()


@pytest.mark.parametrize("kind", ["fake", "mmio"])
def test_a_driver_works_over_it_and_it_says_which_transport_it_is(kind: str) -> None:
    hal = FakeHal()
    device = FakeBlk(hal, 1 << 20)
    inner: Transport = FakeTransport(device)
    if kind == "mmio":
        bank = FakeMmioDevice(device, 1)
        hal.regions[bank.address] = bank.region
        inner = MmioTransport(hal, bank.address)
    some = SomeTransport(SomeTransport(inner))
    assert isinstance(some, Transport)
    assert (some.kind, some.name) == (kind, kind)
    with VirtioBlk(some, hal) as disk:
        disk.write(3, b"some" * 128)
        assert disk.read(3, 512) == b"some" * 128
        assert some.negotiated == inner.negotiated != 0
        assert some.requires_legacy_layout() == (kind == "mmio")
    assert hal.leaks() == []


def test_a_filter_sees_each_status_of_the_initialisation() -> None:
    class Watch(TransportFilter):
        def __init__(self, inner: Transport) -> None:
            super().__init__(inner)
            self.seen: list[int] = []

        def set_status(self, status: DeviceStatus) -> None:
            self.seen.append(int(status))
            super().set_status(status)

    hal = FakeHal()
    watch = Watch(FakeTransport(FakeBlk(hal, 1 << 20)))
    VirtioBlk(watch, hal).close()
    assert watch.seen == [0, 1, 3, 11, 15, 0]
