"""A recording played back: the same driver gets the same answers, another one is told where it departs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwloop import session
from hwloop.device.block import BlockDevice
from hwloop.errors import DeviceError, FeaturesRefused, IoError, SetupError
from hwloop.filter.file import BadTrace, Trace
from hwloop.filter.replay import Departed, Script

DATA = bytes(range(256)) * 4


def use(target: str, sector: int = 2, data: bytes = DATA) -> bytes:
    with session.open(target) as disk:
        assert isinstance(disk, BlockDevice)
        disk.write(sector, data)
        disk.flush()
        return disk.read(sector, len(data)) + disk.device_id().encode()


@pytest.fixture
def recording(tmp_path: Path) -> str:
    path = tmp_path / "blk.rec"
    assert use(f"fake:1M?serial=HELLO&filter=record:{path}") == DATA + b"HELLO"
    return str(path)


def test_the_same_driver_gets_the_same_answers(recording: str) -> None:
    for _ in range(2):
        assert use(f"replay:{recording}") == DATA + b"HELLO"


def test_it_is_a_filter_too_and_then_the_device_is_not_asked(recording: str) -> None:
    assert use(f"fake:2M?serial=OTHER&filter=replay:{recording}") == DATA + b"HELLO"


@pytest.mark.parametrize("options", ["packed=on", "packed=on&indirect=off", "indirect=off", "in-order=off&packed=on"])
def test_options_of_rings_are_those_of_the_recording(tmp_path: Path, options: str) -> None:
    path = tmp_path / "blk.rec"
    assert use(f"fake:1M?serial=HELLO&filter=record:{path}&{options}") == DATA + b"HELLO"
    assert use(f"replay:{path}?{options}") == DATA + b"HELLO"
    with pytest.raises(Departed):
        use(f"replay:{path}?ring-reset=on&{options}")


def test_requests_in_flight_together_complete_in_their_order(tmp_path: Path) -> None:
    def run(target: str) -> list[bytes]:
        with session.open(target) as disk:
            assert isinstance(disk, BlockDevice)
            tokens = [disk.submit_read(sector, 512) for sector in range(8)]
            return [disk.wait(token) for token in reversed(tokens)]

    assert run(f"fake:1M?filter=record:{tmp_path / 'r'}") == run(f"replay:{tmp_path / 'r'}")


def test_a_driver_that_reads_elsewhere_departs(recording: str) -> None:
    with pytest.raises(Departed, match=r"queue 0: published 03 00 .* at byte 8, where it was 02 00"):
        use(f"replay:{recording}", sector=3)


def test_a_driver_that_writes_something_else_departs(recording: str) -> None:
    with pytest.raises(Departed, match="at byte 17"):
        use(f"replay:{recording}", data=bytes(1024))


def test_a_driver_that_asks_for_another_length_departs(recording: str) -> None:
    with pytest.raises(Departed, match="528 bytes to read, 1 to write"):
        use(f"replay:{recording}", data=bytes(512))


def test_a_driver_that_goes_on_departs(recording: str) -> None:
    with session.open(f"replay:{recording}") as disk:
        assert isinstance(disk, BlockDevice)
        disk.write(2, DATA)
        with pytest.raises(Departed, match="published"):
            disk.read(0, 512)


def test_other_register_accesses_depart(recording: str) -> None:
    opened = session.find(f"replay:{recording}").open_transport()
    with pytest.raises(Departed, match=r"'features offered 0x0', and event 1 of the recording is 'status := 0'"):
        opened.transport.read_device_features()
    assert opened.transport.get_status() == 0, "from here on it only has to end"


def test_a_recording_of_an_error_raises_it_again(tmp_path: Path) -> None:
    target = f"fake:1M?io-error=1&filter=record:{tmp_path / 'r'}"
    for name in (target, f"replay:{tmp_path / 'r'}"):
        with pytest.raises(IoError, match="I/O error"):
            use(name)


def test_a_recording_of_a_device_that_refuses_features(tmp_path: Path) -> None:
    for name in (f"fake:1M?refuse-features=on&filter=record:{tmp_path / 'r'}", f"replay:{tmp_path / 'r'}"):
        with pytest.raises(FeaturesRefused):
            session.open(name)


def test_a_recording_of_a_device_that_is_gone(tmp_path: Path) -> None:
    errors = []
    for name in (f"fake:1M?gone=on&filter=record:{tmp_path / 'r'}", f"replay:{tmp_path / 'r'}"):
        with pytest.raises(DeviceError) as caught:
            session.open(name)
        errors.append((type(caught.value), caught.value.errno))
    assert errors[0] == errors[1]


def test_a_trace_without_data_is_no_recording(tmp_path: Path) -> None:
    session.open(f"fake:1M?filter=trace:{tmp_path / 't'}").close()
    with pytest.raises(BadTrace, match="has no data"):
        session.open(f"replay:{tmp_path / 't'}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        session.open(f"replay:{tmp_path / 'none'}")


def test_a_recording_that_is_cut_short_ends_in_a_departure(recording: str) -> None:
    raw = Path(recording).read_bytes()
    Path(recording).write_bytes(raw[: len(raw) // 2])
    with pytest.raises((Departed, DeviceError)):
        use(f"replay:{recording}")


def test_a_recording_that_began_and_has_no_device() -> None:
    with pytest.raises(BadTrace, match="ends before its device"):
        Script(Trace({"data": True}, b""))


def test_the_header_says_what_it_is_of(recording: str) -> None:
    header = Trace.read(recording).header
    assert header["target"].startswith("fake:1M")
    assert json.dumps(header)
