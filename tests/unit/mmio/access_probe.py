"""Runs register accessors on a watched page and prints what they really did, as JSON. Started by test_access_count.

It has handlers for SIGSEGV and SIGTRAP, so it is a process of its own: `access_probe.py COUNTER_LIBRARY`.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import periphery

from mmio import DevMemWindow, MappedFile, MappedRegion, address_of

PAGE = 4096
AT = 0x50
FILL = 0xA5
VALUE = 0x1817161514131211
"""Every byte differs from FILL and from zero, so that each byte stored shows."""


class _Access(ctypes.Structure):
    _fields_ = [
        ("is_write", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
        ("around", ctypes.c_uint32),
        ("code", ctypes.c_uint8 * 15),
        ("before", ctypes.c_uint8 * 32),
        ("after", ctypes.c_uint8 * 32),
    ]


def decoded_width(code: bytes) -> int | None:
    """Bytes that a mov, movzx, movsx, movs or stos instruction moves to or from memory; None for any other."""
    operand = 4
    while code and (code[0] in (0x66, 0xF2, 0xF3) or code[0] & 0xF0 == 0x40):
        if code[0] == 0x66:
            operand = 2
        elif code[0] & 0xF8 == 0x48:
            operand = 8
        code = code[1:]
    if code[0] == 0x0F:
        return {0xB6: 1, 0xBE: 1, 0xB7: 2, 0xBF: 2}.get(code[1])
    if code[0] in (0x88, 0x8A, 0xC6, 0xA4, 0xAA):
        return 1
    return operand if code[0] in (0x89, 0x8B, 0xC7, 0xA5, 0xAB) else None


def _describe(access: _Access) -> dict[str, Any]:
    before, after = bytes(access.before), bytes(access.after)
    here = access.offset - access.around
    return {
        "kind": "store" if access.is_write else "load",
        "offset": access.offset,
        "width": decoded_width(bytes(access.code)),
        "changed": [access.around + i for i in range(32) if before[i] != after[i]],
        "after": after[here : here + 8].hex(),
        "code": bytes(access.code).hex(),
    }


def record(counter: ctypes.CDLL, address: int, action: Callable[[], object]) -> list[dict[str, Any]]:
    """What `action` does to the page at `address`, which is filled with FILL first."""
    ctypes.memset(address, FILL, PAGE)
    counter.watch(ctypes.c_void_p(address))
    action()
    count = counter.unwatch()
    return [_describe(counter.get(ctypes.c_long(i)).contents) for i in range(count)]


def region_cases(region: MappedRegion) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every accessor of a mapped region."""
    for suffix, bits in (("8", 8), ("16", 16), ("32", 32), ("64", 64), ("64_lo_hi", 64), ("64_hi_lo", 64)):
        value = VALUE & (1 << bits) - 1
        yield f"read{suffix}", partial(getattr(region, f"read{suffix}"), AT)
        yield f"write{suffix}", partial(getattr(region, f"write{suffix}"), AT, value)


def refused_cases(region: MappedRegion) -> Iterator[tuple[str, Callable[[], object]]]:
    """Accesses that must not reach the page at all."""
    refused: list[tuple[str, tuple[int, ...]]] = [
        ("read32", (AT + 2,)),
        ("write32", (PAGE, 1)),
        ("write32", (AT, 1 << 32)),
        ("write64_lo_hi", (PAGE - 4, VALUE)),
        ("read64_hi_lo", (-4,)),
    ]
    for name, arguments in refused:
        yield f"refused {name}{arguments}", partial(_refuse, region, name, arguments)


def _refuse(region: MappedRegion, name: str, arguments: tuple[int, ...]) -> None:
    try:
        getattr(region, name)(*arguments)
    except OSError:
        return
    raise SystemExit(f"{name}{arguments} was not refused")


def idiom_cases(page: mmap.mmap, mmio: Any) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """What Python offers otherwise."""
    here, value = address_of(page), VALUE & 0xFFFFFFFF
    yield "periphery write32", address_of(mmio.mapping), lambda: mmio.write32(AT, value)
    yield "struct.pack_into", here, lambda: struct.pack_into("<I", page, AT, value)
    yield "mmap slice", here, lambda: page.__setitem__(slice(AT, AT + 4), value.to_bytes(4, "little"))
    words = memoryview(page).cast("I")
    yield "memoryview.cast", here, lambda: words.__setitem__(AT // 4, value)


def main(library: str) -> dict[str, list[dict[str, Any]]]:
    counter = ctypes.CDLL(library)
    counter.unwatch.restype = ctypes.c_long
    counter.get.restype = ctypes.POINTER(_Access)
    found = {}
    page = mmap.mmap(-1, PAGE)
    region = MappedRegion(address_of(page), PAGE, page)
    for name, action in (*region_cases(region), *refused_cases(region)):
        found[name] = record(counter, region.address, action)
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(PAGE)
        with MappedFile(file.fileno(), 0, PAGE) as mapped:
            found["MappedFile write32"] = record(counter, mapped.address, lambda: mapped.write32(AT, 1))
        with DevMemWindow(0, PAGE, file.name) as window:
            found["DevMemWindow write32"] = record(counter, window.address, lambda: window.write32(AT, 1))
        mmio = periphery.MMIO(0, PAGE, file.name)
        for name, address, action in idiom_cases(page, mmio):
            found[name] = record(counter, address, action)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
