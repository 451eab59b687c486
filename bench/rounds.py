"""Contestants on one device, in turns: the ratio of two of them is taken within a round, and its median over rounds.

The speed of a shared machine changes from one second to the next, and of the rates of two runs little can be said; of
two windows that lie side by side a ratio can, and its range tells how far to believe it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import quiet

LEAST_SHARE = 0.95
"""Of a processor that a polling side has to have had, or its sample is thrown away."""

_TRIES = 4


@dataclass(frozen=True)
class Contestant:
    """A program that drives a device, and prints a line of JSON with `iops`, `driver_cpu` and `device_cpu`.

    `polls` of the driver and of the device says which of them keeps its processor busy all the time.
    """

    name: str
    command: tuple[str, ...]
    driver_polls: bool = True
    device_polls: bool = True


@dataclass(frozen=True)
class Sample:
    """What one window gave; shares are of a processor, NaN where nobody looked."""

    iops: float
    driver_cpu: float
    device_cpu: float

    def is_fair_for(self, contestant: Contestant) -> bool:
        short = contestant.driver_polls and self.driver_cpu < LEAST_SHARE
        return not (short or (contestant.device_polls and self.device_cpu < LEAST_SHARE))


@dataclass
class Contest:
    """The samples of each contestant, one a round; `thrown_away` counts the others."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    thrown_away: int = 0

    def ratios(self, name: str, base: str) -> list[float]:
        """Of every round."""
        pairs = zip(self.samples[name], self.samples[base], strict=True)
        return [ours.iops / theirs.iops for ours, theirs in pairs]

    def rate(self, name: str) -> float:
        return statistics.median(sample.iops for sample in self.samples[name])

    def shares(self, name: str) -> tuple[float, float]:
        """Medians of what driver and device had of their processors."""
        samples = self.samples[name]
        return (
            statistics.median(sample.driver_cpu for sample in samples),
            statistics.median(sample.device_cpu for sample in samples),
        )


def hold(contestants: Sequence[Contestant], rounds: int, fifo: bool) -> Contest:
    """So many rounds; one in which a contestant had no fair sample in a few tries is not counted. Raises RuntimeError
    when there are too few rounds that count."""
    contest = Contest({contestant.name: [] for contestant in contestants})
    for _ in range(2 * rounds):
        found = _round(contestants, fifo, contest)
        if found is not None:
            for name, sample in found.items():
                contest.samples[name].append(sample)
        if len(contest.samples[contestants[0].name]) == rounds:
            return contest
    if len(contest.samples[contestants[0].name]) < min(3, rounds):
        raise RuntimeError(
            f"in {2 * rounds} rounds, {contest.thrown_away} samples had less than {LEAST_SHARE:.0%} of a processor: "
            "the machine is too busy"
        )
    return contest


def _round(contestants: Sequence[Contestant], fifo: bool, contest: Contest) -> dict[str, Sample] | None:
    found = {}
    for contestant in contestants:
        for _ in range(_TRIES):
            sample = measure(contestant, fifo)
            if sample.is_fair_for(contestant):
                found[contestant.name] = sample
                break
            contest.thrown_away += 1
        else:
            return None
    return found


def measure(contestant: Contestant, fifo: bool) -> Sample:
    """One window. Raises RuntimeError with what the program said."""
    said = json.loads(quiet.run_driver(contestant.command, fifo).strip().splitlines()[-1])
    nan = float("nan")
    return Sample(said["iops"], said.get("driver_cpu", nan), said.get("device_cpu", nan))
