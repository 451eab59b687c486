"""The machines that a guest can be: what QEMU is told, and what is built for the processor. One entry a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwloop.vm.errors import BadOption


@dataclass(frozen=True)
class Arch:
    """A processor: Debian's name for it, and the names that compilers and Python packages use."""

    debian: str
    kernel_package: str
    triplet: str
    """Of the compiler and of library folders, as in `usr/lib/TRIPLET`."""
    wheel_platforms: tuple[str, ...]
    """Platform tags of wheels that its C library can run."""
    compiler: str
    qemu: str
    machine: str
    """As the kernel calls it (`uname -m`)."""
    loader: str
    """The program that starts dynamic programs, below the root."""


@dataclass(frozen=True)
class Machine:
    """One kind of guest. The arguments leave the disks out."""

    name: str
    arch: Arch
    arguments: tuple[str, ...]
    """The machine, its firmware and its IOMMU, before any device that hangs behind that IOMMU."""
    kernel_words: str
    """Kernel command line."""
    modules: tuple[str, ...]
    """Loaded before the command runs; everything else on demand."""
    disk_bus_slots: range
    """Slots of the root bus for disks that name no place; the first disk gets the first."""
    share_slot: str
    """Where the 9p device of `--share` goes, out of the disks' way."""

    def channel(self, frames_fd: int, console_fd: int) -> list[str]:
        """The kernel console, and the port that the command's output comes through (guest/agent.c).

        Neither is on the PCI bus, so the guest sees no device but the user's. QEMU opens the inherited pipes anew.
        """
        return [
            *("-chardev", f"file,id=console,path=/proc/self/fd/{console_fd}", "-serial", "chardev:console"),
            *("-chardev", f"file,id=frames,path=/proc/self/fd/{frames_fd}"),
            *("-device", "isa-debugcon,iobase=0xe9,chardev=frames"),
        ]

    def share(self, folder: str) -> list[str]:
        """A folder of the host as 9p, read-write."""
        path = folder.replace(",", ",,")
        return [
            *("-fsdev", f"local,id=share,path={path},security_model=none,multidevs=remap"),
            *("-device", f"virtio-9p-pci,fsdev=share,mount_tag=share,addr={self.share_slot}"),
        ]


AMD64 = Arch(
    debian="amd64",
    kernel_package="linux-image-amd64",
    triplet="x86_64-linux-gnu",
    wheel_platforms=("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64", "any"),
    compiler="gcc",
    qemu="qemu-system-x86_64",
    machine="x86_64",
    loader="usr/lib64/ld-linux-x86-64.so.2",
)

Q35 = Machine(
    name="q35",
    arch=AMD64,
    arguments=(
        *("-machine", "q35", "-cpu", "max"),
        # Starts the kernel without SeaBIOS, which takes a second and leaves virtio queues live: with an iothread and
        # the IOMMU, QEMU 7.2 aborts on those.
        *("-bios", "qboot.rom"),
        # Before the disks: QEMU puts only devices that come later behind it.
        *("-device", "intel-iommu,intremap=on,caching-mode=on"),
    ),
    # panic=-1 with -no-reboot: a panic ends QEMU at once. Huge pages: memory for DMA with known physical addresses.
    kernel_words="console=ttyS0 quiet panic=-1 intel_iommu=on hugepages=32",
    modules=("virtio_pci", "virtio_blk"),
    disk_bus_slots=range(0x05, 0x1E),
    share_slot="1e.0",
)

MACHINES = {machine.name: machine for machine in (Q35,)}


def machine(name: str) -> Machine:
    """The machine of this name. Raises BadOption that lists what there is."""
    if name not in MACHINES:
        raise BadOption(f"machine {name!r} is unknown", remedy=f"known are: {', '.join(MACHINES)}")
    return MACHINES[name]


def common_arguments(memory: str, processors: int, accel: str) -> Sequence[str]:
    """What every machine gets: no device that was not asked for, no window, and an end where it would restart."""
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"),
        *("-accel", "tcg,thread=multi" if accel == "tcg" else accel),
        *("-m", memory, "-smp", str(processors)),
    ]
