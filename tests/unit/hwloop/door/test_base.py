"""What every door has."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest

from hwloop.device.fake_blk import FakeBlk
from hwloop.door.base import Opened
from hwloop.hal.fake import FakeHal
from hwloop.transport.fake import FakeTransport


def test_a_signal_while_an_opened_device_is_given_back_comes_when_it_is() -> None:
    hal, steps, resources = FakeHal(), list[str](), ExitStack()
    resources.callback(steps.append, "the last")
    resources.callback(signal.raise_signal, signal.SIGINT)
    resources.callback(steps.append, "the first")
    with pytest.raises(KeyboardInterrupt) as caught, Opened(FakeTransport(FakeBlk(hal)), hal, resources):
        pass
    assert steps == ["the first", "the last"]
    raised_in = [entry.name for entry in caught.traceback]
    assert raised_in[-1] == "shield", "after everything, and not between two steps"
