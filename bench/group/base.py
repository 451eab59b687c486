"""What groups have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench import driver, peers
from bench.device import Device
from bench.rounds import Contest, Contestant
from bench.row import Row


@dataclass(frozen=True)
class Setting:
    """How it is measured: rounds, seconds of a window, and whether either side has its processor to itself."""

    rounds: int = 5
    seconds: float = 0.3
    fifo: bool = False


@dataclass(frozen=True)
class Group:
    """`rows` measures, and is told how."""

    title: str
    rows: Callable[[Setting], Iterable[Row]]


def ours(tier: str, device: Device, setting: Setting, *, device_polls: bool = True, **options: object) -> Contestant:
    """hwloop, used in the way of a tier of `bench.driver`; `options` are that program's."""
    words = driver.words(tier, device.target, device=device.pid, seconds=setting.seconds, **options)
    polls = options.get("wait", "poll") == "poll"
    return Contestant(f"{tier} {options['depth']}", (sys.executable, *words), polls, device_polls and polls)


def libblkio(
    device: Device, setting: Setting, depth: int, *options: str, wait: str = "poll", device_polls: bool = True
) -> Contestant:
    """libblkio in C; `options` are those of bench/peer_libblkio.c."""
    words = ["virtio-blk-vhost-user", device.socket, "-d", str(depth), "-s", str(setting.seconds), "-w", wait]
    polls = wait == "poll"
    command = (*peers.libblkio(), *words, "-p", str(device.pid), *options)
    return Contestant(f"libblkio {wait} {depth}", command, polls, device_polls and polls)


def ratio(contest: Contest, measure: str, name: str, base: str, goal: float | None) -> Row:
    """One contestant's rate over another's, with both rates and what they had of the processors."""
    notes = f"{rate_text(contest.rate(name))} against {rate_text(contest.rate(base))}; {_shares(contest, name)} against"
    return Row(measure, contest.ratios(name, base), goal, notes=f"{notes} {_shares(contest, base)}")


def rate_text(rate: float) -> str:
    return f"{rate / 1e6:.2f} M/s" if rate >= 1e6 else f"{rate / 1e3:.0f} k/s"


def _shares(contest: Contest, name: str) -> str:
    driver_share, device_share = contest.shares(name)
    return f"{driver_share:.0%}, {device_share:.0%}"
