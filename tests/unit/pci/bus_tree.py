"""Random trees of bridges and functions, and the checks that a layout of them must pass."""

from __future__ import annotations

from hypothesis import strategies as st

from pci import (
    AbsentConfigAccess,
    BarInfo,
    BytesConfigAccess,
    ConfigAccess,
    DeviceFunction,
    FakeBridge,
    IoBar,
    MemoryBar,
    MemoryBarType,
    new_function,
)

Place = tuple[int, int]


def function_of(*bars: BarInfo) -> BytesConfigAccess:
    fake = new_function(0x1AF4, 0x1042)
    for bar in bars:
        fake.declare_bar(bar)
    return fake


def memory(index: int, size: int, *, wide: bool = False, prefetchable: bool = False, address: int = 0) -> MemoryBar:
    kind = MemoryBarType.Width64 if wide else MemoryBarType.Width32
    return MemoryBar(index, kind, prefetchable, address, size)


@st.composite
def _bars(draw: st.DrawFn) -> list[BarInfo]:
    bars: list[BarInfo] = []
    index = 0
    while index < 6 and draw(st.booleans()):
        shape = draw(st.sampled_from(["io", "32", "64", "64p", "32p"]))
        size = 1 << draw(st.integers(2, 8) if shape == "io" else st.integers(4, 24))
        wide = shape.startswith("64") and index < 5
        bars.append(IoBar(index, 0, size) if shape == "io" else _memory_of(index, size, wide, shape.endswith("p")))
        index += 2 if wide else 1
    return bars


def _memory_of(index: int, size: int, wide: bool, prefetchable: bool) -> MemoryBar:
    return memory(index, size, wide=wide, prefetchable=prefetchable)


functions = _bars().map(lambda bars: function_of(*bars))


def _bridges(children: st.SearchStrategy[BytesConfigAccess]) -> st.SearchStrategy[BytesConfigAccess]:
    return st.builds(lambda behind, wide: FakeBridge(behind, prefetchable=wide), _bus(children), st.booleans())


def _bus(children: st.SearchStrategy[BytesConfigAccess]) -> st.SearchStrategy[dict[Place, BytesConfigAccess]]:
    return st.dictionaries(st.integers(0, 31).map(lambda device: (device, 0)), children, max_size=4)


trees = _bus(st.recursive(functions, _bridges, max_leaves=6))
"""Bus 0 of a fake root: functions by device and function number."""


class Chain:
    """`length` bridges, each behind the one before, and `last` behind all. It routes by position: following the bus
    numbers of hundreds of bridges at each access would take seconds."""

    def __init__(self, length: int, last: BytesConfigAccess) -> None:
        self.functions = [*(FakeBridge({}) for _ in range(length)), last]

    def config(self, function: DeviceFunction) -> ConfigAccess:
        there = function.device == 0 and function.function == 0 and function.bus < len(self.functions)
        return self.functions[function.bus] if there else AbsentConfigAccess(function)
