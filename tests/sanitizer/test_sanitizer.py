"""`make asan` runs extensions that AddressSanitizer and UBSan watch: this is how we know that they do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif("HWLOOP_SANITIZED" not in os.environ, reason="for `make asan`")

BEHIND_THE_END = """
from mmio import MappedRegion, address_of
memory = bytearray(4096)
MappedRegion(address_of(memory), 8192, memory).read32(4100)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONMALLOC": "malloc", "PYTHONPATH": os.environ["HWLOOP_SANITIZED"]}
    # Elsewhere than in the checkout, whose own extensions would come first.
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=environment, cwd="/"
    )


def test_an_access_behind_the_end_of_memory_is_found() -> None:
    done = run(BEHIND_THE_END)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


def test_the_extensions_in_use_are_those_that_are_watched() -> None:
    import cython_ring.engine

    assert cython_ring.engine.__file__.startswith(os.environ["HWLOOP_SANITIZED"])
