from __future__ import annotations

import errno
import pickle

import pytest

from pci import CapabilityError, ConfigAccessError, DeviceFunction, InvalidBarType, PciError


def test_the_text_is_subject_problem_value_and_remedy() -> None:
    error = PciError("0000:00:05.0", "the widget is bent", 0x2A, "straighten it")

    assert str(error) == "0000:00:05.0: the widget is bent (0x2a); straighten it"
    assert (error.subject, error.problem, error.value, error.remedy) == (
        "0000:00:05.0",
        "the widget is bent",
        "0x2a",
        "straighten it",
    )


def test_value_and_remedy_may_be_missing() -> None:
    assert str(PciError("it", "is bent")) == "it: is bent"
    assert str(PciError("it", "is bent", "very")) == "it: is bent (very)"


def test_a_value_of_zero_is_shown() -> None:
    assert str(PciError("it", "is", 0)) == "it: is (0x0)"


def test_the_subject_may_be_anything_that_has_a_text() -> None:
    assert PciError(DeviceFunction(0, 5, 0), "is gone").subject == "0000:00:05.0"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (PciError, errno.EINVAL),
        (ConfigAccessError, errno.EINVAL),
        (InvalidBarType, errno.EIO),
        (CapabilityError, errno.EIO),
    ],
)
def test_every_type_is_an_os_error_with_an_errno_of_its_own(kind: type[PciError], code: int) -> None:
    error = kind("it", "is bent")

    assert isinstance(error, OSError)
    assert isinstance(error, PciError)
    assert error.errno == code


@pytest.mark.parametrize("kind", [PciError, InvalidBarType, ConfigAccessError, CapabilityError])
def test_errors_survive_pickling_with_the_errno_they_were_given(kind: type[PciError]) -> None:
    error = kind("it", "is bent", 7, "mend it", code=errno.ENODEV)

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert (str(copy), copy.errno, copy.value) == (str(error), errno.ENODEV, "0x7")
