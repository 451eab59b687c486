"""A disk under test: opened for one test, looked at before it is written, described for the report."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

import pytest

from hwloop import session
from hwloop.device.block import BlockDevice
from hwloop.device.signature import refuse_data
from hwloop.door.qemu import QemuPlace
from hwloop.errors import DeviceError, HwloopError, IoError, RefusedError, SetupError, Unsupported
from hwloop.owner import Owner
from hwloop.qtest.qmp import QmpClient
from hwloop.spec import BlkFeature, Feature

WRITABLE = "writable"


class DiskUnderTest(Owner):
    """The device of a target. Skips the test when it is no disk; fails it, without our own lines in the report, when
    somebody uses it or the machine lacks something."""

    def __init__(self, target: str) -> None:
        self.target = target
        with ExitStack() as stack:
            try:
                self._place = session.find(target)
                device = stack.enter_context(session.open_place(self._place))
            except Unsupported as error:
                pytest.skip(f"{target}: {error}")
            except (RefusedError, SetupError) as error:
                raise _failure(target, error) from None
            if not isinstance(device, BlockDevice):
                pytest.skip(f"{target} is a {device.device_type().label} device, not a disk")
            self.device = device
            self._resources = stack.pop_all()

    def close(self) -> None:
        self._resources.close()

    def skip_without(self, names: Iterable[str]) -> None:
        """Skip the test unless the disk has what it needs. A name that means nothing fails it."""
        missing = [name for name in names if not self._has(name)]
        if missing:
            pytest.skip(f"{self.target} has not: {', '.join(missing)}")

    def refuse_data(self) -> None:
        """Fail the test if the disk holds what somebody put there."""
        try:
            refuse_data(self.device, self.target)
        except RefusedError as error:
            remedy = f"if nobody needs it: --hwloop-disposable {self.target}"
            raise _failure(self.target, RefusedError(error.problem, remedy=remedy)) from None

    def qmp(self) -> QmpClient:
        """Of the QEMU whose device it is; skips the test where there is none of ours."""
        if not isinstance(self._place, QemuPlace) or self._place.running is None:
            pytest.skip(f"{self.target} has no QMP: only a target of qemu: does")
        return self._place.running.qmp

    def properties(self) -> list[tuple[str, object]]:
        """What a report says of the device: strings, by names for JUnit."""
        transport = getattr(self.device, "transport", None)
        return [
            ("hwloop_target", self.target),
            ("hwloop_device", self.device.device_name()),
            ("hwloop_transport", transport.name if transport is not None else "none"),
            ("hwloop_hal", self.device.hal.name),
            ("hwloop_serial", self._serial()),
            ("hwloop_capacity", str(self.device.size())),
            ("hwloop_features", " ".join(self._features())),
        ]

    def _serial(self) -> str:
        """A device that has none, or refuses to say it, is still to be tested; one that is lost by the question is
        not, and fails the test."""
        try:
            return self.device.device_id()
        except (Unsupported, IoError):
            return ""
        except DeviceError as error:
            raise _failure(self.target, error) from None

    def _features(self) -> tuple[str, ...]:
        """Those that were negotiated, by the specification's names."""
        return self.device.features

    def _has(self, name: str) -> bool:
        if name == WRITABLE:
            return not self.device.readonly()
        return _full_name(name) in self._features()


def _full_name(name: str) -> str:
    """`write-zeroes` as the specification spells it. Fails the test for one that is none."""
    short = name.upper().replace("-", "_")
    if short in BlkFeature.__members__:
        return f"VIRTIO_BLK_F_{short}"
    if short in Feature.__members__:
        return f"VIRTIO_F_{short}"
    known = ", ".join(member.lower() for member in (*BlkFeature.__members__, *Feature.__members__))
    raise pytest.fail.Exception(f"hwloop_needs: {name!r} is no feature; there is: {WRITABLE}, {known}", pytrace=False)


def _failure(target: str, error: HwloopError) -> BaseException:
    return pytest.fail.Exception(f"{target}: {error}", pytrace=False)
