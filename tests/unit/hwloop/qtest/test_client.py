"""The client of the qtest protocol, against servers of a few lines that do well, badly, or nothing."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from hwloop.errors import DeadlineExpired, DeviceLost, InvalidParam
from hwloop.qtest.client import QtestClient
from hwloop.qtest.errors import QtestError
from hwloop.qtest.lines import LineSocket
from hwloop.qtest.region import QtestMemory, QtestPorts
from mmio import MisalignedAccess, MmioError
from tests.timing import SLACK
from tests.unit.hwloop.qtest.peer import Answer, Peer

SECONDS = 0.3
Connect = Callable[..., tuple[QtestClient, Peer]]


class Memory:
    """A machine that is all memory: the answers of a server that does everything right."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, int], int] = {}

    def __call__(self, line: str) -> bytes:
        if line == "endianness":
            return b"OK little\n"
        if line.startswith("irq_intercept_in"):
            return b"OK\n" if line.endswith("ioapic") else b"FAIL Unknown device\n"
        kind, write, address, value = parse(line)
        if write:
            self.values[kind, address] = int(value, 16)
            return b"OK\n"
        return f"OK 0x{self.values.get((kind, address), 0):016x}\n".encode()


def parse(line: str) -> tuple[str, bool, int, str]:
    match = re.fullmatch(r"(read|write|in|out)([bwlq]) 0x([0-9a-f]+)(?: 0x([0-9a-f]+))?", line)
    assert match, line
    verb, _, address, value = match.groups()
    write = verb in ("write", "out")
    assert write == (value is not None)
    return "port" if verb in ("in", "out") else "memory", write, int(address, 16), value or ""


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def connect(answer: Answer | None = None, explain: Callable[[], str] | None = None) -> tuple[QtestClient, Peer]:
            peer = stack.enter_context(Peer(answer or Memory()))
            return stack.enter_context(QtestClient(peer.client, seconds=SECONDS, explain=explain)), peer

        yield connect


# --- What is said -----------------------------------------------------------------------------------------------------


def test_each_access_is_one_command_of_its_width(connect: Connect) -> None:
    client, peer = connect()
    for width in (1, 2, 4, 8):
        client.write(0x1000, width, 0x12)
        assert client.read(0x1000, width) == 0x12
    for width in (1, 2, 4):
        client.write_port(0xCF8, width, 0x34)
        assert client.read_port(0xCF8, width) == 0x34
    assert peer.lines == [
        "writeb 0x1000 0x12", "readb 0x1000", "writew 0x1000 0x12", "readw 0x1000",
        "writel 0x1000 0x12", "readl 0x1000", "writeq 0x1000 0x12", "readq 0x1000",
        "outb 0xcf8 0x34", "inb 0xcf8", "outw 0xcf8 0x34", "inw 0xcf8", "outl 0xcf8 0x34", "inl 0xcf8",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [0, 3, 5, 16, -1])
def test_an_access_of_another_width_is_not_sent(connect: Connect, width: int) -> None:
    client, peer = connect()
    for attempt in (lambda: client.read(0, width), lambda: client.write(0, width, 0)):
        with pytest.raises(InvalidParam):
            attempt()
    for attempt in (lambda: client.read_port(0, width or 8), lambda: client.write_port(0, width or 8, 0)):
        with pytest.raises(InvalidParam):
            attempt()
    client.hello(1)
    assert peer.lines == ["endianness"]


def test_a_region_is_the_accesses_of_the_client_at_its_place(connect: Connect) -> None:
    client, peer = connect()
    registers, ports = QtestMemory(client, 0xFEB0_0E00, 0x200), QtestPorts(client, 0xC000, 0x40)
    registers.write32(0x10, 0xDEAD_BEEF)
    assert registers.read32(0x10) == 0xDEAD_BEEF
    assert registers.read64(8) == 0
    ports.write16(2, 0xCAFE)
    assert ports.read16(2) == 0xCAFE
    ports.write64_lo_hi(8, 1 << 32)
    client.settle()
    assert peer.lines == [
        "writel 0xfeb00e10 0xdeadbeef", "readl 0xfeb00e10", "readq 0xfeb00e08",
        "outw 0xc002 0xcafe", "inw 0xc002", "outl 0xc008 0x0", "outl 0xc00c 0x1",
    ]  # fmt: skip


def test_a_region_refuses_what_no_bus_would_do(connect: Connect) -> None:
    client, peer = connect()
    with pytest.raises(MisalignedAccess):
        QtestMemory(client, 0x1002, 16).read32(0)
    with pytest.raises(MmioError, match="8 bytes wide"):
        QtestPorts(client, 0xC000, 16).read64(0)
    with pytest.raises(MmioError, match="not all below"):
        QtestPorts(client, 0xFFF0, 17)
    client.hello(1)
    assert peer.lines == ["endianness"]


