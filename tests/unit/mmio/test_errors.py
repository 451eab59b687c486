"""What an error says, and that it survives being copied to another process."""

from __future__ import annotations

import pickle

import pytest

from mmio import (
    MisalignedAccess,
    MmioError,
    RegionBoundsError,
    RegionClosed,
    RegionGone,
    RegionReadOnly,
    ValueRangeError,
)

ERRORS = [
    (RegionBoundsError(0x1000, 4, 0x1000), "register access of 4 bytes at offset 0x1000 .* 0 to 0xffc"),
    (RegionBoundsError(-4, 8, 4), "offset -0x4 is outside the 0x4 bytes .*: check the size"),
    (MisalignedAccess(2, 4), "offset 0x2 is not aligned to 4 bytes"),
    (MisalignedAccess(4, 8, 4), "offset 0x4 of a region that starts at 0x4 is not aligned to 8"),
    (ValueRangeError(0x100, 1), "value 0x100 does not fit a register of 1 bytes: use 0 to 0xff"),
    (RegionClosed("MappedFile"), "MappedFile is closed: open it again"),
    (RegionGone("MappedFile"), "nothing answers behind MappedFile: the device is gone"),
    (RegionReadOnly("MappedFile"), "MappedFile is mapped read-only: open it with writable=True"),
]


@pytest.mark.parametrize(("error", "text"), ERRORS)
def test_an_error_is_an_mmio_error_with_an_errno_and_a_sentence(error: MmioError, text: str) -> None:
    with pytest.raises(MmioError, match=text):
        raise error
    assert error.errno
    assert isinstance(error, OSError)


@pytest.mark.parametrize("error", [error for error, _ in ERRORS])
def test_an_error_can_be_pickled(error: MmioError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy), copy.errno) == (str(error), vars(error), error.errno)
