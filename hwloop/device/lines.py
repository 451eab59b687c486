"""Which interrupt of a device brings what: a vector a queue and one for the configuration, or fewer, or one line.

A device may refuse a vector for want of resources (VIRTIO 1.4, 4.1.5.1.2.2), and a machine may have none: then there is
less to tell one event from another, and in the end there is polling. Why it is not better is kept in `why`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from hwloop.errors import HwloopError, Unsupported
from hwloop.hal.base import Hal
from hwloop.hal.interrupt import Interrupt
from hwloop.owner import Owner
from hwloop.transport.base import Transport

MOST_QUEUES = 64
"""Queues that get a vector at most; those behind them share."""

Share = tuple[int, list[int]]
"""The vector of the configuration, and that of each queue."""


class Lines(Owner):
    """The interrupts of one device, all open. `queues` has that of each queue, and is empty when it has to be polled.

    `config` brings changes of the configuration and nothing else; None where those come otherwise, or not at all.
    `offered`: there are interrupts of this device, whether or not they can be had. `shared` tells whether queues share
    one.
    """

    def __init__(self) -> None:
        self.queues: list[Interrupt] = []
        self.config: Interrupt | None = None
        self.why = ""
        self.offered = False
        self.refusal: Unsupported | None = None
        """What has to be done to have one at all."""
        self._resources = ExitStack()

    @property
    def kind(self) -> str:
        """`msix`, `msi`, `intx`, `mmio`, `eventfd`, or `poll`."""
        return self.queues[0].kind if self.queues else "poll"

    @property
    def shared(self) -> bool:
        return len({id(line) for line in self.queues}) < len(self.queues)

    def all(self) -> list[Interrupt]:
        """Each of them once."""
        found = [*self.queues, *([self.config] if self.config is not None else [])]
        return list({id(line): line for line in found}.values())

    def open(self, hal: Hal, vector: int | None) -> Interrupt | None:
        line = hal.interrupt(vector)
        return self._resources.enter_context(line) if line is not None else None

    def close(self) -> None:
        """Let go of all of them. Idempotent."""
        self.queues, self.config = [], None
        self._resources.close()


def choose_lines(hal: Hal, transport: Transport) -> Lines:
    """Open the best interrupts that this device and this machine have, after the reset and before the queues are set
    up; the transport is told of the vectors."""
    lines, faults = Lines(), []
    queues = _count_queues(transport)
    for choose in (_choose_vectors, _choose_line):
        try:
            fault = choose(hal, transport, queues, lines)
        except Unsupported as error:
            fault, lines.refusal = error.problem, error
        except HwloopError as error:
            fault, lines.offered = error.problem, True
        if fault:
            faults.append(fault)
        if lines.queues:
            break
        lines.close()
        _forget_vectors(transport)
    lines.why = "; ".join(faults)
    return lines


def _count_queues(transport: Transport) -> int:
    return next((index for index in range(MOST_QUEUES) if not transport.max_queue_size(index)), MOST_QUEUES)


def _choose_vectors(hal: Hal, transport: Transport, queues: int, lines: Lines) -> str:
    """Returns why it is not a vector for each queue, or ""."""
    have = hal.vectors(queues + 1)
    if not have:
        return f"the {hal.name} HAL has no vectors of this device"
    lines.offered = True
    fault = "" if have > queues else f"there are {have} vectors for {queues} queues and the configuration"
    for share in _shares(queues, have):
        refusal = _try_share(hal, transport, share, lines)
        if not refusal:
            return fault
        fault = refusal
        lines.close()
        _forget_vectors(transport)
    return fault


def _shares(queues: int, have: int) -> Iterator[Share]:
    """From one vector each to one for all, as Linux does it (drivers/virtio/virtio_pci_common.c)."""
    if have > 2:
        yield 0, [1 + index % (have - 1) for index in range(queues)]
    if have > 1:
        yield 0, [1] * queues
    yield 0, [0] * queues


def _try_share(hal: Hal, transport: Transport, share: Share, lines: Lines) -> str:
    """Returns what was refused, or "". A device that refuses a vector for its configuration only is asked for it."""
    config, each = share
    opened: dict[int, Interrupt] = {}
    for vector in sorted({config, *each}):
        line = lines.open(hal, vector)
        if line is None:
            return f"the {hal.name} HAL does not open vector {vector}"
        opened[vector] = line
    for index, vector in enumerate(each):
        if not transport.takes_vector(index, vector):
            return f"the device refused vector {vector} for queue {index}"
    transport.queue_vectors = dict(enumerate(each))
    if transport.takes_vector(None, config):
        transport.config_vector = config
        lines.config = None if config in each else opened[config]
    lines.queues = [opened[vector] for vector in each]
    return ""


def _choose_line(hal: Hal, transport: Transport, queues: int, lines: Lines) -> str:
    line = lines.open(hal, None)
    if line is None:
        return f"the {hal.name} HAL brings no interrupt of this device"
    lines.queues = [line] * queues
    return ""


def _forget_vectors(transport: Transport) -> None:
    transport.queue_vectors = {}
    transport.config_vector = None
