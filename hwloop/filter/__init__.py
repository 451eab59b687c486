"""What can stand between a driver and its device: each wraps a Transport or a Hal, and they stack.

A target names them, the one nearest to the driver first: `fake:16M?filter=delay:5ms,trace:/tmp/blk.trace`. Without a
name nothing is wrapped, and nothing on the way of a request asks whether it is.

To add a filter: one file with a class, one line in `FILTERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from hwloop.errors import InvalidParam
from hwloop.filter.base import Filter
from hwloop.registry import Registry

FILTERS: Registry[type[Filter]] = Registry(
    "filter",
    {
        "trace": "hwloop.filter.trace:TraceFilter",
        "record": "hwloop.filter.record:RecordFilter",
        "replay": "hwloop.filter.replay:ReplayFilter",
        "delay": "hwloop.filter.delay:DelayFilter",
        "fault": "hwloop.filter.fault:FaultFilter",
    },
)

FilterMaker = Callable[[], Filter]


def parse_filters(text: str, target: str = "") -> list[FilterMaker]:
    """What makes the filters of an option `filter=NAME[:OPTIONS],...` anew for each device that is opened.

    Raises InvalidParam for one that is not there, and for options that it does not have.
    """
    makers = []
    for part in text.split(","):
        name, _, options = part.partition(":")
        if not name:
            raise InvalidParam(f"option filter cannot be {text!r}", remedy=f"name one of: {', '.join(FILTERS)}")
        makers.append(FILTERS.get(name).maker(options, target))
    return makers


__all__ = ["FILTERS", "Filter", "FilterMaker", "parse_filters"]
