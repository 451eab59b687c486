"""A region of plain bytes with hooks, to write device models with."""

from __future__ import annotations

from collections.abc import Callable

from mmio.region import RegionBase, check_bounds, check_value

ReadHook = Callable[[int, int], int | None]
"""`(offset, width)` to the value that the driver reads; None for what the bytes say."""

WriteHook = Callable[[int, int, int], int | None]
"""`(offset, width, value)` to the value that the bytes keep; None for the one that was written."""


class FakeRegion(RegionBase):
    """`size` bytes, each `fill` at first, that behave as device registers through hooks.

    `on_read` and `on_write` see every bus access, except those at an offset that `hook` gave hooks of its own. A
    read-only register is a write hook that returns `peek(offset, width)`; one that clears when read is a read hook
    that calls `poke`.
    """

    def __init__(
        self, size: int, fill: int = 0, on_read: ReadHook | None = None, on_write: WriteHook | None = None
    ) -> None:
        super().__init__(size)
        self._bytes = bytearray([fill]) * size
        self._on_read, self._on_write = on_read, on_write
        self._read_hooks: dict[int, ReadHook] = {}
        self._write_hooks: dict[int, WriteHook] = {}

    def hook(self, offset: int, on_read: ReadHook | None = None, on_write: WriteHook | None = None) -> None:
        """Give accesses that start at `offset` their own hooks, in place of the general ones."""
        check_bounds(offset, 1, self._size, "hook")
        if on_read is not None:
            self._read_hooks[offset] = on_read
        if on_write is not None:
            self._write_hooks[offset] = on_write

    def peek(self, offset: int, width: int) -> int:
        """The value of `width` bytes, any number of them, with no hook and no alignment: the device's own side."""
        check_bounds(offset, width, self._size, "peek")
        return int.from_bytes(self._bytes[offset : offset + width], "little")

    def poke(self, offset: int, width: int, value: int) -> None:
        """Set `width` bytes, any number of them, with no hook and no alignment: the device's own side."""
        check_bounds(offset, width, self._size, "poke")
        self._bytes[offset : offset + width] = check_value(value, width).to_bytes(width, "little")

    def _read(self, offset: int, width: int) -> int:
        hook = self._read_hooks.get(offset, self._on_read)
        value = None if hook is None else hook(offset, width)
        return self.peek(offset, width) if value is None else check_value(value, width)

    def _write(self, offset: int, width: int, value: int) -> None:
        hook = self._write_hooks.get(offset, self._on_write)
        kept = None if hook is None else hook(offset, width, value)
        self.poke(offset, width, value if kept is None else kept)
