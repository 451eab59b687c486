"""What a request costs in instructions, which does not depend on what else the machine does."""

from __future__ import annotations

import pytest

from bench.instructions import available, count

# A C library that many use takes 505 for the same; a quarter of that for the loops, a third with the calls from Python.
CALL_LIMIT = 180


@pytest.mark.skipif(not available(), reason="valgrind is not installed")
@pytest.mark.parametrize(("kind", "core_limit"), [("split", 126), ("packed", 150)])
def test_a_read_takes_no_more_instructions_than_its_limit(kind: str, core_limit: int) -> None:
    counted = count(kind)
    assert 20 < counted.core <= core_limit
    assert counted.core < counted.call <= CALL_LIMIT
