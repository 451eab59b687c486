"""What the console driver does when the device, or whoever is behind it, is slow, wrong, hostile or gone."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from hwloop.config import write_config
from hwloop.device.console import VirtioConsole
from hwloop.device.console_port import PortRemoved
from hwloop.device.console_protocol import LONGEST_MESSAGE, ConsoleConfig, ControlEvent, emergency_write
from hwloop.device.fake_console import FakeConsole
from hwloop.errors import (
    DeadlineExpired,
    DeviceError,
    DeviceLost,
    DriverError,
    InvalidParam,
    QueueBroken,
    TransportError,
    Unsupported,
    exit_code_of,
)
from hwloop.hal.base import BufferDirection
from hwloop.hal.fake import FakeHal
from hwloop.spec import ConsoleFeature, DeviceStatus
from hwloop.transport.base import Transport
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import MODERN, FakeQueue, RuleBroken

MULTIPORT = int(MODERN | ConsoleFeature.MULTIPORT | ConsoleFeature.EMERG_WRITE)


class Bench:
    """A driver on a fake device; `several`: with ports that are announced, none of which is there yet."""

    def __init__(self, *, several: bool = False, **shape: Any) -> None:
        self.hal = FakeHal()
        if several:
            shape["features"] = MULTIPORT
        self.device = FakeConsole(self.hal, **shape)
        self.transport = FakeTransport(self.device)

    def open(self) -> VirtioConsole:
        self.console = VirtioConsole(self.transport, self.hal, request_seconds=0.1)
        return self.console

    def is_clean(self) -> bool:
        self.console.close()
        return self.hal.leaks() == []


@pytest.fixture
def plain() -> Bench:
    bench = Bench()
    bench.open()
    return bench


@pytest.fixture
def several() -> Bench:
    bench = Bench(several=True)
    bench.open()
    return bench


# --- Sending ----------------------------------------------------------------------------------------------------------


def test_a_host_that_does_not_read_costs_the_call_and_not_the_device(plain: Bench) -> None:
    plain.device.hold = True
    with pytest.raises(
        DeadlineExpired, match=r"0.1 s waiting for port 0 to take 3 bytes; is somebody reading"
    ) as caught:
        plain.console.send(b"abc")
    assert exit_code_of(caught.value) == 5
    assert plain.device.status & DeviceStatus.DRIVER_OK
    plain.device.hold = False
    plain.console.send(b"def")
    assert plain.device.ports[0].output == b"abcdef"
    assert plain.is_clean()


def test_the_memory_of_what_was_not_taken_is_not_used_for_something_else(plain: Bench) -> None:
    plain.device.hold = True
    for turn in range(40):
        with pytest.raises(DeadlineExpired):
            plain.console.send(b"%02d" % turn, seconds=0.001)
    plain.device.hold = False
    plain.device.release(1)
    sent = bytes(plain.device.ports[0].output)
    assert sent == b"".join(b"%02d" % turn for turn in range(len(sent) // 2))
    assert len(sent) == 32, "as many as there are slots"


def test_an_echo_that_nobody_reads_does_not_stop_what_it_echoes() -> None:
    bench = Bench(queue_size=2)
    console = bench.open()
    data = random.Random(1).randbytes(30_000)
    serve = bench.device.serve

    def serve_if_the_echo_fits(chain: Any) -> int:
        done = serve(chain)
        bench.device.type(bytes(chain.read()))
        return done

    bench.device.serve = serve_if_the_echo_fits  # type: ignore[method-assign]
    console.send(data)
    echo = b""
    while more := console.receive(seconds=0.02):
        echo += more
    assert echo == data


def test_a_device_that_writes_into_what_is_only_to_read_breaks_the_queue(plain: Bench) -> None:
    plain.device.hold = True
    with pytest.raises(DeadlineExpired):
        plain.console.send(b"x", seconds=0)
    ring = plain.device.queues[1].ring
    assert ring is not None
    ring.put_used(0, plain.device.queues[1].held[0].head, 1)
    ring.set_used_idx(1)
    with pytest.raises(QueueBroken):
        plain.console.send(b"y")
    assert plain.device.status == 0
    with pytest.raises(DeviceLost):
        plain.console.receive()
    assert plain.is_clean()


# --- Receiving --------------------------------------------------------------------------------------------------------


def test_buffers_without_a_byte_are_no_input(plain: Bench) -> None:
    plain.device.console_faults.empty_input = 3
    plain.device.type(b"x")
    assert plain.console.receive() == b"x"


@pytest.mark.parametrize(("used_id", "length"), [(99, 1), (0, 2049), (0, 0xFFFF_FFFF)])
def test_input_that_cannot_be_breaks_the_queue_and_resets_the_device(plain: Bench, used_id: int, length: int) -> None:
    ring = plain.device.queues[0].ring
    assert ring is not None
    ring.put_used(0, used_id, length)
    ring.set_used_idx(1)
    with pytest.raises(QueueBroken):
        plain.console.receive()
    assert plain.device.status == 0
    assert plain.is_clean()


@pytest.mark.parametrize("several", [False, True])
def test_a_device_that_is_lost_is_said_while_input_is_waited_for(several: bool) -> None:
    bench = Bench(several=several)
    bench.device.ports.clear()
    bench.device.add_port(0, is_console=True)
    console = bench.open()
    console.send(b"") if several else None
    bench.device.status |= DeviceStatus.DEVICE_NEEDS_RESET
    with pytest.raises(DeviceLost, match="asks to be reset"):
        console.receive(seconds=30)
    with pytest.raises(DeviceLost, match="out of order since"):
        console.send(b"x")
    assert bench.is_clean()


def test_two_threads_send_and_receive_at_once(plain: Bench) -> None:
    data = random.Random(2).randbytes(50_000)
    got = bytearray()

    def receive() -> None:
        while len(got) < len(data) and (more := plain.console.receive(seconds=5)):
            got.extend(more)

    reader = threading.Thread(target=receive)
    reader.start()
    for start in range(0, len(data), 1000):
        plain.console.send(data[start : start + 1000], seconds=5)
        plain.device.type(data[start : start + 1000])
    reader.join(10)
    assert bytes(got) == bytes(plain.device.ports[0].output) == data


# --- Size and emergencies ---------------------------------------------------------------------------------------------


def test_the_size_is_what_the_configuration_says_now(plain: Bench) -> None:
    assert plain.console.read_size() == (80, 25)
    plain.device.resize(132, 43)
    assert plain.console.read_size() == (132, 43)


def test_columns_and_rows_are_of_one_moment(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transport.read_consistent, "__defaults__", (0.05,))
    plain.device.faults.generation_steps = 3
    assert plain.console.read_size() == (80, 25)
    plain.device.faults.generation_steps = -1
    with pytest.raises(DeviceError, match="did not stop changing"):
        plain.console.read_size()


def test_a_device_without_a_size_says_so() -> None:
    with pytest.raises(Unsupported, match="VIRTIO_CONSOLE_F_SIZE"):
        Bench(features=int(MODERN)).open().read_size()


def test_an_emergency_write_needs_no_initialisation() -> None:
    bench = Bench()
    emergency_write(bench.transport, ord("!"))
    assert bench.device.status_writes == []
    assert bench.device.emergency == b"!"


def test_an_emergency_write_works_on_a_device_that_was_given_up(plain: Bench) -> None:
    plain.device.status |= DeviceStatus.DEVICE_NEEDS_RESET
    with pytest.raises(DeviceLost):
        plain.console.receive()
    plain.console.emergency_write(ord("?"))
    assert plain.device.emergency == b"?"


@pytest.mark.parametrize("byte", [-1, 256])
def test_an_emergency_write_is_a_byte(plain: Bench, byte: int) -> None:
    with pytest.raises(InvalidParam):
        plain.console.emergency_write(byte)


def test_a_device_without_emergency_writes_says_so() -> None:
    console = Bench(features=int(MODERN)).open()
    with pytest.raises(Unsupported, match="EMERG_WRITE"):
        console.emergency_write(1)


def test_no_field_but_that_of_emergencies_is_written(plain: Bench) -> None:
    for field in (ConsoleConfig.cols, ConsoleConfig.rows, ConsoleConfig.max_nr_ports):
        with pytest.raises(DriverError):
            write_config(plain.transport, field, 1)  # type: ignore[arg-type]
    with pytest.raises(RuleBroken, match=r"5\.3\.4"):
        plain.transport.write_config_space(0, 2, 1)


def test_a_configuration_that_ends_before_its_fields_is_said() -> None:
    bench = Bench(several=True)
    del bench.device.config[6:]
    with pytest.raises(DeviceError, match="configuration"):
        bench.open()
    assert bench.hal.leaks() == []


# --- Ports ------------------------------------------------------------------------------------------------------------


def test_a_port_that_comes_later_is_found(several: Bench) -> None:
    assert several.console.ports == {}
    threading.Timer(0.05, several.device.add_port, (2, b"late")).start()
    assert several.console.find_port("late", seconds=5).id == 2


def test_a_port_that_goes_is_said_and_the_others_work_on(several: Bench) -> None:
    several.device.add_port(1, b"one")
    several.device.add_port(2, b"two")
    one = several.console.find_port(1)
    one.open()
    several.device.type(b"last words", 1)
    several.device.remove_port(1)
    assert one.receive(4) + one.receive() == b"last words"
    with pytest.raises(PortRemoved):
        one.receive()
    assert list(several.console.ports) == [2]
    several.console.find_port("two").send(b"on")
    assert several.device.ports[2].output == b"on"


def test_a_port_comes_again_under_its_number(several: Bench) -> None:
    several.device.add_port(1, b"one")
    first = several.console.find_port(1)
    first.send(b"a")
    several.device.remove_port(1)
    with pytest.raises(PortRemoved, match="removed port 1") as caught:
        first.send(b"b")
    assert exit_code_of(caught.value) == 5
    with pytest.raises(PortRemoved):
        first.receive(seconds=1)
    first.close()
    new = several.device.add_port(1, b"again")
    again = several.console.find_port("again")
    assert again is not first
    again.send(b"c")
    several.device.type(b"d", 1)
    assert again.receive() == b"d"
    assert new.output == b"c"
    assert several.is_clean()


def test_a_port_is_opened_by_its_first_use_and_closed_on_request(several: Bench) -> None:
    far = several.device.add_port(1, b"one")
    port = several.console.find_port(1)
    assert not far.open
    port.receive(1, seconds=0)
    assert far.open
    port.close()
    port.close()
    assert not far.open
    opens = [message.value for message in several.device.told if message.event == ControlEvent.PORT_OPEN]
    assert opens == [1, 0]


def test_a_console_port_is_answered_that_it_is_open(several: Bench) -> None:
    far = several.device.add_port(0, is_console=True)
    assert several.console.find_port().is_console
    assert far.open


def test_what_the_device_says_of_a_port_is_learnt(several: Bench) -> None:
    several.device.add_port(1, b"one", host_open=False)
    port = several.console.find_port("one")
    assert not port.host_open
    several.device.tell(1, ControlEvent.PORT_OPEN, 1)
    several.device.tell(1, ControlEvent.RESIZE, 0, (132).to_bytes(2, "little") + (43).to_bytes(2, "little"))
    several.console.read_ports(0)
    assert (port.host_open, port.size) == (True, (132, 43))
    several.device.tell(1, ControlEvent.PORT_OPEN, 0)
    several.console.read_ports(0)
    assert not port.host_open
    assert repr(port) == "ConsolePort(1, 'one', is_console=False, host_open=False)"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain", "plain"),
        (b"ends\0here", "ends"),
        ("größe".encode(), "größe"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"two\nlines", "two\\nlines"),
        ("\u202e".encode(), "\\u202e"),
        (b"n" * 1000, "n" * 1000),
    ],
)
def test_a_name_is_shown_without_harm(several: Bench, name: bytes, shown: str) -> None:
    several.device.add_port(1, name)
    several.console.read_ports(0)
    assert several.console.ports[1].name == shown


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1",
        bytes(7),
        (1).to_bytes(4, "little") + b"\xff\xff\1\0",
        (9).to_bytes(4, "little") + b"\6\0\1\0",
        (1000).to_bytes(4, "little") + b"\1\0\1\0",
        b"\xff" * 8,
        b"\xff" * LONGEST_MESSAGE,
        (1).to_bytes(4, "little") + b"\5\0\0\0" + b"\1\2\3",
        (1).to_bytes(4, "little") + b"\1\0\1\0",
    ],
    ids=["empty", "1 byte", "7 bytes", "event", "unknown port", "id", "ones", "long", "half a size", "twice"],
)
def test_a_control_message_that_means_nothing_is_ignored_and_noted(
    several: Bench, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    several.device.add_port(1, b"one")
    several.console.read_ports(0)
    several.device.tell_bytes(data)
    several.console.read_ports(0)
    assert several.console.ignored == 1
    assert "ignored: " in caplog.text
    assert list(several.console.ports) == [1]
    several.console.find_port(1).send(b"still here")
    assert several.device.ports[1].output == b"still here"


def test_garbage_instead_of_an_announcement_is_a_port_that_never_comes(several: Bench) -> None:
    several.device.console_faults.garbage_control = 1
    several.device.add_port(1, b"one")
    with pytest.raises(DeadlineExpired, match="port 1; the device has these ports: none"):
        several.console.find_port(1, seconds=0.05)


def test_a_control_message_longer_than_its_buffer_breaks_the_queue(several: Bench) -> None:
    ring = several.device.queues[2].ring
    assert ring is not None
    ring.put_used(0, several.device.queues[2].held[0].head, LONGEST_MESSAGE + 1)
    ring.set_used_idx(1)
    with pytest.raises(QueueBroken):
        several.console.read_ports()
    assert several.device.status == 0
    assert several.is_clean()


def test_random_control_messages_do_no_harm(several: Bench) -> None:
    rng = random.Random(4)
    for number in range(4):
        several.device.add_port(number, b"port")
    for _ in range(2000):
        several.device.tell(rng.choice([0, 1, 2, 3, 4, 77, 1 << 31]), rng.choice([3, 4, 5, 6, 7, 8, 999]),
                            rng.randrange(3), rng.randbytes(rng.randrange(9)))  # fmt: skip
        several.console.read_ports(0)
    several.console.find_port(3).send(b"alive")
    assert several.device.ports[3].output == b"alive"
    assert several.is_clean()


def test_a_device_that_takes_no_control_messages_is_given_up_before_memory_runs_out(several: Bench) -> None:
    several.device.add_port(1)
    several.console.read_ports(0)
    release = several.device.release
    several.device.release = (  # type: ignore[method-assign]
        lambda index=0, *rest, **more: None if index == 3 else release(index, *rest, **more)
    )

    def ask_without_end() -> None:
        for _ in range(3000):
            several.device.tell(1, ControlEvent.CONSOLE_PORT, 1)
            several.console.read_ports(0)

    with pytest.raises(DeviceError, match="does not take control messages"):
        ask_without_end()
    assert several.device.status == 0


def test_a_control_queue_that_is_slow_loses_no_answer(several: Bench) -> None:
    several.device.hold = True
    several.device.add_port(1)
    several.device._deliver(2)
    for _ in range(40):
        several.device.tell(1, ControlEvent.CONSOLE_PORT, 1)
        several.device._deliver(2)
        several.console.read_ports(0)
    several.device.hold = False
    several.device.release(3)
    for _ in range(3):
        several.console.read_ports(0)
    opens = [message for message in several.device.told if message.event == ControlEvent.PORT_OPEN]
    assert len(opens) == 40


def test_a_device_of_no_ports_at_most_is_refused() -> None:
    bench = Bench(several=True, max_nr_ports=0)
    bench.device.queues += [FakeQueue(16), FakeQueue(16)]
    with pytest.raises(DeviceError, match="0 at most") as caught:
        bench.open()
    assert caught.value.section == "5.3.4"
    assert bench.device.status == 0
    assert bench.hal.leaks() == []


@pytest.mark.parametrize("count", [5, 0xFFFF_FFFF])
def test_a_device_that_claims_more_ports_than_it_has_queues_is_refused(count: int) -> None:
    bench = Bench(several=True, max_nr_ports=4)
    bench.device.config[4:8] = count.to_bytes(4, "little")
    with pytest.raises(TransportError, match="no queue 10"):
        bench.open()
    assert bench.hal.leaks() == []


def test_ports_beyond_those_that_are_served_are_answered_that_they_are_not() -> None:
    bench = Bench(several=True, max_nr_ports=70)
    console = bench.open()
    bench.device.add_port(69)
    bench.device.add_port(63, b"last")
    assert list(console.read_ports(0)) == [63]
    ready = {message.id: message.value for message in bench.device.told if message.event == ControlEvent.PORT_READY}
    assert ready == {69: 0, 63: 1}
    assert bench.is_clean()


def test_a_port_for_which_there_is_no_memory_is_answered_that_it_is_not_ready(
    several: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwloop.errors import DmaError

    real = several.hal.dma_alloc

    def refuse(pages: int, direction: BufferDirection) -> Any:
        if direction is BufferDirection.DeviceToDriver:
            raise DmaError("no memory")
        return real(pages, direction)

    several.hal.dma_alloc = refuse  # type: ignore[method-assign]
    several.device.add_port(1)
    assert several.console.read_ports(0) == {}
    assert several.device.told[-1].value == 0
    several.hal.dma_alloc = real  # type: ignore[method-assign]
    several.device.remove_port(1)
    several.device.add_port(1, b"now")
    several.console.find_port("now").send(b"x")
    assert several.is_clean()


# --- The fake is strict -----------------------------------------------------------------------------------------------


def test_the_fake_refuses_the_wrong_kind_of_buffer(plain: Bench) -> None:
    shared = plain.hal.share(b"wrong", BufferDirection.Both)
    plain.console.virtqueues[1].add([], [(shared, 5)], "wrong")
    with pytest.raises(RuleBroken, match=r"5\.3\.6\.1"):
        plain.console.virtqueues[1].submit()


def test_the_fake_refuses_bytes_for_a_port_that_is_not_ready(several: Bench) -> None:
    shared = several.hal.share(b"early", BufferDirection.DriverToDevice)
    several.console.virtqueues[1].add([(shared, 5)], [], "early")
    with pytest.raises(RuleBroken, match="port 0 was sent 5 bytes and is not ready"):
        several.console.virtqueues[1].submit()


@pytest.mark.parametrize(
    "message",
    [b"short", bytes(8), (1).to_bytes(4, "little") + b"\1\0\1\0", (1).to_bytes(4, "little") + b"\6\0\1\0"],
    ids=["5 bytes", "ready twice", "PORT_ADD", "open before ready"],
)
def test_the_fake_refuses_control_messages_that_a_driver_does_not_send(several: Bench, message: bytes) -> None:
    several.device.hold = True
    several.device.add_port(1)
    several.device.hold = False
    with pytest.raises(RuleBroken):
        several.device._control(message)


def test_a_port_that_a_plain_console_cannot_have_is_not_waited_for(plain: Bench) -> None:
    with pytest.raises(InvalidParam, match=r"port 'x'.*; the device has these ports: 0"):
        plain.console.find_port("x", seconds=60)


def test_a_signal_while_bytes_are_put_into_the_queue_confuses_nothing(plain: Bench) -> None:
    queue = plain.console.find_port()._outbox.queue
    add = queue.add

    def interrupted(*arguments: Any) -> None:
        add(*arguments)
        raise KeyboardInterrupt

    queue.add = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        plain.console.send(b"one")
    queue.add = add  # type: ignore[method-assign]
    plain.console.send(b"two")
    assert plain.is_clean()
