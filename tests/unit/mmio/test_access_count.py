"""Each Cython accessor makes one access of its width, seen by the processor and in the bytes that change."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
AT = 0x50
Accesses = list[dict[str, Any]]

WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8}
PAIRS = {"64_lo_hi": [AT, AT + 4], "64_hi_lo": [AT + 4, AT]}

newest_measured = pytest.mark.skipif(sys.version_info >= (3, 14), reason="measured up to CPython 3.13 only")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Accesses]:
    """What each case of access_probe.py did, by name."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("the access counter decodes x86-64 instructions on Linux")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the access counter with")
    library = tmp_path_factory.mktemp("counter") / "access_counter.so"
    source = HERE / "access_counter.c"
    subprocess.run([compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[2])}
    command = [sys.executable, str(HERE / "access_probe.py"), str(library)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"the probe ended with {done.returncode}: {done.stderr}"
    cases: dict[str, Accesses] = json.loads(done.stdout)
    return cases


def shape(accesses: Accesses) -> list[tuple[str, int, int | None]]:
    return [(access["kind"], access["offset"], access["width"]) for access in accesses]


@pytest.mark.parametrize("suffix", WIDTHS)
def test_a_read_is_one_load_of_its_width(seen: dict[str, Accesses], suffix: str) -> None:
    assert shape(seen[f"read{suffix}"]) == [("load", AT, WIDTHS[suffix])]
    assert seen[f"read{suffix}"][0]["changed"] == []


@pytest.mark.parametrize("suffix", WIDTHS)
def test_a_write_is_one_store_that_changes_the_bytes_of_its_width_at_once(
    seen: dict[str, Accesses], suffix: str
) -> None:
    width = WIDTHS[suffix]
    assert shape(seen[f"write{suffix}"]) == [("store", AT, width)]
    assert seen[f"write{suffix}"][0]["changed"] == list(range(AT, AT + width))


@pytest.mark.parametrize("suffix", PAIRS)
def test_a_pair_is_two_accesses_of_32_bits_in_the_order_of_its_name(seen: dict[str, Accesses], suffix: str) -> None:
    assert shape(seen[f"read{suffix}"]) == [("load", at, 4) for at in PAIRS[suffix]]
    assert shape(seen[f"write{suffix}"]) == [("store", at, 4) for at in PAIRS[suffix]]
    assert [access["changed"] for access in seen[f"write{suffix}"]] == [list(range(at, at + 4)) for at in PAIRS[suffix]]


def test_a_refused_access_never_reaches_the_page(seen: dict[str, Accesses]) -> None:
    refused = {name: shape(accesses) for name, accesses in seen.items() if name.startswith("refused ")}
    assert len(refused) == 5
    assert not any(refused.values()), refused


@pytest.mark.parametrize("kind", ["MappedFile", "DevMemWindow"])
def test_the_mapped_kinds_store_once_too(seen: dict[str, Accesses], kind: str) -> None:
    assert shape(seen[f"{kind} write32"]) == [("store", AT, 4)]


def test_a_cast_memoryview_stores_once(seen: dict[str, Accesses]) -> None:
    assert shape(seen["memoryview.cast"]) == [("store", AT, 4)]


@newest_measured
def test_periphery_reads_the_register_before_it_writes_it(seen: dict[str, Accesses]) -> None:
    assert [access["kind"] for access in seen["periphery write32"]] == ["load", "store"]


@newest_measured
def test_pack_into_stores_zero_before_the_value(seen: dict[str, Accesses]) -> None:
    accesses = seen["struct.pack_into"]
    assert len(accesses) > 1
    assert {access["kind"] for access in accesses} == {"store"}
    assert accesses[0]["after"].startswith("00")


@newest_measured
def test_assigning_a_slice_of_a_mapping_stores_more_than_once(seen: dict[str, Accesses]) -> None:
    accesses = seen["mmap slice"]
    assert len(accesses) > 1
    assert {access["kind"] for access in accesses} == {"store"}
