"""How a device is told: a register of either width, an eventfd, a function; positions; and a register that has gone."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
from array import array
from pathlib import Path
from typing import Any

import pytest

from cython_ring import Doorbell, Engine, Loopback, PackedLoopback, RingUsageError

PAGE = 4096
MAKES: list[Any] = [Loopback, PackedLoopback]


class Register:
    """A page of a file, mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(PAGE))
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), PAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def cut(self, size: int = 0) -> None:
        with open(self.path, "r+b") as file:
            file.truncate(size)


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(tmp_path / "bar")


def engine_with(bell: Doorbell, make: Any = Loopback, size: int = 8) -> tuple[Any, Engine]:
    loop = make(size, slots=True)
    return loop, Engine(loop.driver, loop.slot_memory(), indirect=True, owner=loop.memory, doorbell=bell)


def reads(count: int) -> array[int]:
    return array("Q", [word for tag in range(count) for word in (0, 8 * tag, 0x7000_0000, tag, 512 | 1 << 32)])


# --- Registers ---


@pytest.mark.parametrize(("width", "value"), [(2, 0xABCD), (4, 0xABCD1234)])
def test_a_register_gets_its_value_in_its_width_and_nothing_beside_it(
    register: Register, width: int, value: int
) -> None:
    register.memory[:] = b"\xee" * PAGE
    bell = Doorbell.register(register.address + 0x50, value, width=width, owner=register)
    for count in (1, 2):
        bell.ring()
        assert bell.count == count
    assert register.memory[0x50 : 0x50 + width] == value.to_bytes(width, "little")
    assert set(register.memory[:0x50] + register.memory[0x50 + width :]) == {0xEE}


@pytest.mark.parametrize("position", [0, 1, 0x7FFF, 0x8000, 0xFFFF])
def test_with_a_position_it_is_the_high_half(register: Register, position: int) -> None:
    Doorbell.register(register.address, 0x1234, width=4, with_position=True, owner=register).ring(position)
    assert register.memory[:4] == (0x1234 | position << 16).to_bytes(4, "little")


def test_without_one_the_position_is_left_out(register: Register) -> None:
    Doorbell.register(register.address, 0x1234, width=4, owner=register).ring(0xFFFF)
    assert register.memory[:4] == (0x1234).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("off", "value", "options"),
    [
        (0, 1, {"width": 1}),
        (0, 1, {"width": 8}),
        (0, 1, {"width": 2, "with_position": True}),
        (1, 1, {"width": 2}),
        (2, 1, {"width": 4}),
        (0, 0x10000, {"width": 2}),
        (0, 0x10000, {"width": 4, "with_position": True}),
        (0, 1 << 32, {"width": 4}),
        (0, -1, {"width": 4}),
    ],
)
def test_a_register_that_cannot_be_is_refused(register: Register, off: int, value: int, options: Any) -> None:
    with pytest.raises(RingUsageError):
        Doorbell.register(register.address + off, value, **options)
    assert register.memory[:8] == bytes(8)


@pytest.mark.parametrize("address", [0, 1 << 64])
def test_an_address_where_nothing_is_mapped_is_refused(address: int) -> None:
    with pytest.raises(RingUsageError, match="map the register"):
        Doorbell.register(address, 1)


@pytest.mark.fault(10, over="machine")
@pytest.mark.parametrize("width", [2, 4])
def test_a_register_that_has_gone_is_an_error_each_time_and_works_when_it_is_back(
    register: Register, width: int
) -> None:
    bell = Doorbell.register(register.address, 7, width=width, owner=register)
    for _ in range(3):
        register.cut()
        with pytest.raises(OSError, match="cannot be notified") as caught:
            bell.ring()
        assert caught.value.errno == errno.ENODEV
        register.cut(PAGE)
        bell.ring()
        assert register.memory[0] == 7


