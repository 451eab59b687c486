"""The interrupts of a PCI function through VFIO: each is an eventfd that the kernel writes.

Linux, drivers/vfio/pci/vfio_pci_intrs.c. The kernel programs and enables the function's MSI-X when it is given the
first eventfd, so a driver never writes the table. A function has one kind at a time: INTx, MSI or MSI-X.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Callable
from contextlib import ExitStack, suppress

from hwloop.errors import AlreadyUsed, DeviceLost, InvalidParam, SetupError
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.eventfd_interrupt import new_eventfd, take_events
from hwloop.hal.interrupt import Interrupt
from hwloop.owner import Owner

_KINDS = {vfio.PCI_INTX: "intx", vfio.PCI_MSI: "msi", vfio.PCI_MSIX: "msix"}
_LINES = (vfio.PCI_MSI, vfio.PCI_INTX)
"""What is the one interrupt of a function without vectors: a message needs no unmasking after each."""


class VfioInterrupts(Owner):
    """All interrupts of the function behind the descriptor `device`, which stays the caller's.

    Constructing it asks the kernel to tell of two things: that the function met an error, and that its driver should
    let go of it (an orderly unplug). Where it tells of neither, nothing is amiss.
    """

    def __init__(self, device: int, name: str) -> None:
        self._device = device
        self._name = name
        self._enabled = 0
        self._open: dict[tuple[int, int], VfioInterrupt] = {}
        with ExitStack() as stack:
            self._resources = stack
            self._error = self._notice(vfio.PCI_ERR)
            self._request = self._notice(vfio.PCI_REQ)
            self._resources = stack.pop_all()

    def vectors(self, wanted: int) -> int:
        """Turn MSI-X on with so many vectors, or as many as there are; returns how many, 0 for none.

        The kernel (before 6.5) cannot add vectors later, so all are taken at once. Vectors that are on stay.
        """
        if not self._enabled:
            self._enabled = self._enable(min(wanted, self._count(vfio.PCI_MSIX)))
        return min(wanted, self._enabled)

    def vector(self, number: int) -> VfioInterrupt | None:
        """MSI-X vector `number`; None where the function has no MSI-X. Raises InvalidParam, AlreadyUsed, SetupError."""
        count = self.vectors(self._count(vfio.PCI_MSIX))
        if not count:
            return None
        if not 0 <= number < count:
            raise InvalidParam(f"{self._name} has no MSI-X vector {number}", remedy=f"it has 0 to {count - 1}")
        return self._opened(vfio.PCI_MSIX, number)

    def line(self) -> VfioInterrupt | None:
        """The one interrupt of a function that uses no vectors: MSI, or INTx. None where there is neither.

        Raises AlreadyUsed while it or vectors are in use, SetupError when the kernel has no such interrupt.
        """
        if any(index == vfio.PCI_MSIX for index, _ in self._open):
            raise AlreadyUsed(f"{self._name} uses its MSI-X vectors, and has no line meanwhile")
        self._disable_vectors()
        index = next((index for index in _LINES if self._count(index)), None)
        return None if index is None else self._opened(index, 0)

    @property
    def removal_requested(self) -> bool:
        """Whether somebody wants the function back since it was opened: an orderly unplug waits for us."""
        return _is_set(self._request)

    def check(self) -> None:
        """Raises DeviceLost when the kernel has told of an error of the function."""
        if _is_set(self._error):
            raise DeviceLost(f"{self._name} met an error on its bus (AER)", remedy="see: dmesg; open it again")

    @property
    def request_fd(self) -> int | None:
        """Readable while `removal_requested`; nobody must read from it."""
        return self._request

    def close(self) -> None:
        """Turn all of them off. Idempotent."""
        with ExitStack() as steps:
            steps.callback(self._resources.close)
            steps.callback(self._disable_vectors)
            for line in list(self._open.values()):
                steps.callback(line.close)
        self._error = self._request = None

    # --- Private ------------------------------------------------------------------------------------------------------

    def _count(self, index: int) -> int:
        """How many of a kind there are that an eventfd can tell of."""
        try:
            info = vfio.irq_info(self._device, index)
        except OSError:
            return 0  # The kernel knows no such kind.
        return info.count if info.flags & vfio.IRQ_EVENTFD else 0

    def _enable(self, count: int) -> int:
        """Returns how many vectors the machine had for us: all, fewer, or none."""
        while count and (possible := self._try_to_enable(count)) != count:
            count = min(possible, count - 1)
        return count

    def _try_to_enable(self, count: int) -> int:
        """`count` when that worked, else how many may work."""
        try:
            fewer = vfio.set_irq_eventfds(self._device, vfio.PCI_MSIX, 0, [vfio.NO_EVENTFD] * count)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EINVAL, errno.ENOMEM):
                raise SetupError.refused(f"MSI-X of {self._name} cannot be turned on", error) from error
            return count // 2
        return fewer or count

    def _disable_vectors(self) -> None:
        enabled, self._enabled = self._enabled, 0
        if enabled:
            with suppress(OSError):  # the function is gone
                vfio.disable_irqs(self._device, vfio.PCI_MSIX)

    def _opened(self, index: int, number: int) -> VfioInterrupt:
        if (index, number) in self._open:
            what = f"MSI-X vector {number}" if index == vfio.PCI_MSIX else "the interrupt"
            raise AlreadyUsed(f"{what} of {self._name} is in use already")
        line = VfioInterrupt(self._device, index, number, self._name, lambda: self._forget(index, number))
        self._open[index, number] = line
        return line

    def _forget(self, index: int, number: int) -> None:
        del self._open[index, number]
        if index == vfio.PCI_MSIX and not any(kind == index for kind, _ in self._open):
            self._disable_vectors()

    def _notice(self, index: int) -> int | None:
        """The eventfd of what the kernel tells seldom; None where it does not."""
        if not self._count(index):
            return None
        eventfd = new_eventfd(self._resources)
        try:
            vfio.set_irq_eventfds(self._device, index, 0, [eventfd])
        except OSError:
            return None
        return eventfd


class VfioInterrupt(Interrupt):
    """One interrupt of a function: a vector of MSI-X, MSI, or INTx, whose line the kernel masks until `rearm`.

    Raises SetupError when the kernel does not give it out.
    """

    def __init__(self, device: int, index: int, number: int, name: str, forget: Callable[[], None]) -> None:
        self.kind = _KINDS[index]
        self.needs_ack = index != vfio.PCI_MSIX
        self._device, self._index, self._number = device, index, number
        self._forget: Callable[[], None] | None = forget
        self._resources = ExitStack()
        self._eventfd = new_eventfd(self._resources)
        self._poll = select.poll()
        self._poll.register(self._eventfd, select.POLLIN)
        try:
            self._tell(self._eventfd)
        except OSError as error:
            self._resources.close()
            raise SetupError.refused(f"{self.kind} of {name} cannot be had", error, remedy="poll instead") from error

    def fileno(self) -> int:
        return self._eventfd

    def wait(self, seconds: float) -> bool:
        return self._forget is not None and bool(self._poll.poll(max(0.0, seconds) * 1000)) and self.take()

    def take(self) -> bool:
        return self._forget is not None and take_events(self._eventfd)

    def rearm(self) -> None:
        """Unmask INTx: one that was raised meanwhile shows in the next `wait`. The others were never masked."""
        if self._index == vfio.PCI_INTX and self._forget is not None:
            vfio.mask_irq(self._device, self._index, on=False)

    def mask(self) -> None:
        if self._index == vfio.PCI_INTX:
            vfio.mask_irq(self._device, self._index, on=True)
        else:
            # The kernel masks no messages on demand: it frees the interrupt instead.
            self._tell(vfio.NO_EVENTFD)

    def unmask(self) -> None:
        if self._index == vfio.PCI_INTX:
            self.rearm()
        else:
            self._tell(self._eventfd)

    def close(self) -> None:
        forget, self._forget = self._forget, None
        if forget is None:
            return
        with self._resources, suppress(OSError):  # the function is gone
            if self._index == vfio.PCI_MSIX:
                self._tell(vfio.NO_EVENTFD)
            else:
                vfio.disable_irqs(self._device, self._index)
        forget()

    def _tell(self, eventfd: int) -> None:
        vfio.set_irq_eventfds(self._device, self._index, self._number, [eventfd])


def _is_set(eventfd: int | None) -> bool:
    """Whether there is something in an eventfd, which stays there."""
    if eventfd is None:
        return False
    look = select.poll()
    look.register(eventfd, select.POLLIN)
    return bool(look.poll(0))
