from __future__ import annotations

import ctypes
import mmap
from array import array
from typing import Any

import pytest

from cython_ring import DmaBuffer, Engine, Loopback, RingUsageError


def make(length: int = 4096, **options: Any) -> tuple[mmap.mmap, DmaBuffer]:
    memory = mmap.mmap(-1, length)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return memory, DmaBuffer(address, 0x7000_0000, length, owner=memory, **options)


def test_it_is_the_memory_itself() -> None:
    memory, buffer = make()
    with memoryview(buffer) as view:
        assert (view.nbytes, view.readonly) == (4096, False)
        view[7] = 42
    memory[8] = 43
    assert bytes(buffer)[7:9] == bytes([42, 43])
    assert (len(buffer), buffer.device_address, buffer.closed) == (4096, 0x7000_0000, False)


def test_what_python_may_not_write_it_cannot() -> None:
    _, buffer = make(read_only=True)
    with memoryview(buffer) as view:
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 1


@pytest.mark.parametrize(
    ("address", "device_address", "length"),
    [
        (0, 0, 512),
        (-1, 0, 512),
        (1 << 64, 0, 512),
        ((1 << 64) - 511, 0, 512),
        (4096, -1, 512),
        (4096, (1 << 64) - 511, 512),
        (4096, 0, 0),
        (4096, 0, -1),
        (4096, 0, 1 << 63),
    ],
)
def test_memory_that_cannot_be_is_refused(address: int, device_address: int, length: int) -> None:
    with pytest.raises(RingUsageError):
        DmaBuffer(address, device_address, length)


def test_it_is_closed_once_when_no_view_of_it_is_left() -> None:
    released: list[str] = []
    _, buffer = make(release=lambda: released.append("now"))
    view = memoryview(buffer)
    with pytest.raises(RingUsageError, match="1 views"):
        buffer.close()
    assert not buffer.closed
    view.release()
    buffer.close()
    buffer.close()
    assert (released, buffer.closed, buffer.address) == (["now"], True, 0)
    with pytest.raises(RingUsageError, match="closed"):
        memoryview(buffer)
    assert "closed" in repr(buffer)


def test_with_closes_it() -> None:
    released: list[str] = []
    _, buffer = make(release=lambda: released.append("now"))
    with buffer as same:
        assert same is buffer
    assert released == ["now"]


def test_an_engine_says_what_requests_in_flight_may_touch() -> None:
    loop = Loopback(8, slots=True)
    engine = Engine(loop.driver, loop.slot_memory(), indirect=True, owner=loop.memory)
    engine.submit(array("Q", [0, 0, 0x1000, 1, 512 | 1 << 32]))
    used = {at: engine.uses(at, 16) for at in (0xFF0, 0xFF1, 0x1000, 0x11FF, 0x1200)}
    assert used == {0xFF0: False, 0xFF1: True, 0x1000: True, 0x11FF: True, 0x1200: False}
    # Where the parts of a request lie is not noted, and it may be anywhere.
    engine.put(0, 0, [(0x5000, 512), (0x9000, 512)], True, 2)
    assert engine.uses(0x1200, 16)
    assert loop.device.serve(2, 10**9, 0) == 2
    assert engine.reap(array("Q", bytes(16 * 2))) == 2
    assert not engine.uses(0, 1 << 40)
    loop.driver.close()
    assert not engine.uses(0, 1 << 40)


def test_a_view_is_found_where_the_device_sees_it() -> None:
    memory = bytearray(64)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    buffer = DmaBuffer(address, 0x5000, 32, owner=memory)
    view = memoryview(buffer)
    assert (buffer.locate(view), buffer.locate(view[7:9]), buffer.locate(view[32:])) == (0x5000, 0x5007, 0x5020)
    for other in (memoryview(memory)[30:34], memoryview(bytes(4))):
        with pytest.raises(RingUsageError, match="bytes are not in"):
            buffer.locate(other)