@pytest.mark.fault(10, over="machine")
@pytest.mark.parametrize("make", MAKES)
def test_so_it_is_for_an_engine_that_rings_without_the_gil(register: Register, make: Any) -> None:
    loop, engine = engine_with(Doorbell.register(register.address, 7, owner=register), make, 16)
    register.cut()
    with pytest.raises(OSError, match="cannot be notified"):
        engine.submit(reads(12))
    # What was published stays with the device, and the engine can be used.
    assert engine.tags() == list(range(12))
    assert loop.device.serve(12, 10**9, 0) == 12
    assert engine.reap(array("Q", bytes(16 * 16))) == 12
    with pytest.raises(OSError, match="cannot be notified"):
        engine.call(0, 0, 0x7000_0000, 512, True, 10**9)
    register.cut(PAGE)
    engine.notify()
    assert register.memory[0] == 7


SCRIPT = """
import ctypes, faulthandler, mmap, sys
from cython_ring import Doorbell
from mmio import MappedFile, RegionGone
{before}
file = open(sys.argv[1], "r+b")
mapping = mmap.mmap(file.fileno(), 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
takers = {{"r": lambda: MappedFile(sys.argv[1], 0, 4096), "b": lambda: Doorbell.register(address, 1)}}
made = {{letter: takers[letter]() for letter in "{order}"}}
file.truncate(0)
for _ in range(3):
    for error, use in ((RegionGone, lambda: made["r"].read32(0)), (OSError, made["b"].ring)):
        try:
            use()
        except error:
            print("caught", flush=True)
mapping[0]
"""


@pytest.mark.parametrize("before", ["", "faulthandler.enable()"])
@pytest.mark.parametrize("order", ["br", "rb", "brb", "rbr", "rbrbrb", "brbrb"])
def test_with_registers_that_took_the_signal_in_turns_each_gets_its_own_and_others_end_the_process(
    register: Register, order: str, before: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before, order=order), str(register.path)],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout == "caught\n" * 6
    assert done.returncode == -signal.SIGBUS
    assert ("Fatal Python error: Bus error" in done.stderr) == ("faulthandler" in before)


# --- Eventfds ---


@pytest.mark.parametrize("flags", [0, os.EFD_NONBLOCK])
def test_an_eventfd_counts_how_often_it_was_rung(flags: int) -> None:
    fd = os.eventfd(0, flags)
    try:
        bell = Doorbell.eventfd(fd)
        for position in (0, 1, 0xFFFF):
            bell.ring(position)
        assert (os.eventfd_read(fd), bell.count) == (3, 3)
    finally:
        os.close(fd)


def test_an_eventfd_that_is_full_has_been_rung() -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        os.eventfd_write(fd, 2**64 - 2)
        Doorbell.eventfd(fd).ring()
        assert os.eventfd_read(fd) == 2**64 - 2
    finally:
        os.close(fd)


def test_a_descriptor_that_takes_nothing_is_an_error_of_the_call_that_rang() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="cannot be notified") as caught:
            Doorbell.eventfd(reading).ring()
        assert caught.value.errno == errno.EBADF
        loop, engine = engine_with(Doorbell.eventfd(reading))
        with pytest.raises(OSError, match="cannot be notified"):
            engine.submit(reads(1))
        assert loop.device.serve(1, 10**9, 0) == 1
        assert engine.reap(array("Q", bytes(16))) == 1
    finally:
        os.close(reading)
        os.close(writing)


def test_a_descriptor_below_zero_is_refused() -> None:
    with pytest.raises(RingUsageError, match="not open"):
        Doorbell.eventfd(-1)


# --- Functions, and the end ---


def test_a_function_gets_the_value_and_what_it_raises_is_raised() -> None:
    got: list[int] = []
    Doorbell.call(got.append, 3).ring(9)
    Doorbell.call(got.append, 3, with_position=True).ring(9)
    assert got == [3, 3 | 9 << 16]

    def refuse(value: int) -> None:
        raise ConnectionError(value)

    with pytest.raises(ConnectionError):
        Doorbell.call(refuse).ring()


