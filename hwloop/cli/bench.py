"""`hwloop bench`."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hwloop.bench.workload import KINDS, WAITS, Workload
from hwloop.cli.bench_text import report
from hwloop.cli.common import SIZE, json_option, print_json, target_argument
from hwloop.errors import InvalidParam, RefusedError, Unsupported
from hwloop.target import Target

if TYPE_CHECKING:
    from hwloop.bench.cost import CountedPlace
    from hwloop.bench.run import Measurement, Watcher
    from hwloop.bench.samples import Sample
    from hwloop.device.block import BlockDevice

_LONGEST = 30 * 86400.0
_WITHOUT_QUEUES = ("svirtb", "replay")


@click.command("bench")
@target_argument
@click.option("--rw", type=click.Choice(KINDS), default="randread", show_default=True, help="What to do.")
@click.option("--bs", type=SIZE, default="4k", show_default=True, help="Bytes of a request.")
@click.option(
    "--iodepth", type=click.IntRange(1, 32768), default=1, show_default=True, help="Requests in flight, a job."
)
@click.option("--numjobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads, each with a queue.")
@click.option("--time", "seconds", type=float, default=10.0, show_default=True, help="Seconds to measure.")
@click.option("--requests", type=click.IntRange(1), help="End after so many requests, if that is sooner.")
@click.option("--warm-up", type=float, help="Seconds that are not measured.  [default: a tenth of --time, 1 at most]")
@click.option("--wait", type=click.Choice(WAITS), help="How to wait.  [default: as TARGET says, or poll]")
@click.option("--offset", type=SIZE, default=0, show_default=True, help="The first byte of the disk that is used.")
@click.option("--size", type=SIZE, help="How many bytes of the disk are used.  [default: up to its end]")
@click.option(
    "--rwmixread", type=click.IntRange(0, 100), default=50, show_default=True, help="Percent of reads in randrw."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses the random positions.")
@click.option("--count-accesses", is_flag=True, help="Count register accesses and bytes copied; it takes time.")
@click.option("--yes-destroy-data", is_flag=True, help="Let writes overwrite what is on the disk.")
@click.option("--compare", "old", type=click.Path(path_type=Path), metavar="OLD.json", help="Compare with a result.")
@json_option
def command(
    target: str,
    rw: str,
    bs: int,
    iodepth: int,
    numjobs: int,
    seconds: float,
    requests: int | None,
    warm_up: float | None,
    wait: str | None,
    offset: int,
    size: int | None,
    rwmixread: int,
    seed: int,
    count_accesses: bool,
    yes_destroy_data: bool,
    old: Path | None,
    as_json: bool,
) -> None:
    """Measure a disk: requests a second, latencies, and what a request costs.

    Requests of one size go to whole multiples of it, at random or in order, with so many in flight all the time. What
    is in flight when the time is over is waited for, and is in the latencies. Ctrl-C ends a run early and prints what
    was measured.

    randwrite, write and randrw destroy what is on the disk, and are refused without --yes-destroy-data, except on
    fake: disks, which are memory. randread and read write nothing.

    On a terminal, the newest second is shown while it runs, which costs a millisecond or two a second; with --json
    nothing is shown.
    """
    from hwloop.bench import compare, result

    options = Target.parse(target).options
    workload = Workload(
        rw, bs, iodepth, numjobs, wait or options.get("wait", "poll"), offset, size, rwmixread, seed
    )  # fmt: skip
    seconds, warm_up = _checked_times(seconds, warm_up)
    _refuse_to_destroy(target, workload, yes_destroy_data)
    before = compare.load(old) if old is not None else None
    measurement = _measure(target, workload, seconds, warm_up, requests, count_accesses, quiet=as_json)
    found: dict[str, Any] = result.as_json(measurement, target, counted=count_accesses)
    comparison = compare.compare(before, found) if before is not None else None
    if as_json:
        print_json(found | ({"comparison": comparison.as_json()} if comparison else {}))
    else:
        for line in report(found, result.total_latencies(measurement), comparison):
            click.echo(line)
    if measurement.ending is not None:
        raise measurement.ending


def _measure(
    target: str,
    workload: Workload,
    seconds: float,
    warm_up: float,
    requests: int | None,
    count: bool,
    *,
    quiet: bool,
) -> Measurement:
    from hwloop.bench.run import Run

    disk, counted = _open(target, workload, count)
    with disk:
        run = Run(disk, workload, counted)
        run.warm_up(warm_up)
        with _display(f"{workload.rw} {target}", seconds, quiet) as watch:
            return run.measure(seconds, requests, watch)


def _open(target: str, workload: Workload, count: bool) -> tuple[BlockDevice, CountedPlace | None]:
    from hwloop import session
    from hwloop.bench.cost import CountedPlace
    from hwloop.device.block import BlockDevice
    from hwloop.removal import give_back_when_asked

    place = session.find(_as_measured(Target.parse(target), workload))
    counted = CountedPlace(place) if count else None
    disk = session.open_place(counted or place)
    give_back_when_asked(disk)
    if not isinstance(disk, BlockDevice):
        disk.close()
        raise Unsupported(f"{target} is not a disk", remedy="see: hwloop list")
    return disk, counted


def _as_measured(target: Target, workload: Workload) -> Target:
    """The target with a queue for each job, which waits as it is to: an interrupt for each is there from the start."""
    if target.kind in _WITHOUT_QUEUES:
        return target
    queues = {"queues": str(workload.jobs)} if workload.jobs > 1 else {}
    waiting = {"wait": workload.wait} if workload.wait != "poll" or "wait" in target.options else {}
    return replace(target, options={**queues, **target.options, **waiting})


def _checked_times(seconds: float, warm_up: float | None) -> tuple[float, float]:
    """Raises InvalidParam; a float can be no number at all."""
    if not 0 < seconds <= _LONGEST:
        raise InvalidParam(f"cannot measure for {seconds:g} seconds", remedy="give --time more than 0")
    if warm_up is None:
        return seconds, min(1.0, seconds / 10)
    if not 0 <= warm_up <= _LONGEST:
        raise InvalidParam(f"cannot warm up for {warm_up:g} seconds", remedy="give --warm-up 0 or more")
    return seconds, warm_up


def _refuse_to_destroy(target: str, workload: Workload, allowed: bool) -> None:
    """Before anything is opened. A fake disk is gone at the end anyway; an image behind qemu: or svirtb: is a file."""
    if not workload.writes or allowed or Target.parse(target).kind == "fake":
        return
    what = "everything" if workload.size is None else f"{workload.size} bytes"
    raise RefusedError(
        f"{workload.rw} would destroy the data of {target}, {what} from byte {workload.offset} on; nothing was opened",
        remedy="if nobody needs it: add --yes-destroy-data",
    )


@contextmanager
def _display(what: str, seconds: float, quiet: bool) -> Iterator[Watcher]:
    """Draws on a terminal's stderr. Nothing refreshes it but the call, so that its cost is known."""
    if quiet or not sys.stderr.isatty():
        yield lambda passed, sample: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[newest]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(what, total=seconds, newest="")

        def watch(passed: float, sample: Sample | None) -> None:
            bar.update(task, completed=min(passed, math.nextafter(seconds, 0)), newest=_newest(sample), refresh=True)

        yield watch


def _newest(sample: Sample | None) -> str:
    from hwloop.cli.bench_text import time_text

    if sample is None:
        return ""
    return f"{sample.iops:,.0f} IOPS, p50 {time_text(sample.p50_ns)}, p99 {time_text(sample.p99_ns)}"
