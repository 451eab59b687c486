"""The configuration space of one function: registers of 8, 16 and 32 bits, and what they mean."""

from __future__ import annotations

from pci import bar, capability, header, msix
from pci.access import ConfigAccess, check_access, check_value
from pci.header import COMMAND_OFFSET, STATUS_OFFSET, Command, Status


class ConfigSpace:
    """The configuration space behind `access`, which stays the caller's to close.

    Every access is checked to be aligned and inside before it is made; each is one access of its width. All methods
    raise ConfigAccessError: EINVAL for the caller's mistake, or what the access raises.
    """

    def __init__(self, access: ConfigAccess) -> None:
        self._access = access

    def __str__(self) -> str:
        return str(self._access)

    @property
    def size(self) -> int:
        """Bytes of configuration space there are: 0x100 or 0x1000, less for a part of one."""
        return self._access.size

    def read8(self, offset: int) -> int:
        return self._read(offset, 1)

    def read16(self, offset: int) -> int:
        return self._read(offset, 2)

    def read32(self, offset: int) -> int:
        return self._read(offset, 4)

    def write8(self, offset: int, value: int) -> None:
        self._write(offset, 1, value)

    def write16(self, offset: int, value: int) -> None:
        self._write(offset, 2, value)

    def write32(self, offset: int, value: int) -> None:
        self._write(offset, 4, value)

    def read_info(self) -> header.DeviceFunctionInfo:
        """Who the function is. Raises ConfigAccessError: ENODEV when none answers."""
        return header.read_info(self)

    def read_command(self) -> Command:
        return Command(self.read16(COMMAND_OFFSET))

    def write_command(self, command: Command) -> None:
        # 16 bits and no more: the status register is beside it, and ones written there clear errors.
        self.write16(COMMAND_OFFSET, int(command))

    def read_status(self) -> Status:
        return Status(self.read16(STATUS_OFFSET))

    def set_command_bits(self, set: Command, clear: Command) -> Command:  # noqa: A002
        """Set some bits of the command register and clear others (a bit in both is set); returns what it was before.

        Nothing is written when nothing changes.
        """
        before = self.read_command()
        after = before.without(clear) | set
        if after != before:
            self.write_command(after)
        return before

    def capabilities(self) -> capability.CapabilityIterator:
        """Raises CapabilityError, while the list is taken, where it is broken."""
        return capability.CapabilityIterator(self)

    def extended_capabilities(self) -> capability.ExtendedCapabilityIterator:
        """Raises CapabilityError, while the list is taken, where it is broken."""
        return capability.ExtendedCapabilityIterator(self)

    def find_capability(self, id: int) -> capability.CapabilityInfo | None:  # noqa: A002
        """The first capability of that id, or None. Raises CapabilityError when the list breaks off before."""
        return next((found for found in self.capabilities() if found.id == id), None)

    def find_extended_capability(self, id: int) -> capability.ExtendedCapabilityInfo | None:  # noqa: A002
        """The first extended capability of that id, or None. Raises CapabilityError when the list breaks off before."""
        return next((found for found in self.extended_capabilities() if found.id == id), None)

    def read_bars(self) -> dict[int, bar.BarInfo]:
        """The BARs by index, sized by writing to them: only for a function that is yours (see `pci.bar`).

        Raises InvalidBarType.
        """
        return bar.read_bars(self)

    def read_msix(self) -> msix.MsixInfo | None:
        """The MSI-X capability, or None. Raises CapabilityError."""
        return msix.read_msix(self)

    def read_raw(self, size: int | None = None) -> bytes:
        """The first `size` bytes (a multiple of 4), or all, by reads of 32 bits."""
        count = self.size if size is None else size
        return b"".join(self.read32(offset).to_bytes(4, "little") for offset in range(0, count, 4))

    def _read(self, offset: int, width: int) -> int:
        check_access(self._access, offset, width)
        return self._access.read(offset, width)

    def _write(self, offset: int, width: int, value: int) -> None:
        check_access(self._access, offset, width)
        check_value(self._access, width, value)
        self._access.write(offset, width, value)
