"""The machines that QEMU can be, as far as a driver without a guest has to know them. To add one: a line in `MACHINES`.

Nothing runs in them: the processor gets firmware that halts at once.
"""

from __future__ import annotations

from dataclasses import dataclass

_PC_FIRMWARE_BYTES = 1 << 16
_RESET_VECTOR = 0xFFF0
# cli; hlt; jmp to the hlt.
_X86_HALT = b"\xfa\xf4\xeb\xfd"
# wfi; b to the wfi.
_ARM_HALT = bytes.fromhex("7f2003d5ffffff17")

_PC_FIRMWARE = (bytes(_RESET_VECTOR) + _X86_HALT).ljust(_PC_FIRMWARE_BYTES, b"\xf4")


@dataclass(frozen=True)
class Slots:
    """Register windows of virtio-mmio: `count` of them from `address` on, one every `step` bytes. Slot i has the input
    `first_line + i` of the interrupt controller, which is number `controller_index` of the QOM type `controller`."""

    address: int
    step: int
    count: int
    controller: str
    controller_index: int
    first_line: int

    def addresses(self) -> range:
        return range(self.address, self.address + self.count * self.step, self.step)

    def line(self, address: int) -> int:
        """The interrupt line of the slot at this address."""
        return self.first_line + (address - self.address) // self.step


@dataclass(frozen=True)
class PciHost:
    """A PCI host bridge that no firmware has set up: `memory` and `io` are the ranges that BARs may have. INTx arrives
    at the inputs `lines` of the interrupt controller of the QOM type `controller`; `controller_has_name`: of that name.

    Configuration space is at `ecam`, or None: behind the two I/O ports of a PC. I/O ports are memory from `ports_at`
    on, or None: the processor's own.
    """

    memory: range
    io: range
    controller: str
    lines: frozenset[int]
    ecam: range | None = None
    ports_at: int | None = None
    controller_has_name: bool = True


@dataclass(frozen=True)
class MachineType:
    """`program` of the Debian package `package`, with `options` behind `-M board`; RAM from `ram_base` on. A machine
    has a PCI host or slots, or both and we use one of them."""

    name: str
    board: str
    program: str
    package: str
    options: tuple[str, ...]
    arguments: tuple[str, ...]
    firmware: bytes
    ram_base: int
    pci: PciHost | None = None
    slots: Slots | None = None


_X86 = ("qemu-system-x86_64", "qemu-system-x86")
_ARM = ("qemu-system-aarch64", "qemu-system-arm")

MACHINES = {
    machine.name: machine
    for machine in (
        MachineType(
            "q35", "q35", *_X86, ("sata=off", "smbus=off"), (), _PC_FIRMWARE, 0,
            # Behind all RAM that we give it, and in front of the I/O APIC.
            pci=PciHost(range(0xE000_0000, 0xFE00_0000), range(0xC000, 0x1_0000), "ioapic", frozenset(range(16, 24))),
        ),
        MachineType(
            "microvm", "microvm", *_X86, (), (), _PC_FIRMWARE, 0,
            slots=Slots(0xFEB0_0000, 0x200, 24, "ioapic", 1, 0),
        ),
        MachineType(
            "virt", "virt", *_ARM, (), ("-cpu", "cortex-a57"), _ARM_HALT, 0x4000_0000,
            slots=Slots(0x0A00_0000, 0x200, 32, "arm_gic", 0, 16),
        ),
        MachineType(
            # With high memory, the place of configuration space would depend on how much memory there is.
            "virt-pci", "virt", *_ARM, ("highmem=off",), ("-cpu", "cortex-a57"), _ARM_HALT, 0x4000_0000,
            pci=PciHost(
                range(0x1000_0000, 0x3EFF_0000), range(0x1000, 0x1_0000), "arm_gic", frozenset(range(3, 7)),
                ecam=range(0x3F00_0000, 0x4000_0000), ports_at=0x3EFF_0000, controller_has_name=False,
            ),
        ),
    )
}  # fmt: skip
