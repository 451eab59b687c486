from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.timing import SLACK
from udev import BindTimeout, DeviceNotFound, Sysfs, UdevError, helper


@pytest.fixture
def attribute(tmp_path: Path) -> Path:
    path = tmp_path / "attribute"
    path.write_text("old\n")
    return path


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Path]:
    """A file whose opening never returns: a FIFO with nobody at its other end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    other_end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.close(other_end)


def test_importing_udev_loads_neither_pyudev_nor_subprocess() -> None:
    probe = "import sys, udev; print([name for name in ('pyudev', 'subprocess', 'ctypes') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", probe], text=True).strip() == "[]"


def test_a_number_is_read_in_the_base_it_is_written_in(tmp_path: Path) -> None:
    (tmp_path / "hex").write_text("0x1af4\n")
    (tmp_path / "dec").write_text("20480\n")
    sysfs = Sysfs(tmp_path)
    assert (sysfs.read_int(tmp_path / "hex"), sysfs.read_int(tmp_path / "dec")) == (0x1AF4, 20480)


def test_an_attribute_that_is_no_number_is_named_with_its_text(attribute: Path) -> None:
    with pytest.raises(UdevError, match="attribute: expected a number, found 'old'"):
        Sysfs().read_int(attribute)


def test_an_absent_attribute_is_a_device_not_found_or_none(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path)
    with pytest.raises(DeviceNotFound, match="cannot read it"):
        sysfs.read(tmp_path / "absent")
    assert sysfs.read_optional(tmp_path / "absent") is None
    assert sysfs.read_link(tmp_path / "absent") is None
    assert sysfs.read_names(tmp_path / "absent") == []


@pytest.mark.parametrize("seconds", [None, 20.0])
def test_a_write_stores_the_whole_value(attribute: Path, seconds: float | None) -> None:
    attribute.write_text("")
    Sysfs().write(attribute, "0000:00:05.0", seconds)
    assert attribute.read_text() == "0000:00:05.0"


def test_a_write_makes_exactly_one_write_call(attribute: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = os.write

    def count(fd: int, data: bytes) -> int:
        calls.append(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", count)
    Sysfs().write(attribute, "value")
    assert calls == [b"value"]


def test_a_short_write_is_an_error_and_is_not_continued(attribute: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda fd, data: 2)
    with pytest.raises(UdevError, match="took 2 of 5 bytes"):
        Sysfs().write(attribute, "value")


@pytest.mark.parametrize("seconds", [None, 20.0])
def test_a_write_never_creates_the_attribute(tmp_path: Path, seconds: float | None) -> None:
    with pytest.raises(DeviceNotFound):
        Sysfs().write(tmp_path / "absent", "value", seconds)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("seconds", [None, 20.0])
def test_a_refusal_of_the_kernel_keeps_its_errno_and_says_to_be_root(seconds: float | None) -> None:
    path = Path("/sys/kernel/uevent_seqnum")  # read-only for root, too
    if not path.exists():
        pytest.skip("no sysfs here")
    with pytest.raises(UdevError, match="run as root") as caught:
        Sysfs().write(path, "1", seconds)
    assert caught.value.errno == errno.EACCES


def test_a_write_that_never_returns_is_left_behind_at_the_deadline(endless: Path) -> None:
    start = time.monotonic()
    with pytest.raises(BindTimeout, match=r"not finished after 0\.3 s") as caught:
        Sysfs().write(endless, "value", 0.3)
    assert time.monotonic() - start < SLACK
    assert caught.value.errno == errno.ETIMEDOUT


def test_a_child_that_was_left_behind_is_reaped_by_a_later_call(endless: Path, attribute: Path) -> None:
    with pytest.raises(BindTimeout):
        Sysfs().write(endless, "value", 0.2)
    left = helper._abandoned[-1]
    left.wait(10)
    Sysfs().write(attribute, "value", 20)
    assert left not in helper._abandoned


def test_nothing_is_started_when_the_deadline_has_passed(attribute: Path) -> None:
    with pytest.raises(BindTimeout, match="not started"):
        Sysfs().write(attribute, "new", 0)
    assert attribute.read_text() == "old\n"


def test_a_helper_that_cannot_run_is_not_taken_for_a_refusal(attribute: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UdevError, match=r"helper process .* failed with exit code 1"):
        Sysfs().write(attribute, "value", 20)


def test_a_read_that_never_returns_ends_at_the_deadline(endless: Path) -> None:
    with pytest.raises(BindTimeout, match=r"not readable for 0\.3 s"):
        Sysfs().read_within(endless, 0.3)


def test_a_bounded_read_returns_the_text_or_the_typed_error(attribute: Path, tmp_path: Path) -> None:
    assert Sysfs().read_within(attribute, 20) == "old"
    with pytest.raises(DeviceNotFound):
        Sysfs().read_within(tmp_path / "absent", 20)


def test_a_read_that_blocks_does_not_keep_the_others_from_being_read(
    attribute: Path, endless: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    answers = Sysfs().read_all_within([attribute, empty, endless, tmp_path / "absent", attribute], 1.5)
    assert [answer if isinstance(answer, str) else type(answer) for answer in answers] == [
        "old",
        "",
        BindTimeout,
        DeviceNotFound,
        "old",
    ]


@pytest.mark.parametrize("program", ["/bin/false", "/bin/true"])
def test_a_reader_that_cannot_run_is_an_error_and_not_an_endless_retry(
    attribute: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(UdevError, match="helper process that reads it failed"):
        Sysfs().read_within(attribute, 20)


@pytest.mark.parametrize(
    "address", ["", "00:05.0", "0000:00:05.8", "0000:00:20.0", "0000:00:05.0\n", "../../../etc", "0000:00:0A.0"]
)
def test_a_malformed_address_never_becomes_a_path(address: str) -> None:
    with pytest.raises(UdevError, match="not of the form") as caught:
        Sysfs().pci_device(address)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("name", ["", "..", "a/b", "-r", "a\nb", "(busy)"])
def test_a_malformed_driver_name_never_becomes_a_path(name: str) -> None:
    with pytest.raises(UdevError, match="not a name the kernel uses"):
        Sysfs().pci_driver(name)


def test_paths_are_those_of_the_kernel() -> None:
    sysfs = Sysfs()
    assert str(sysfs.pci_device("10000:e1:1f.7")) == "/sys/bus/pci/devices/10000:e1:1f.7"
    assert str(sysfs.pci_driver("virtio-pci")) == "/sys/bus/pci/drivers/virtio-pci"
    assert str(sysfs.drivers_probe()) == "/sys/bus/pci/drivers_probe"
    assert str(sysfs.device("LNRO0005:00", "platform")) == "/sys/bus/platform/devices/LNRO0005:00"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A child that does not go before the test does."""
    helper._end_idle()
    monkeypatch.setattr(helper, "_IDLE_SECONDS", 60)
    yield
    helper._end_idle()


