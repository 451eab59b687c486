"""The interrupts of a function through VFIO, over a kernel that refuses what the real one does."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Iterator

import pytest

from hwloop.errors import AlreadyUsed, DeviceLost, InvalidParam, SetupError
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.vfio_interrupt import VfioInterrupt, VfioInterrupts
from tests.unit.hwloop.hal.irq_kernel import IrqKernel

DEVICE = 1000
"""A descriptor that only the model looks at."""

Opening = Callable[..., tuple[VfioInterrupts, IrqKernel]]


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opening]:
    opened: list[VfioInterrupts] = []

    def make(available: int = 64, **counts: int) -> tuple[VfioInterrupts, IrqKernel]:
        kernel = IrqKernel(available, **counts)
        monkeypatch.setattr(vfio, "ioctl", kernel.ioctl)
        opened.append(VfioInterrupts(DEVICE, "the disk"))
        return opened[-1], kernel

    before = sorted(os.listdir("/proc/self/fd"))
    yield make
    for interrupts in opened:
        interrupts.close()
        interrupts.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def vector(interrupts: VfioInterrupts, number: int) -> VfioInterrupt:
    line = interrupts.vector(number)
    assert line is not None
    return line


def line_of(interrupts: VfioInterrupts) -> VfioInterrupt:
    line = interrupts.line()
    assert line is not None
    return line


# --- MSI-X ------------------------------------------------------------------------------------------------------------


def test_each_vector_tells_of_its_own_events(opening: Opening) -> None:
    interrupts, kernel = opening(msix=3)
    assert interrupts.vectors(64) == 3
    lines = [vector(interrupts, number) for number in range(3)]
    kernel.fire(vfio.PCI_MSIX, 1)
    assert [line.wait(0) for line in lines] == [False, True, False]
    assert [line.take() for line in lines] == [False] * 3
    assert [(line.kind, line.needs_ack) for line in lines] == [("msix", False)] * 3


def test_all_vectors_are_taken_at_once_since_the_kernel_may_not_add_any_later(opening: Opening) -> None:
    interrupts, kernel = opening(msix=9)
    assert interrupts.vectors(5) == 5
    assert interrupts.vectors(9) == 5, "those that are on stay"
    vector(interrupts, 4)
    assert kernel.calls[-2:] == ["msix 0+5", "msix 4+1"]
    with pytest.raises(InvalidParam, match=r"no MSI-X vector 5; it has 0 to 4"):
        interrupts.vector(5)


@pytest.mark.fault(36, over="vfio")
def test_fewer_vectors_are_had_where_the_machine_has_fewer(opening: Opening) -> None:
    interrupts, _ = opening(available=2, msix=8)
    assert interrupts.vectors(8) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOMEM])
def test_a_machine_without_any_vector_left_has_none(opening: Opening, code: int) -> None:
    interrupts, kernel = opening(msix=8)
    kernel.fail[vfio.PCI_MSIX] = code
    assert interrupts.vectors(8) == 0
    assert interrupts.vector(0) is None


def test_a_function_without_msix_has_no_vectors(opening: Opening) -> None:
    interrupts, _ = opening(msix=0)
    assert (interrupts.vectors(8), interrupts.vector(0)) == (0, None)


def test_an_error_that_says_nothing_of_numbers_is_told(opening: Opening) -> None:
    interrupts, kernel = opening()
    kernel.fail[vfio.PCI_MSIX] = errno.EPERM
    with pytest.raises(SetupError, match="MSI-X of the disk cannot be turned on: Operation not permitted"):
        interrupts.vectors(1)


def test_a_vector_has_one_user_and_msix_is_off_with_the_last_of_them(opening: Opening) -> None:
    interrupts, kernel = opening(msix=2)
    first, second = vector(interrupts, 0), vector(interrupts, 1)
    with pytest.raises(AlreadyUsed, match="MSI-X vector 0 of the disk"):
        interrupts.vector(0)
    first.close()
    first.close()
    assert not kernel.fire(vfio.PCI_MSIX, 0)
    assert kernel.enabled == vfio.PCI_MSIX
    second.close()
    assert kernel.enabled is None
    assert not second.wait(0)


def test_a_vector_that_is_masked_is_silent_and_then_heard_again(opening: Opening) -> None:
    interrupts, kernel = opening()
    line = vector(interrupts, 0)
    line.mask()
    assert not kernel.fire(vfio.PCI_MSIX, 0)
    line.unmask()
    assert kernel.fire(vfio.PCI_MSIX, 0)
    assert line.take()


def test_a_vector_is_selected_by_its_descriptor(opening: Opening) -> None:
    interrupts, kernel = opening()
    line = vector(interrupts, 0)
    assert select.select([line.fileno()], [], [], 0)[0] == []
    kernel.fire(vfio.PCI_MSIX, 0)
    assert select.select([line.fileno()], [], [], 0)[0] == [line.fileno()]
    assert line.take()
    assert select.select([line.fileno()], [], [], 0)[0] == []


# --- The line ---------------------------------------------------------------------------------------------------------


def test_intx_is_masked_by_the_kernel_until_it_is_armed_again(opening: Opening) -> None:
    interrupts, kernel = opening()
    line = line_of(interrupts)
    assert (line.kind, line.needs_ack) == ("intx", True)
    kernel.fire(vfio.PCI_INTX)
    assert line.wait(0)
    assert kernel.masked
    kernel.lower()
    line.rearm()
    assert not line.wait(0)
    kernel.fire(vfio.PCI_INTX)
    assert line.wait(0)


def test_a_line_that_is_armed_while_it_is_raised_is_heard_again(opening: Opening) -> None:
    interrupts, kernel = opening()
    line = line_of(interrupts)
    kernel.fire(vfio.PCI_INTX)
    assert line.wait(0)
    line.rearm()
    assert line.wait(0)


def test_a_line_that_is_masked_is_heard_when_it_is_unmasked(opening: Opening) -> None:
    interrupts, kernel = opening()
    line = line_of(interrupts)
    line.mask()
    assert not kernel.fire(vfio.PCI_INTX)
    assert not line.wait(0)
    line.unmask()
    assert line.wait(0)


def test_msi_is_the_line_of_a_function_that_has_it(opening: Opening) -> None:
    interrupts, kernel = opening(msi=4)
    line = line_of(interrupts)
    assert (line.kind, line.needs_ack) == ("msi", True)
    for _ in range(2):
        kernel.fire(vfio.PCI_MSI)
        assert line.wait(0)
        line.rearm()
    line.close()
    assert kernel.enabled is None


def test_a_function_without_a_line_has_none(opening: Opening) -> None:
    interrupts, _ = opening(intx=0)
    assert interrupts.line() is None


def test_a_line_that_the_kernel_cannot_give_is_an_error_with_its_reason(opening: Opening) -> None:
    interrupts, kernel = opening()
    kernel.fail[vfio.PCI_INTX] = errno.ENODEV
    with pytest.raises(SetupError, match="intx of the disk cannot be had: No such device; poll instead"):
        interrupts.line()


def test_the_line_and_vectors_are_not_had_at_once(opening: Opening) -> None:
    interrupts, kernel = opening()
    one = vector(interrupts, 0)
    with pytest.raises(AlreadyUsed, match="uses its MSI-X vectors"):
        interrupts.line()
    one.close()
    assert line_of(interrupts).kind == "intx"
    assert kernel.enabled == vfio.PCI_INTX


def test_vectors_that_nobody_opened_make_room_for_the_line(opening: Opening) -> None:
    interrupts, kernel = opening()
    interrupts.vectors(3)
    assert kernel.enabled == vfio.PCI_MSIX
    line_of(interrupts)
    assert kernel.enabled == vfio.PCI_INTX


# --- What is told seldom ----------------------------------------------------------------------------------------------


def test_somebody_who_wants_the_function_back_is_heard_and_stays_heard(opening: Opening) -> None:
    interrupts, kernel = opening()
    assert not interrupts.removal_requested
    kernel.fire(vfio.PCI_REQ)
    assert interrupts.removal_requested
    assert interrupts.removal_requested


def test_an_error_of_the_bus_is_the_end_of_the_device(opening: Opening) -> None:
    interrupts, kernel = opening()
    interrupts.check()
    kernel.fire(vfio.PCI_ERR)
    with pytest.raises(DeviceLost, match="the disk met an error on its bus"):
        interrupts.check()


def test_a_kernel_that_tells_of_neither_is_no_error(opening: Opening) -> None:
    interrupts, _ = opening(err=0, req=0)
    interrupts.check()
    assert not interrupts.removal_requested


def test_everything_is_off_after_the_end(opening: Opening) -> None:
    interrupts, kernel = opening()
    line = vector(interrupts, 0)
    interrupts.close()
    assert kernel.enabled is None
    assert not line.wait(0)
    assert not interrupts.removal_requested