def test_writes_are_posted_and_reads_wait_for_them(connect: Connect) -> None:
    gate = threading.Event()
    memory = Memory()

    def slow(line: str) -> bytes:
        gate.wait(5)
        return memory(line)

    client, _ = connect(slow)
    for value in range(10):
        client.write(0, 4, value)
    threading.Timer(0.05, gate.set).start()
    assert client.read(0, 4) == 9


def test_no_more_writes_are_posted_than_a_server_can_answer_before_somebody_listens(connect: Connect) -> None:
    client, peer = connect()
    for value in range(100_000 // 32):
        client.write(0, 4, value)
    client.settle()
    assert len(peer.lines) == 100_000 // 32


# --- Interrupts -------------------------------------------------------------------------------------------------------


def test_interrupts_come_between_a_command_and_its_answer(connect: Connect) -> None:
    client, _ = connect(lambda line: b"IRQ raise 21\nIRQ raise 5\nOK 0x7\nIRQ lower 5\n")
    assert client.read(0, 4) == 7
    assert client.wait_raised({21}, 0)
    client.wait_raised(set(), 0)
    assert not client.wait_raised({5, 6}, 0)


def test_a_line_that_is_raised_while_somebody_waits_ends_the_wait(connect: Connect) -> None:
    client, peer = connect()
    threading.Timer(0.05, peer.say, [b"IRQ raise 47\n"]).start()
    before = time.monotonic()
    assert client.wait_raised({47}, 60)
    assert time.monotonic() - before < SLACK
    assert not client.wait_raised({46}, 0.01)


def test_a_line_that_another_thread_took_with_its_answer_is_seen(connect: Connect) -> None:
    client, _ = connect(lambda line: b"IRQ raise 3\nOK 0x0\n")
    threading.Timer(0.05, client.read, [0, 4]).start()
    assert client.wait_raised({3}, 30)


def test_a_write_that_lowers_a_line_is_done_before_the_line_is_looked_at(connect: Connect) -> None:
    def slow(line: str) -> bytes:
        if line.startswith("write"):
            time.sleep(0.05)
            return b"IRQ lower 3\nOK\n"
        return b"IRQ raise 3\nOK 0x0\n"

    client, _ = connect(slow)
    client.read(0, 4)
    assert client.wait_raised({3}, 0)
    client.write(0, 4, 1)
    assert not client.wait_raised({3}, 0)


def test_an_interrupt_that_comes_in_pieces_is_one(connect: Connect) -> None:
    client, peer = connect()
    peer.say(b"IRQ ra")
    assert not client.wait_raised({2}, 0.02)
    peer.say(b"ise 2\nIRQ")
    assert client.wait_raised({2}, 30)
    peer.say(b" lower 2\n")
    deadline = time.monotonic() + SLACK
    while client.wait_raised({2}, 0) and time.monotonic() < deadline:
        pass
    assert not client.wait_raised({2}, 0)


def test_listening_twice_asks_once(connect: Connect) -> None:
    client, peer = connect()
    client.intercept_interrupts("ioapic")
    client.intercept_interrupts("ioapic")
    assert peer.lines == ["irq_intercept_in ioapic"]
    with pytest.raises(QtestError, match="'FAIL Unknown device' to 'irq_intercept_in nonsense'"):
        client.intercept_interrupts("nonsense")


# --- What goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.fault(62, over="qtest")
@pytest.mark.parametrize(
    "answer",
    [b"FAIL Unknown command\n", b"ERR what\n", b"\n", b"OKAY\n", b"OK nonsense\n", b"OK\n", b"IRQ\nOK 0x0\n",
     b"IRQ raise x\nOK 0x0\n", b"IRQ wink 3\nOK 0x0\n", b"\xff\xfe\n", b"HTTP/1.1 400 Bad Request\r\n"],
)  # fmt: skip
def test_an_answer_that_is_none_is_shown(connect: Connect, answer: bytes) -> None:
    client, _ = connect(lambda line: answer)
    with pytest.raises(QtestError) as caught:
        client.read(0x10, 4)
    assert isinstance(caught.value, OSError)
    assert caught.value.answer in str(caught.value).replace("\\\\", "\\")


def test_after_a_refusal_the_next_answer_belongs_to_the_next_command(connect: Connect) -> None:
    memory = Memory()
    client, _ = connect(lambda line: b"FAIL no\n" if line == "readl 0xbad" else memory(line))
    client.write(0x10, 4, 5)
    with pytest.raises(QtestError):
        client.read(0xBAD, 4)
    assert client.read(0x10, 4) == 5


def test_a_refused_write_is_told_at_the_next_occasion(connect: Connect) -> None:
    memory = Memory()
    client, _ = connect(lambda line: b"FAIL no\n" if line.startswith("writel 0xbad") else memory(line))
    client.write(0xBAD, 4, 1)
    with pytest.raises(QtestError, match="writel 0xbad 0x1"):
        client.settle()
    client.settle()


def test_a_line_that_nobody_asked_for_is_no_answer(connect: Connect) -> None:
    client, peer = connect()
    peer.say(b"OK 0x55\n")
    with pytest.raises(QtestError):
        client.wait_raised({1}, 0.2)


@pytest.mark.parametrize("answer", [b"", b"OK 0x1", b"IRQ raise 1\n" * 3])
def test_an_answer_that_does_not_come_has_a_deadline_and_nothing_is_asked_afterwards(
    connect: Connect, answer: bytes
) -> None:
    client, peer = connect(lambda line: answer)
    before = time.monotonic()
    with pytest.raises(DeadlineExpired, match="QEMU to answer 'readl 0x10'"):
        client.read(0x10, 4)
    assert SECONDS * 0.9 < time.monotonic() - before < SECONDS + SLACK
    for attempt in (lambda: client.read(0x10, 4), lambda: client.write(0, 4, 0), client.settle):
        with pytest.raises(DeviceLost, match="did not answer before"):
            attempt()
    assert peer.lines == ["readl 0x10"]


def test_a_server_that_drips_does_not_stretch_the_deadline_for_ever(connect: Connect) -> None:
    client, peer = connect(lambda line: b"")
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05):
            peer.say(b"IRQ raise 1\n")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with pytest.raises(DeadlineExpired):
            client.read(0, 4)
    finally:
        stop.set()
        thread.join()


