"""What is the same on every transport: the order of initialisation, the reset, consistent configuration."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwloop.errors import DeadlineExpired, DeviceError, DeviceLost, FeaturesRefused, IoError
from hwloop.hal.fake import FakeHal
from hwloop.spec import PAGE_SIZE, BlkFeature, DeviceStatus, DeviceType, Feature
from hwloop.transport.fake import FakeTransport
from hwloop.transport.fake_device import FakeDevice
from tests.timing import SLACK

OFFERED = Feature.VERSION_1 | Feature.ACCESS_PLATFORM | BlkFeature.FLUSH | BlkFeature.RO
LIVE = DeviceStatus(15)


class Traced(FakeTransport):
    """Writes down the steps, in the words of seed 001."""

    def __init__(self, features: int = OFFERED, *, legacy: bool = False) -> None:
        super().__init__(FakeDevice(FakeHal(), DeviceType.Block, features, [64], bytes(8)))
        self.steps: list[str] = []
        self._legacy = legacy

    def set_status(self, status: DeviceStatus) -> None:
        self.steps.append(f"status {int(status)}")
        super().set_status(status)

    def prepare_dma(self) -> None:
        self.steps.append("dma")
        super().prepare_dma()

    def read_device_features(self) -> int:
        self.steps.append("read features")
        return super().read_device_features()

    def write_driver_features(self, driver_features: int) -> None:
        self.steps.append(f"write features {driver_features:#x}")
        super().write_driver_features(driver_features)

    def set_guest_page_size(self, guest_page_size: int) -> None:
        self.steps.append(f"page size {guest_page_size}")

    def requires_legacy_layout(self) -> bool:
        return self._legacy


# --- Initialisation ---------------------------------------------------------------------------------------------------


def test_initialisation_takes_the_steps_of_the_specification_in_order() -> None:
    transport = Traced()
    assert transport.begin_init(Feature.VERSION_1 | BlkFeature.FLUSH) == Feature.VERSION_1 | BlkFeature.FLUSH
    transport.finish_init()
    assert transport.steps == [
        "status 0",
        "dma",
        "status 1",
        "status 3",
        "read features",
        "write features 0x100000200",
        "status 11",
        f"page size {PAGE_SIZE}",
        "status 15",
    ]


def test_a_legacy_device_has_no_features_ok_step() -> None:
    """VIRTIO 1.4, 3.1.2; the fake is modern, and would call it a skipped step."""
    transport = Traced(BlkFeature.FLUSH, legacy=True)
    assert transport.begin_init(Feature.VERSION_1 | BlkFeature.FLUSH) == BlkFeature.FLUSH
    assert transport.steps[-3:] == ["read features", "write features 0x200", f"page size {PAGE_SIZE}"]


def test_any_layout_of_a_legacy_device_is_accepted_though_no_driver_lists_it() -> None:
    """VIRTIO 1.4, 6.3; a modern device has no such bit, and gets nothing that its driver does not know."""
    offered = BlkFeature.FLUSH | Feature.ANY_LAYOUT
    assert Traced(offered, legacy=True).begin_init(BlkFeature.FLUSH) == offered
    assert Traced(OFFERED | Feature.ANY_LAYOUT).begin_init(OFFERED) == OFFERED
    assert Traced(offered, legacy=True).begin_init(lambda bits: bits & BlkFeature.FLUSH) == BlkFeature.FLUSH


def test_only_features_that_both_sides_know_are_negotiated() -> None:
    transport = Traced((1 << 64) - 1)
    supported = Feature.VERSION_1 | BlkFeature.FLUSH
    assert transport.begin_init(supported) == supported == transport.negotiated
    assert transport.device.driver_features == supported


def test_a_function_may_choose_as_in_seed_000() -> None:
    transport = Traced()
    seen = []

    def choose(offered: int) -> int:
        seen.append(offered)
        return offered & ~BlkFeature.RO

    assert transport.begin_init(choose) == OFFERED & ~BlkFeature.RO
    assert seen == [OFFERED]


def test_what_is_offered_is_logged_by_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "hwloop.transport"):
        Traced().begin_init(OFFERED)
    assert "VIRTIO_BLK_F_FLUSH" in caplog.text
    assert caplog.records[0].levelname == "DEBUG"


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_no_pair_of_feature_sets_makes_us_accept_what_is_not_offered(offered: int, supported: int) -> None:
    transport = Traced(offered | Feature.VERSION_1)
    negotiated = transport.begin_init(supported | Feature.VERSION_1)
    assert negotiated & ~(offered | Feature.VERSION_1) == 0
    assert negotiated == (offered & supported) | Feature.VERSION_1


def fails(transport: Traced, choice: int | Callable[[int], int], kind: type[BaseException], words: str) -> None:
    with pytest.raises(kind, match=words):
        transport.begin_init(choice)
    assert transport.device.status & DeviceStatus.FAILED
    assert [step for step in transport.steps if step.startswith("status")][-1].startswith("status 1"), "128 and more"
    written = len(transport.steps)
    transport.fail()
    assert len(transport.steps) == written, "FAILED is not written twice"


def test_a_driver_that_withholds_version_1_is_told_so_in_the_seeds_words() -> None:
    words = "^Driver must accept VIRTIO_F_VERSION_1 in supported features because it is offered by the device\\.$"
    fails(Traced(), BlkFeature.FLUSH, AssertionError, words)
    fails(Traced(), lambda offered: BlkFeature.FLUSH, AssertionError, words)


def test_a_device_that_withholds_version_1_is_refused() -> None:
    fails(Traced(BlkFeature.FLUSH), Feature.VERSION_1, FeaturesRefused, r"does not offer VIRTIO_F_VERSION_1 .*6\.2")


def test_a_driver_that_chooses_what_is_not_offered_is_stopped_before_it_is_written() -> None:
    transport = Traced()
    fails(transport, lambda offered: offered | BlkFeature.ZONED, FeaturesRefused, "VIRTIO_BLK_F_ZONED")
    assert not any(step.startswith("write features") for step in transport.steps)


@pytest.mark.fault(5)
def test_features_that_the_device_refuses_end_in_failed() -> None:
    transport = Traced()
    transport.device.faults.refuse_features = True
    fails(transport, OFFERED, FeaturesRefused, r"VIRTIO_BLK_F_RO.*of those it offers \(0x300000220\)")


def test_a_device_that_failed_is_reset_before_it_is_tried_again() -> None:
    transport = Traced()
    transport.device.faults.refuse_features = True
    with pytest.raises(FeaturesRefused):
        transport.begin_init(OFFERED)
    transport.device.faults.refuse_features = False
    transport.steps.clear()
    transport.begin_init(OFFERED)
    assert transport.steps[0] == "status 0"


def test_a_device_that_needs_a_reset_at_once_is_not_ready() -> None:
    transport = Traced()
    transport.begin_init(OFFERED)
    transport.device.faults.ignore_driver_ok = True
    with pytest.raises(DeviceLost, match=r"its status is DeviceStatus\(ACKNOWLEDGE \| DRIVER \| FEATURES_OK\)"):
        transport.finish_init()


def test_an_unplugged_device_is_lost_and_not_a_set_of_features() -> None:
    transport = Traced()
    transport.device.faults.gone = True
    with pytest.raises(DeviceLost, match="unplugged"):
        transport.begin_init(OFFERED)


# --- Reset ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault(4)
def test_a_slow_reset_is_waited_for_with_nothing_but_reads_of_the_status() -> None:
    transport = Traced()
    transport.device.status = LIVE
    transport.device.faults.reset_reads = 20
    transport.reset()
    assert transport.steps == ["status 0"]
    assert transport.device.status == 0
    assert not transport.reset_pending


@pytest.mark.fault(3)
def test_a_reset_that_never_ends_is_given_up_and_remembered() -> None:
    transport = Traced()
    transport.device.status = LIVE
    transport.device.faults.reset_reads = -1
    began = time.monotonic()
    with pytest.raises(DeadlineExpired, match=r"0\.05 s waiting for the device to finish its reset \(status 0\)"):
        transport.reset(0.05)
    assert time.monotonic() - began < SLACK
    assert transport.reset_pending
    transport.fail()
    assert transport.steps == ["status 0"], "nothing is written into a reset"


def test_a_reset_that_works_later_is_over() -> None:
    transport = Traced()
    transport.device.status = LIVE
    transport.device.faults.reset_reads = -1
    with pytest.raises(DeadlineExpired):
        transport.reset(0.01)
    transport.device.faults.reset_reads = 0
    transport.reset(0.01)
    assert not transport.reset_pending


# --- Consistent configuration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("races", [0, 1, 2, 3, 50])
def test_a_configuration_that_changes_under_us_is_read_again(races: int) -> None:
    transport = Traced()
    transport.device.faults.generation_steps = races
    reads = []

    def read() -> tuple[int, int]:
        reads.append(transport.device.generation)
        return transport.read_config_space(0, 4), transport.device.generation

    _, generation = transport.read_consistent(read)
    assert generation == transport.device.generation, "the result is of one generation"
    assert reads[-1] == transport.device.generation


@pytest.mark.fault(12)
def test_a_torn_value_is_never_returned() -> None:
    transport = Traced()
    device = transport.device

    def read() -> int:
        low = transport.read_config_space(0, 4)
        if device.generation == 0:
            device.config[:] = b"\xff" * 8
            device.generation = 1
        return low | transport.read_config_space(4, 4) << 32

    assert transport.read_consistent(read) == (1 << 64) - 1


@pytest.mark.fault(13)
def test_a_configuration_that_never_settles_is_given_up() -> None:
    transport = Traced()
    transport.device.faults.generation_steps = -1
    began = time.monotonic()
    with pytest.raises(DeviceError, match=r"configuration of the device did not stop changing .*2\.5\.3") as caught:
        transport.read_consistent(lambda: 1, 0.05)
    assert caught.value.errno == errno.EIO
    assert 0.05 <= time.monotonic() - began < SLACK


def test_an_error_of_the_reader_is_raised_once_the_generation_is_stable() -> None:
    transport = Traced()
    transport.device.faults.generation_steps = 3
    calls = []

    def read() -> int:
        calls.append(1)
        raise IoError(f"attempt {len(calls)}")

    with pytest.raises(IoError, match="attempt 2"):
        transport.read_consistent(read)


def without_generation() -> Traced:
    transport = Traced()
    transport.has_config_generation = False
    transport.device.faults.generation_steps = -1
    return transport


@pytest.mark.fault(12)
def test_without_a_generation_two_reads_in_a_row_must_agree() -> None:
    """VIRTIO 1.4, 2.5.4; the generation is not even read."""
    values = iter([1, 2, 3, 3, 4])
    assert without_generation().read_consistent(lambda: next(values)) == 3


def test_without_a_generation_an_error_is_believed_when_it_comes_twice() -> None:
    calls: list[int] = []

    def read() -> int:
        calls.append(1)
        if len(calls) in (1, 3, 4):
            raise IoError(f"attempt {len(calls)}")
        return 5

    with pytest.raises(IoError, match="attempt 4"):
        without_generation().read_consistent(read)


def test_none_is_a_result_like_any_other() -> None:
    assert Traced().read_consistent(lambda: None) is None


def test_the_generation_wraps() -> None:
    transport = Traced()
    transport.device.generation = 255
    transport.device.faults.generation_steps = 1
    assert transport.read_consistent(lambda: transport.device.generation) == 0


def test_a_transport_is_closed_by_its_with() -> None:
    with Traced() as transport:
        assert not transport.closed
    assert transport.closed
