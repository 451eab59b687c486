from __future__ import annotations

import errno
import pickle

import pytest

from udev import BindError, BindTimeout, DeviceNotFound, ModuleMissing, UdevError


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (UdevError, errno.EIO),
        (DeviceNotFound, errno.ENODEV),
        (BindError, errno.EIO),
        (BindTimeout, errno.ETIMEDOUT),
        (ModuleMissing, errno.ENOENT),
    ],
)
def test_every_error_is_an_oserror_with_its_errno_and_prints_its_sentence(kind: type[UdevError], code: int) -> None:
    error = kind("disk 5: on fire; fetch water")
    assert isinstance(error, OSError)
    assert isinstance(error, UdevError)
    assert error.errno == code
    assert str(error) == "disk 5: on fire; fetch water"


def test_an_error_keeps_the_errno_of_the_kernel() -> None:
    assert BindError("no", errno.EBUSY).errno == errno.EBUSY


def test_an_error_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(BindError("no", errno.EBUSY)))
    assert (type(copy), str(copy), copy.errno) == (BindError, "no", errno.EBUSY)