def test_a_server_that_takes_nothing_has_a_deadline_too() -> None:
    ours, theirs = socket.socketpair()

    def fill(lines: LineSocket) -> None:
        for _ in range(1000):
            lines.send("x" * 10_000)

    with theirs, LineSocket(ours, "the socket", SECONDS) as lines:
        before = time.monotonic()
        with pytest.raises(DeadlineExpired, match="to take"):
            fill(lines)
        with pytest.raises(DeviceLost, match="did not answer before"):
            lines.send("x")
        assert time.monotonic() - before < SECONDS + SLACK


def test_a_server_that_hangs_up_is_a_lost_device_with_its_explanation(connect: Connect) -> None:
    client, _ = connect(lambda line: None, explain=lambda: "QEMU ended with status 1: no such device")
    with pytest.raises(DeviceLost, match="QEMU ended with status 1: no such device"):
        client.read(0, 4)
    with pytest.raises(DeviceLost, match="no such device"):
        client.write(0, 4, 1)


def test_a_server_that_hangs_up_for_no_reason_that_we_know(connect: Connect) -> None:
    client, _ = connect(lambda line: None)
    with pytest.raises(DeviceLost, match="QEMU closed the qtest socket"):
        client.read(0, 4)


def test_a_line_without_an_end_is_not_kept_for_ever(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwloop.qtest.lines._LONGEST", 1 << 16)
    client, _ = connect(lambda line: b"x" * (1 << 17))
    with pytest.raises(DeviceLost, match="is not QEMU"):
        client.read(0, 4)


def test_a_closed_client_says_so(connect: Connect) -> None:
    client, _ = connect()
    client.close()
    client.close()
    for attempt in (lambda: client.read(0, 4), lambda: client.write(0, 4, 0), lambda: client.wait_raised({1}, 1)):
        with pytest.raises(DeviceLost, match="closed"):
            attempt()


# --- Interruptions and threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["_socket.send", "_take_line"])
def test_an_answer_to_an_interrupted_command_is_not_taken_for_the_next_one(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Ctrl-C raises wherever it likes: after the command was sent, or after its answer was taken."""
    memory = Memory()
    client, _ = connect(memory)
    client.write(0x10, 4, 0x10)
    client.write(0x20, 4, 0x20)
    client.settle()
    lines = client._lines
    if place == "_take_line":
        usual = lines._take_line

        def interrupted() -> str | None:
            line = usual()
            if line is not None:
                raise KeyboardInterrupt
            return line

        monkeypatch.setattr(lines, "_take_line", interrupted)
    else:
        real = lines._socket

        class Interrupted:
            def send(self, data: bytes) -> int:
                real.send(data)
                raise KeyboardInterrupt

        monkeypatch.setattr(lines, "_socket", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        client.read(0x10, 4)
    monkeypatch.undo()
    assert client.read(0x20, 4) == 0x20
    assert client.read(0x10, 4) == 0x10


def test_an_interruption_before_anything_was_sent_is_no_harm_either(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = connect()

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    client.write(0x20, 4, 0x20)
    monkeypatch.setattr(client._lines, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.read(0x10, 4)
    monkeypatch.undo()
    assert client.read(0x20, 4) == 0x20


def test_threads_get_their_own_answers(connect: Connect) -> None:
    from concurrent.futures import ThreadPoolExecutor

    client, _ = connect()

    def work(number: int) -> None:
        for i in range(100):
            client.write(number, 4, i)
            assert client.read(number, 4) == i

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
