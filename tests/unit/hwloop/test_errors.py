"""What an error says: an errno, an exit status, and a sentence with its remedy."""

from __future__ import annotations

import errno
import inspect
import pickle

import pytest

from hwloop import errors
from hwloop.errors import (
    DeadlineExpired,
    DeviceError,
    DriverError,
    HwloopError,
    InvalidParam,
    IoError,
    QueueFull,
    exit_code_of,
)
from hwloop.signals import Interrupted

EXPECTED = {
    "DriverError": (errno.EINVAL, 2),
    "InvalidParam": (errno.EINVAL, 2),
    "NotReady": (errno.EAGAIN, 2),
    "WrongToken": (errno.EINVAL, 2),
    "AlreadyUsed": (errno.EBUSY, 3),
    "Unsupported": (errno.EOPNOTSUPP, 2),
    "ReadOnlyDisk": (errno.EROFS, 2),
    "DeviceClosed": (errno.EBADF, 2),
    "DeviceError": (errno.EIO, 4),
    "ConfigSpaceMissing": (errno.EIO, 4),
    "ConfigSpaceTooSmall": (errno.EIO, 4),
    "IoError": (errno.EIO, 4),
    "TransportError": (errno.ENODEV, 4),
    "FeaturesRefused": (errno.EOPNOTSUPP, 4),
    "QueueBroken": (errno.EIO, 4),
    "Mismatch": (errno.EILSEQ, 1),
    "DeviceChanged": (errno.ESTALE, 5),
    "DeviceLost": (errno.ENODEV, 5),
    "SetupError": (errno.ENODEV, 6),
    "DmaError": (errno.ENOMEM, 6),
    "RefusedError": (errno.EBUSY, 3),
    "HwloopError": (errno.EIO, 6),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_error_has_its_errno_and_its_exit_status(name: str) -> None:
    error = getattr(errors, name)("the disk is odd")
    assert isinstance(error, OSError)
    assert (error.errno, exit_code_of(error)) == EXPECTED[name]
    assert str(error) == "the disk is odd"


def test_every_error_of_the_module_is_in_the_table() -> None:
    own = {name for name, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, HwloopError)}
    assert own - {"QueueFull", "DeadlineExpired", "SocketDeviceError"} == set(EXPECTED)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("QueueFull", "Virtqueue is full"),
        ("NotReady", "Device not ready"),
        ("WrongToken", "Device used a different descriptor chain to the one we were expecting"),
        ("AlreadyUsed", "Virtqueue is already in use"),
        ("InvalidParam", "Invalid parameter"),
        ("DmaError", "Failed to allocate DMA memory"),
        ("IoError", "I/O error"),
        ("Unsupported", "Request not supported by device"),
        ("ConfigSpaceTooSmall", "Config space advertised by the device is smaller than expected"),
        ("ConfigSpaceMissing", "The device doesn't have any config space, but the driver expects some"),
    ],
)
def test_an_error_without_a_sentence_of_its_own_has_the_words_of_seed_004(name: str, text: str) -> None:
    assert getattr(errors, name)().problem == text
    assert str(getattr(errors, name)("the disk is odd")).startswith("the disk is odd")


def test_an_error_of_the_socket_device_says_whose_it_is() -> None:
    error = errors.SocketDeviceError("not connected")
    assert error.problem.startswith("Error from the socket device: not connected")
    assert (error.reason, exit_code_of(error)) == ("not connected", 4)


def test_a_full_queue_has_the_text_of_the_seeds() -> None:
    assert str(QueueFull()) == "Virtqueue is full; complete a request first"
    assert QueueFull().errno == errno.EAGAIN


def test_the_remedy_comes_behind_the_problem_and_can_be_had_alone() -> None:
    error = InvalidParam("5 is no size", remedy="write 4k")
    assert str(error) == error.strerror == "5 is no size; write 4k"
    assert (error.problem, error.remedy) == ("5 is no size", "write 4k")


def test_an_error_of_the_device_names_the_section() -> None:
    error = IoError("it is broken", section="2.7.8", remedy="replace it")
    assert str(error) == "it is broken (VIRTIO 1.4, 2.7.8); replace it"
    assert error.section == "2.7.8"


def test_a_deadline_says_what_was_waited_for_and_how_long() -> None:
    error = DeadlineExpired("the reset", 2.5)
    assert str(error) == "timed out after 2.5 s waiting for the reset"
    assert (error.waited_for, error.seconds, error.errno) == ("the reset", 2.5, errno.ETIMEDOUT)
    assert exit_code_of(error) == 5


def test_whose_fault_it_is_shows_in_the_family() -> None:
    assert not issubclass(DriverError, DeviceError)
    assert issubclass(errors.QueueBroken, DeviceError)
    assert issubclass(errors.WrongToken, DriverError)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FileNotFoundError(), 6),
        (ValueError(), 2),
        (RuntimeError(), 6),
        (Interrupted(15), 143),
        (Interrupted(2), 130),
    ],
)
def test_other_errors_have_an_exit_status_too(error: BaseException, status: int) -> None:
    assert exit_code_of(error) == status


@pytest.mark.parametrize(
    "error",
    [
        InvalidParam("5 is no size", remedy="write 4k"),
        IoError("it is broken", section="2.7.8", errno=errno.ENOSPC, remedy="replace it"),
        DeadlineExpired("the reset", 2.5, remedy="unplug it", section="3.1"),
        QueueFull(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: HwloopError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.errno, copy.remedy) == (str(error), error.errno, error.remedy)
    assert vars(copy) == vars(error)