def test_a_closed_doorbell_raises_and_stores_nothing(register: Register) -> None:
    bell = Doorbell.register(register.address, 7, owner=register)
    bell.close()
    bell.close()
    with pytest.raises(RingUsageError, match="closed"):
        bell.ring()
    _, engine = engine_with(bell)
    with pytest.raises(RingUsageError, match="closed"):
        engine.submit(reads(1))
    assert register.memory[:2] == bytes(2)


# --- Silence, while the device is reset ---


def test_a_silent_doorbell_counts_and_tells_nobody_until_it_is_loud_again(register: Register) -> None:
    called: list[int] = []
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        bells = [
            Doorbell.register(register.address, 7, owner=register),
            Doorbell.eventfd(fd),
            Doorbell.call(called.append),
        ]
        for bell in bells:
            bell.silence()
            bell.ring()
            _, engine = engine_with(bell)
            assert engine.submit(reads(1)) == 1
            assert bell.count == 2
        assert (register.memory[:2], called) == (bytes(2), [])
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
        for bell in bells:
            bell.silence(False)
            bell.ring()
        assert (register.memory[0], called, os.eventfd_read(fd)) == (7, [0], 1)
    finally:
        os.close(fd)


def test_the_error_of_before_is_not_told_of_a_silent_doorbell() -> None:
    reading, writing = os.pipe()
    try:
        bell = Doorbell.eventfd(reading)
        with pytest.raises(OSError, match="cannot be notified"):
            bell.ring()
        bell.silence()
        bell.ring()
    finally:
        os.close(reading)
        os.close(writing)


def test_silence_waits_for_a_function_that_is_being_called() -> None:
    inside, go_on, steps = threading.Event(), threading.Event(), list[str]()

    def function(_: int) -> None:
        inside.set()
        assert go_on.wait(30)
        steps.append("called")

    bell = Doorbell.call(function)
    thread = threading.Thread(target=bell.ring)
    thread.start()
    assert inside.wait(30)
    threading.Timer(0.05, go_on.set).start()
    bell.silence()
    steps.append("silent")
    thread.join(30)
    bell.ring()
    assert steps == ["called", "silent"]


def test_a_function_may_silence_its_own_doorbell() -> None:
    called: list[int] = []

    def function(value: int) -> None:
        called.append(value)
        bell.silence()

    bell = Doorbell.call(function, 3)
    bell.ring()
    bell.ring()
    assert called == [3]


def test_silence_changes_nothing_of_a_closed_doorbell() -> None:
    bell = Doorbell.call(int)
    bell.close()
    bell.silence(False)
    with pytest.raises(RingUsageError, match="closed"):
        bell.ring()


# --- Positions of NOTIFICATION_DATA (VIRTIO 1.4, 2.9) ---


def test_the_position_of_a_split_ring_is_the_published_index_across_its_wrap() -> None:
    got: list[int] = []
    loop = Loopback(8, slots=True, first_index=65530)
    bell = Doorbell.call(got.append, 5, with_position=True)
    engine = Engine(loop.driver, loop.slot_memory(), indirect=True, owner=loop.memory, doorbell=bell)
    out = array("Q", bytes(16 * 8))
    for total in range(3, 31, 3):
        assert engine.submit(reads(3)) == 3
        assert got[-1] == 5 | (65530 + total & 0xFFFF) << 16
        loop.device.serve(3, 10**9, 0)
        engine.reap(out)
    assert len(got) == engine.notifications == 10


@pytest.mark.parametrize("size", [3, 4, 7, 8])
def test_that_of_a_packed_ring_is_the_place_of_the_next_descriptor_and_the_wrap_counter(size: int) -> None:
    got: list[int] = []
    loop, engine = engine_with(Doorbell.call(got.append, 5, with_position=True), PackedLoopback, size)
    out = array("Q", bytes(16))
    for total in range(1, 4 * size + 2):
        assert engine.submit(reads(1)) == 1
        wrap = 1 - total // size % 2
        assert got[-1] == 5 | (total % size | wrap << 15) << 16
        loop.device.serve(1, 10**9, 0)
        assert engine.reap(out) == 1