@pytest.fixture(params=["interpreter", "fork"])
def start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to have a child."""
    helper._end_idle()
    monkeypatch.setattr(helper, "_start", helper._start)  # so that it is put back
    if request.param == "fork":
        monkeypatch.setattr(helper, "_start", helper._Fork)


@pytest.mark.parametrize(("threads", "kind"), [(0, "_Fork"), (1, "Popen")])
def test_only_a_process_of_one_thread_is_forked(attribute: Path, threads: int, kind: str) -> None:
    program = f"""
import threading
from pathlib import Path
from udev import Sysfs, helper
ends = threading.Event()
for _ in range({threads}):
    threading.Thread(target=ends.wait, daemon=True).start()
helper.start_by_fork()
print(Sysfs().read_within(Path({str(attribute)!r}), 20), *(type(child.process).__name__ for child in helper._idle))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == f"old {kind}\n"


@pytest.mark.usefixtures("patient", "start")
def test_one_child_does_what_is_asked_in_a_row(attribute: Path) -> None:
    sysfs, pids = Sysfs(), set()
    for value in ("one", "two"):
        sysfs.write(attribute, value, 20)
        assert sysfs.read_within(attribute, 20) == value
        (child,) = helper._idle
        pids.add(child.process.pid)
    assert len(pids) == 1


@pytest.mark.usefixtures("start")
def test_a_child_that_has_ended_meanwhile_is_not_asked(attribute: Path) -> None:
    helper._end_idle()
    assert Sysfs().read_within(attribute, 20) == "old"
    first = helper._idle[-1].process
    assert first.stdout is not None
    select.select([first.stdout], [], [], 20)  # its last word
    Sysfs().write(attribute, "new", 20)
    assert attribute.read_text() == "new\n"
    assert helper._idle[-1].process.pid != first.pid
    assert first.returncode == 0


@pytest.mark.usefixtures("start")
def test_a_child_of_ours_has_nothing_open_but_its_pipes_and_is_left_behind_at_the_deadline(
    attribute: Path, endless: Path
) -> None:
    with open(attribute) as mine:
        os.set_inheritable(mine.fileno(), True)
        with pytest.raises(BindTimeout, match=r"not finished after 0\.3 s"):
            Sysfs().write(endless, "value", 0.3)
    left = helper._abandoned[-1]
    with suppress(FileNotFoundError):  # it may have gone already
        assert {int(fd) for fd in os.listdir(f"/proc/{left.pid}/fd")} <= {0, 1, 2}
    left.wait()
    with pytest.raises(DeviceNotFound):
        Sysfs().read_within(attribute.with_name("absent"), 20)
    Sysfs().write(attribute, "new", 20)
    assert attribute.read_text() == "new\n"


@pytest.mark.usefixtures("patient", "start")
def test_a_child_that_was_killed_is_an_error_and_is_not_asked_again(attribute: Path) -> None:
    assert Sysfs().read_within(attribute, 20) == "old"
    helper._idle[-1].process.kill()
    helper._idle[-1].process.wait()
    with pytest.raises(UdevError, match=r"helper process that writes it failed with exit code -9"):
        Sysfs().write(attribute, "new", 20)
    Sysfs().write(attribute, "new", 20)
    assert attribute.read_text() == "new\n"


@pytest.mark.usefixtures("patient")
def test_a_forked_child_of_ours_has_helpers_of_its_own(attribute: Path) -> None:
    assert Sysfs().read_within(attribute, 20) == "old"
    pid = os.fork()
    if pid == 0:
        os._exit(len(helper._idle))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert helper._idle
