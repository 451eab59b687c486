"""Memory, registers and interrupts of a machine that runs in QEMU and is driven through its qtest server.

QEMU's devices are what they are for a guest; only the processor is halted, and we do what it would. A device address is
a guest-physical address.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hwloop.errors import AlreadyUsed, DeadlineExpired, DeviceLost, InvalidParam
from hwloop.hal.arena import Arena
from hwloop.hal.base import BounceHal, BufferDirection, pages_for
from hwloop.hal.interrupt import Interrupt
from hwloop.hal.qtest_interrupt import LineInterrupt, MessageInterrupt, Wiring
from hwloop.qtest.client import QtestClient
from hwloop.qtest.ram import GuestRam
from hwloop.qtest.region import QtestMemory, QtestPorts
from hwloop.spec import PAGE_SIZE
from pci import MsixTable, enable_msix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmio import Region
    from pci import BarInfo, ConfigSpace, MsixInfo

_ENTRY_BYTES = 16
_WORD_BYTES = 4
_MESSAGE = 1
"""What a vector writes: anything but 0."""


class QtestHal(BounceHal):
    """The HAL of one device. `client` and `ram` belong to the machine, and stay open when this is closed.

    `wiring` says where the device's line goes; `ports_at` where I/O ports are in memory, None where the processor has
    its own. A PCI function is named with `use_function`, which brings its MSI-X vectors.
    """

    name = "qtest"

    def __init__(
        self, client: QtestClient, ram: GuestRam, wiring: Wiring | None = None, *, ports_at: int | None = None
    ) -> None:
        super().__init__()
        self._client = client
        self._ram = ram
        self._wiring = wiring
        self._ports_at = ports_at
        self._function: tuple[ConfigSpace, Mapping[int, BarInfo]] | None = None
        self._messages: Arena | None = None
        self._vectors: dict[int, MessageInterrupt] = {}

    def use_function(self, config: ConfigSpace, bars: Mapping[int, BarInfo]) -> None:
        """The device is this PCI function."""
        self._function = config, bars

    def mmio_phys_to_virt(self, paddr: int, size: int, *, hot: bool = False) -> Region:
        return QtestMemory(self._client, paddr, size)

    def port_region(self, port: int, size: int) -> Region:
        if self._ports_at is not None:
            return QtestMemory(self._client, self._ports_at + port, size)
        return QtestPorts(self._client, port, size)

    def interrupt(self, vector: int | None = None) -> Interrupt | None:
        """The device's line, or an MSI-X vector: None where the machine or the function has none.

        Raises InvalidParam for a vector that the function does not have, AlreadyUsed for one in use, CapabilityError
        for a table that is not where the function has memory, QtestError.
        """
        if vector is None:
            return LineInterrupt(self._client, self._wiring) if self._wiring is not None else None
        if self._function is None:
            return None
        config, bars = self._function
        msix = config.read_msix()
        return self._open_vector(vector, config, bars, msix) if msix is not None else None

    def vectors(self, wanted: int) -> int:
        msix = self._function[0].read_msix() if self._function is not None else None
        return min(wanted, msix.table_size) if msix is not None else 0

    def release_memory(self) -> None:
        for line in list(self._vectors.values()):
            line.close()
        messages, self._messages = self._messages, None
        if messages is not None and not self._quarantined:
            self._ram.release(messages)
        super().release_memory()

    def _new_arena(self, size: int, direction: BufferDirection) -> Arena:
        return self._ram.allocate(size)

    def _free_arena(self, arena: Arena) -> None:
        self._ram.release(arena)

    # --- MSI-X --------------------------------------------------------------------------------------------------------

    def _open_vector(
        self, vector: int, config: ConfigSpace, bars: Mapping[int, BarInfo], msix: MsixInfo
    ) -> MessageInterrupt:
        if not 0 <= vector < msix.table_size:
            raise InvalidParam(f"{config} has no MSI-X vector {vector}", remedy=f"it has 0 to {msix.table_size - 1}")
        if vector in self._vectors:
            raise AlreadyUsed(f"MSI-X vector {vector} of {config} is in use already")
        registers = QtestMemory(self._client, msix.table_address(bars), msix.table_size * _ENTRY_BYTES)
        table = MsixTable(registers, msix.table_size)
        messages, offset = self._message_memory(msix), vector * _WORD_BYTES
        line = MessageInterrupt(messages.vaddr + offset, lambda: self._close_vector(vector, table))
        table.set(vector, messages.iova + offset, _MESSAGE)
        enable_msix(config)
        table.unmask(vector)
        self._vectors[vector] = line
        return line

    def _message_memory(self, msix: MsixInfo) -> Arena:
        if self._messages is None:
            self._messages = self._ram.allocate(pages_for(msix.table_size * _WORD_BYTES) * PAGE_SIZE)
        return self._messages

    def _close_vector(self, vector: int, table: MsixTable) -> None:
        del self._vectors[vector]
        with suppress(DeviceLost, DeadlineExpired):
            table.mask(vector)
