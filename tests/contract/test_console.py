"""What every console must do, through whatever door it is reached."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

import hwloop
from hwloop.device.console import VirtioConsole
from hwloop.errors import DeadlineExpired, DeviceClosed, InvalidParam
from hwloop.spec import ConsoleFeature
from tests.contract.console_door import NAME, SECONDS, ConsoleDoor, FakeConsoleDoor, QemuConsoleDoor
from tests.contract.machines import MACHINES
from tests.contract.qemu_machines import QEMU

DOORS = [*sorted(MACHINES), *(pytest.param(name, marks=pytest.mark.qemu) for name in QEMU)]


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Iterator[ConsoleDoor]:
    door = (QemuConsoleDoor if request.param in QEMU else FakeConsoleDoor)(request.param)
    yield door
    door.close()


def received(console: VirtioConsole, length: int, port: int = 0) -> bytes:
    data = b""
    while len(data) < length and (more := console.find_port(port).receive(length - len(data), SECONDS)):
        data += more
    return data


def test_it_says_what_it_is(door: ConsoleDoor) -> None:
    with door.open() as console:
        assert console.device_type() == hwloop.DeviceType.Console
        assert console.device_name() == "virtio-console"
        assert isinstance(console, hwloop.VirtIOConsole)
        assert isinstance(console, hwloop.BaseDriverOps)


# --- One port ---------------------------------------------------------------------------------------------------------


def test_the_example_of_seed_004_sends_a_byte(door: ConsoleDoor) -> None:
    with door.open() as console:
        console.send(b"H")
        assert door.wait_for_output(1) == b"H"
        console.send(ord("i"))
        assert door.wait_for_output(2) == b"Hi"


@pytest.mark.parametrize("length", [0, 1, 4095, 4097, 100_000])
def test_what_is_sent_arrives_whole_and_in_order(door: ConsoleDoor, length: int) -> None:
    data = random.Random(length).randbytes(length)
    with door.open() as console:
        console.send(data, SECONDS)
        assert door.wait_for_output(length) == data


def test_what_is_typed_is_received_in_pieces_of_any_size(door: ConsoleDoor) -> None:
    with door.open() as console:
        door.type(b"hello, driver")
        assert received(console, 5) == b"hello"
        assert received(console, 8) == b", driver"


def test_more_input_than_there_are_buffers_for_is_received_whole(door: ConsoleDoor) -> None:
    data = random.Random(7).randbytes(300_000)
    with door.open() as console:
        console.find_port()
        writer = threading.Thread(target=door.type, args=(data,))
        writer.start()
        assert received(console, len(data)) == data
        writer.join(SECONDS)


def test_nothing_typed_is_nothing_received_at_the_deadline(door: ConsoleDoor) -> None:
    with door.open() as console:
        assert console.receive(10, seconds=0) == b""
        assert console.receive(10, seconds=0.05) == b""
        door.type(b"late")
        assert received(console, 4) == b"late"


@pytest.mark.parametrize("data", [-1, 256])
def test_a_number_that_is_no_byte_is_refused(door: ConsoleDoor, data: int) -> None:
    with door.open() as console:
        with pytest.raises(InvalidParam):
            console.send(data)
        with pytest.raises(InvalidParam):
            console.receive(0)
        assert door.output() == b""


def test_the_one_port_is_a_console_with_somebody_at_the_other_end(door: ConsoleDoor) -> None:
    with door.open() as console:
        assert not console.multiport
        assert list(console.ports) == list(console.read_ports()) == [0]
        assert (console.ports[0].is_console, console.ports[0].host_open) == (True, True)


def test_a_character_is_written_in_an_emergency(door: ConsoleDoor) -> None:
    with door.open() as console:
        assert console.negotiated & ConsoleFeature.EMERG_WRITE
        console.emergency_write(ord("!"))
        assert door.emergency() == b"!"


def test_it_is_closed_and_opened_again(door: ConsoleDoor) -> None:
    console = door.open()
    for turn in range(3):
        console.send(b"turn %d " % turn)
        console.close()
        console.close()
        for call in (console.send, console.emergency_write):
            with pytest.raises(DeviceClosed):
                call(0)
        console = door.reopen()
    console.close()
    assert door.wait_for_output(21) == b"turn 0 turn 1 turn 2 "


# --- Several ports ----------------------------------------------------------------------------------------------------


def test_the_ports_of_the_device_are_announced_with_their_names(door: ConsoleDoor) -> None:
    with door.open(multiport=True) as console:
        assert console.multiport
        ports = console.read_ports()
        assert [(port.id, port.name, port.is_console) for port in ports.values()] == [(0, "", True), (1, NAME, False)]
        assert ports[1].host_open


def test_each_port_has_bytes_of_its_own(door: ConsoleDoor) -> None:
    with door.open(multiport=True) as console:
        console.send(b"to the console")
        console.find_port(NAME).send(b"to the port")
        assert door.wait_for_output(14, 0) == b"to the console"
        assert door.wait_for_output(11, 1) == b"to the port"
        door.type(b"from the console", 0)
        door.type(b"from the port", 1)
        assert received(console, 13, 1) == b"from the port"
        assert received(console, 16, 0) == b"from the console"


def test_a_port_that_is_not_there_is_waited_for_and_then_said(door: ConsoleDoor) -> None:
    with door.open(multiport=True) as console:
        console.read_ports()
        for which in (3, 1000, "org.nobody"):
            with pytest.raises(DeadlineExpired, match=f"waiting for port {which!r}.*0, 1 {NAME}"):
                console.find_port(which, seconds=0.05)
        console.send(b"still works")
        assert door.wait_for_output(11) == b"still works"


def test_ports_are_announced_again_to_the_next_driver(door: ConsoleDoor) -> None:
    console = door.open(multiport=True)
    for turn in range(2):
        console.find_port(NAME).send(b"%d" % turn)
        console.close()
        console = door.reopen()
    console.close()
    assert door.wait_for_output(2, 1) == b"01"
