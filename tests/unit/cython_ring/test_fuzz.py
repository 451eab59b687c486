"""What `make fuzz` found once, and some hundred others."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import Inputs, read_corpus
from tests.fuzz.target import execute


@pytest.mark.parametrize("data", read_corpus(), ids=lambda data: data.hex()[:16])
def test_inputs_of_the_corpus(data: bytes) -> None:
    assert execute(data)


def test_new_inputs() -> None:
    inputs = Inputs(2026)
    for _ in range(300):
        data = inputs.next()
        try:
            inputs.learn(data, execute(data))
        except BaseException as error:
            raise AssertionError(f"add it to the corpus: {data.hex()}") from error
    assert len(inputs.seen) > 300
