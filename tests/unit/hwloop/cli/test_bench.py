"""`hwloop bench`, from the command line to what it prints."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from hwloop.cli.bench_text import time_text
from hwloop.cli.main import run
from hwloop.device.blk_protocol import RequestType
from hwloop.device.fake_rng import FakeRng
from hwloop.hal.fake import FakeHal
from hwloop.spec import BlkFeature
from hwloop.transport.fake_device import MODERN
from tests.unit.hwloop.cli.fake_place import TARGET, put
from tests.unit.hwloop.machine import DISK, Machine, NewMachine

SHORT = ["--requests", "300", "--warm-up", "0"]
FOREVER = ["--time", "3600", "--warm-up", "0"]
LATENCIES = ["min", "mean", "p50", "p90", "p99", "p99_9", "p99_99", "max"]


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    made = new_machine(1 << 20)
    made.disk.data[:] = b"\xaa" * (1 << 20)
    return made


def measured(capfd: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    capfd.readouterr()
    assert run(["bench", *arguments, "--json"]) == status
    found = json.loads(capfd.readouterr().out)
    assert isinstance(found, dict)
    return found


# --- What comes out ---------------------------------------------------------------------------------------------------


def test_json_has_these_keys_and_no_others(capfd: pytest.CaptureFixture[str]) -> None:
    found = measured(capfd, "fake:1M", *SHORT)
    assert list(found) == [
        "schema", "target", "workload", "counted_accesses", "seconds", "ended_by", "requests", "iops",
        "bandwidth_bytes_per_second", "most_in_flight", "latency_us", "reads", "writes", "cost_per_request", "samples",
        "histogram_ns", "notes",
    ]  # fmt: skip
    assert list(found["latency_us"]) == LATENCIES
    assert list(found["reads"]) == list(found["writes"]) == ["requests", "latency_us"]
    assert list(found["samples"]) == ["seconds", "iops", "p50_us", "p99_us"]
    assert list(found["cost_per_request"]) == [
        "notifications", "interrupts", "register_accesses", "bytes_copied", "read_write_syscalls", "context_switches",
        "cpu_us",
    ]  # fmt: skip
    assert list(found["workload"]) == [
        "rw", "block_bytes", "depth", "jobs", "wait", "offset", "size", "read_percent", "seed",
    ]  # fmt: skip


def test_the_figures_agree_with_each_other(capfd: pytest.CaptureFixture[str]) -> None:
    found = measured(capfd, "fake:1M", "--bs", "8k", "--iodepth", "4", *SHORT)
    assert (found["schema"], found["target"], found["requests"]) == (1, "fake:1M", 300)
    assert found["iops"] == pytest.approx(300 / found["seconds"], rel=1e-3)
    assert found["bandwidth_bytes_per_second"] == pytest.approx(8192 * found["iops"])
    assert [found["latency_us"][name] for name in LATENCIES if name != "mean"] == sorted(
        value for name, value in found["latency_us"].items() if name != "mean"
    )
    assert sum(found["histogram_ns"].values()) == 300
    assert (found["reads"]["requests"], found["writes"]["requests"]) == (300, 0)
    assert found["workload"]["size"] == 1 << 20
    assert found["ended_by"] is None


def test_a_run_has_a_sample_an_interval(capfd: pytest.CaptureFixture[str]) -> None:
    samples = measured(capfd, "fake:1M", "--time", "0.2", "--warm-up", "0")["samples"]
    assert samples["seconds"] == 0.05
    assert len(samples["iops"]) == len(samples["p50_us"]) == len(samples["p99_us"]) >= 4


def test_a_person_gets_figures_costs_and_a_histogram(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "fake:1M", "--rw", "randrw", "--iodepth", "2", "--numjobs", "2", *SHORT]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("fake:1M: randrw (50 % reads), 4 KiB, depth 2, 2 jobs, poll, ")
    for pattern in (
        r"^requests +300$", r"^IOPS +[\d,]+", r"^bandwidth +\S+ [KM]iB/s$", r"^latency +min .*, p99\.99 .*, max \d",
        r"^reads +min ", r"^writes +min ", r"^a request +(1|0\.\d+) notifications, 0 interrupts, ",
        r"^ +under \S+ [um]s +[\d.]+%  #+$", r"^note: the device runs in this process",
    ):  # fmt: skip
        assert re.search(pattern, out, re.MULTILINE), pattern
    assert "share" not in out
    assert err == ""


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("svirtb:{folder}/disk.img", "the device has no virtqueues"),
        ("fake:1M?filter=trace:{folder}/trace", "a filter looks at each of them"),
        ("fake:1M?size-max=512&seg-max=32", "4096 bytes are more than one segment of the device (512)"),
    ],
)
def test_where_a_queue_has_no_loop_the_note_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], target: str, why: str
) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    found = measured(capfd, target.format(folder=tmp_path), "--numjobs", "2", *SHORT)
    assert found["requests"] == 300
    assert found["notes"][:2] == [
        f"requests were sent one call each: {why}", "2 threads share one queue, and take turns with it",
    ]  # fmt: skip


def test_each_job_has_a_queue_and_a_device_with_fewer_is_refused(
    new_machine: NewMachine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = new_machine(1 << 20, features=MODERN | BlkFeature.MQ, queues=2)
    assert measured(capfd, DISK, "--numjobs", "2", *SHORT)["requests"] == 300
    assert run(["bench", DISK, "--numjobs", "3", *SHORT]) == 2
    err = capfd.readouterr().err
    assert "the disk cannot have 3 queues in use: the device has 2; ask for fewer" in err
    assert run(["bench", f"{DISK}?queues=1", "--numjobs", "2", *SHORT]) == 2
    assert "open it with queues=2" in capfd.readouterr().err
    assert machine.given_back()


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0 ns"), (512, "512 ns"), (1000, "1.00 us"), (27_130, "27.1 us"), (999_000, "999 us"), (1_250_000, "1.25 ms"),
     (3e9, "3.00 s"), (250e9, "250 s")],
)  # fmt: skip
def test_times_have_three_digits(nanoseconds: float, text: str) -> None:
    assert time_text(nanoseconds) == text


def test_accesses_are_counted_when_asked(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    costs = measured(capfd, DISK, "--count-accesses", *SHORT)["cost_per_request"]
    assert (costs["notifications"], costs["register_accesses"], costs["bytes_copied"]) == (1.0, 1.0, 0.0)
    assert machine.given_back()
    assert measured(capfd, DISK, *SHORT)["cost_per_request"]["register_accesses"] is None


def test_a_terminal_sees_how_far_it_is_and_standard_output_stays_the_same(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert run(["bench", "fake:1M", *SHORT]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("fake:1M: randread")
    assert "randread fake:1M" in err
    assert measured(capfd, "fake:1M", *SHORT)["requests"] == 300
    assert capfd.readouterr().err == ""


# --- Data that is on the disk -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["randwrite", "write", "randrw"])
@pytest.mark.parametrize("target", [DISK, "vda"])
def test_writing_is_refused_before_anything_is_touched(
    machine: Machine, capfd: pytest.CaptureFixture[str], kind: str, target: str
) -> None:
    assert run(["bench", target, "--rw", kind, *SHORT]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{kind} would destroy the data of {target}, everything from byte 0 on; nothing was opened" in err
    assert "--yes-destroy-data" in err
    assert machine.hals == []


@pytest.mark.parametrize("target", ["qemu:{image}", "svirtb:{image}"])
def test_an_image_is_data_too(tmp_path: Path, capfd: pytest.CaptureFixture[str], target: str) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"\xaa" * 65536)
    arguments = ["--rw", "write", "--bs", "512", "--offset", "512", "--size", "4k", *SHORT]
    assert run(["bench", target.format(image=image), *arguments]) == 3
    assert "4096 bytes from byte 512 on" in capfd.readouterr().err
    assert image.read_bytes() == b"\xaa" * 65536


def test_who_says_so_destroys_the_range_and_no_more(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rw", "write", "--offset", "64k", "--size", "64k", "--yes-destroy-data"]
    found = measured(capfd, DISK, *arguments, *SHORT)
    assert found["writes"]["requests"] == 300
    data, first, end = machine.disk.data, 64 << 10, 128 << 10
    assert data[:first] + data[end:] == b"\xaa" * ((1 << 20) - (64 << 10))
    assert b"\xaa" * 512 not in data[first:end]
    assert machine.given_back()


def test_a_fake_disk_is_memory_and_needs_no_promise(capfd: pytest.CaptureFixture[str]) -> None:
    assert measured(capfd, "fake:1M", "--rw", "randwrite", *SHORT)["writes"]["requests"] == 300


def test_reading_writes_nothing_whatever_was_promised(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    measured(capfd, DISK, "--rw", "read", "--yes-destroy-data", *SHORT)
    assert machine.disk.requests == [RequestType.IN] * 300
    assert machine.disk.data == b"\xaa" * (1 << 20)


# --- How it ends ------------------------------------------------------------------------------------------------------


def test_ctrl_c_prints_what_was_measured_and_gives_the_disk_back(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = machine.disk._answer

    def interrupted(*arguments: Any) -> tuple[int, bytes]:
        if len(machine.disk.requests) == 100:
            os.kill(os.getpid(), signal.SIGINT)
        return answer(*arguments)

    machine.disk._answer = interrupted  # type: ignore[method-assign]
    found = measured(capfd, DISK, *FOREVER, status=130)
    assert found["ended_by"] == "SIGINT"
    assert found["requests"] == len(machine.disk.requests) > 100
    assert "ended early by SIGINT" in found["notes"]
    assert machine.given_back()


def test_a_request_that_fails_is_the_error_and_there_are_no_figures(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.disk.blk_faults.io_error = 1
    assert run(["bench", DISK, *FOREVER]) == 4
    out, err = capfd.readouterr()
    assert out == ""
    assert "the device reports an I/O error" in err
    assert machine.given_back()


def test_a_device_that_stops_answering_ends_it(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    machine.disk.faults.drop = True
    assert run(["bench", DISK, *FOREVER]) == 5
    assert capfd.readouterr().err.startswith("hwloop: ")
    assert machine.given_back()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--wait", "irq"], "no interrupt"),
        (["--bs", "100"], "a request cannot have 100 bytes"),
        (["--bs", "4M"], "up to 2097152"),
        (["--offset", "1M"], "do not hold one request"),
        (["--size", "2M"], "end behind the disk"),
        (["--time", "0"], "cannot measure for 0 seconds"),
        (["--time", "nan"], "cannot measure for nan seconds"),
        (["--time", "inf"], "cannot measure for inf seconds"),
        (["--warm-up", "-1"], "cannot warm up for -1 seconds"),
        (["--rw", "trim"], "Invalid value for '--rw'"),
        (["--iodepth", "0"], "Invalid value for '--iodepth'"),
        (["--numjobs", "0"], "Invalid value for '--numjobs'"),
        (["--rwmixread", "101"], "Invalid value for '--rwmixread'"),
        (["--wait", "no"], "Invalid value for '--wait'"),
        (["--bs", "x"], "is not a size"),
    ],
)
def test_wrong_arguments_are_status_2_and_say_what_is_wrong(
    machine: Machine, capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["bench", DISK, *SHORT, *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert words in err
    assert machine.disk.requests == []
    assert machine.given_back()


@pytest.mark.parametrize("counted", [[], ["--count-accesses"]])
def test_what_is_no_disk_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], counted: list[str]
) -> None:
    device = FakeRng(FakeHal())
    put(device, monkeypatch)
    assert run(["bench", TARGET, *counted, *SHORT]) == 2
    assert "hwloop list" in capfd.readouterr().err
    assert device.hal.leaks() == []


# --- Against an older result ------------------------------------------------------------------------------------------


def saved(tmp_path: Path, found: dict[str, Any], factor: float = 1.0) -> str:
    """A result with steady samples: `factor` times what it says."""
    samples = {"seconds": 1.0} | {figure: [factor * 1000.0] * 10 for figure in ("iops", "p50_us", "p99_us")}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(found | {"samples": samples}))
    return str(path)


def test_a_comparison_is_in_the_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old = saved(tmp_path, measured(capfd, "fake:1M", *SHORT))
    comparison = measured(capfd, "fake:1M", *SHORT, "--compare", old)["comparison"]
    assert (comparison["old_target"], comparison["differences"]) == ("fake:1M", [])
    assert {entry["figure"]: entry["verdict"] for entry in comparison["verdicts"]} == dict.fromkeys(
        ["iops", "p50_us", "p99_us"], "too few samples to tell"
    )


def test_a_person_gets_both_and_a_verdict(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The old samples are so far off that no machine's noise reaches them."""
    old = saved(tmp_path, measured(capfd, "fake:1M", *SHORT), 1e9)
    assert run(["bench", "fake:1M", "--time", "0.6", "--warm-up", "0", "--compare", old]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "against fake:1M, medians and the middle half of the samples:" in lines
    assert [line.split()[-1] for line in lines if line.startswith(("iops", "p50_us", "p99_us"))] == [
        "worse", "better", "better",
    ]  # fmt: skip


def test_another_workload_gets_no_verdict(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old = saved(tmp_path, measured(capfd, "fake:1M", *SHORT))
    assert run(["bench", "fake:1M", "--iodepth", "2", *SHORT, "--compare", old]) == 0
    out = capfd.readouterr().out
    assert "note: another workload: depth was 1, and is 2" in out
    assert "not comparable" in out


@pytest.mark.parametrize(("content", "status"), [(None, 6), ("{}", 2)])
def test_an_old_result_that_is_none_is_found_before_the_disk_is_taken(
    machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str | None, status: int
) -> None:
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    assert run(["bench", DISK, *SHORT, "--compare", str(path)]) == status
    assert "old.json" in capfd.readouterr().err
    assert machine.hals == []
