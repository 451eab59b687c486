"""The machines that a guest can be: what QEMU is told, and what is built for the processor. One entry a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hwloop.vm import tsc
from hwloop.vm.bus import Bus, MmioBus, PciBus
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
class Kernel:
    """A kernel that is not the suite's own, and what a guest has only with it."""

    name: str
    """Its version as the command line gives it."""
    suite: str
    """Where the kernel's package comes from; everything else stays the suite's own."""
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    """Kept in the image beside those of `rules.MODULES`."""
    drop: tuple[str, ...]
    """As `rules.DROP`: what those packages bring and nobody needs here."""
    processor: str
    """QEMU's `-cpu` where the machine is a PC."""


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
    bus: Bus
    """Where its virtio devices are."""
    frames: tuple[str, ...]
    """The device that guest/agent.c sends the command's output through; it writes to the chardev `frames`."""
    needs_tsc: bool = False
    """Whether the kernel has nothing to measure the time stamp counter with, and must be told how fast it is."""
    kernel: Kernel | None = None
    """None: the suite's own."""

    def channel(self, frames_fd: int, console_fd: int) -> list[str]:
        """The kernel console, and the port that the command's output comes through (guest/agent.c).

        Neither is a virtio device, so the guest sees none but the user's. QEMU opens the inherited pipes anew.
        """
        return [
            *("-chardev", f"file,id=console,path=/proc/self/fd/{console_fd}", "-serial", "chardev:console"),
            *("-chardev", f"file,id=frames,path=/proc/self/fd/{frames_fd}"),
            *self.frames,
        ]

    def share(self, folder: str) -> list[str]:
        """A folder of the host as 9p, read-write. Raises BadOption for a machine that cannot have one."""
        path = folder.replace(",", ",,")
        place = "".join(f",{key}={value}" for key, value in self.bus.share.items())
        return [
            *("-fsdev", f"local,id=share,path={path},security_model=none,multidevs=remap"),
            *("-device", f"virtio-9p-{self.bus.suffix},fsdev=share,mount_tag=share{place}"),
        ]

    def command_line(self, append: str) -> str:
        """Words for the kernel, `append` behind its own."""
        clock = f"tsc_early_khz={tsc.frequency_khz()}" if self.needs_tsc else ""
        return " ".join(word for word in (self.kernel_words, clock, append) if word)


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

ARM64 = Arch(
    debian="arm64",
    kernel_package="linux-image-arm64",  # the smaller linux-image-cloud-arm64 has no 9p, which --share needs
    triplet="aarch64-linux-gnu",
    wheel_platforms=("manylinux_2_34_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64", "any"),
    compiler="aarch64-linux-gnu-gcc",
    qemu="qemu-system-aarch64",
    machine="aarch64",
    loader="usr/lib/ld-linux-aarch64.so.1",
)

_DEBUG_PORT = ("-device", "isa-debugcon,iobase=0xe9,chardev=frames")

# A kernel that sees "enhanced rep movsb" copies with that instruction alone, which emulation does a byte at a time.
# Without it, the guest boots in two thirds of the time and copies files three times as fast.
_PROCESSOR = "max,-erms"

# panic=-1 with -no-reboot: a panic ends QEMU at once.
_WORDS = "quiet panic=-1"
# The kernel of a PC looks whether its timer interrupts, and panics when a busy host gives it no tick in that moment.
# One that knows it is a guest of KVM does not look either.
_PC_WORDS = f"{_WORDS} no_timer_check"

Q35 = Machine(
    name="q35",
    arch=AMD64,
    arguments=(
        *("-machine", "q35", "-cpu", _PROCESSOR),
        # Starts the kernel without SeaBIOS, which takes a second and leaves virtio queues live: with an iothread and
        # the IOMMU, QEMU 7.2 aborts on those.
        *("-bios", "qboot.rom"),
        # Before the disks: QEMU puts only devices that come later behind it.
        *("-device", "intel-iommu,intremap=on,caching-mode=on"),
    ),
    # Huge pages: memory for DMA with known physical addresses.
    kernel_words=f"console=ttyS0 {_PC_WORDS} intel_iommu=on hugepages=32",
    modules=("virtio_pci", "virtio_blk"),
    bus=PciBus(range(0x05, 0x1E), share_slot=0x1E),
    frames=_DEBUG_PORT,
)

MICROVM = Machine(
    name="microvm",
    arch=AMD64,
    # With ACPI the kernel finds the devices (LNRO0005) and binds its driver to them, as on an ARM machine.
    arguments=("-machine", "microvm,acpi=on", "-cpu", _PROCESSOR),
    # reboot=t: a triple fault; there is no keyboard controller whose reset line could do it.
    kernel_words=f"console=ttyS0 {_PC_WORDS} reboot=t hugepages=16",
    modules=("virtio_mmio", "virtio_blk"),
    # From the last on, as ACPI's table has them. Without slot 0: its interrupt goes to pin 0 of the second IOAPIC, and
    # QEMU sends pin 0 to pin 2, as is right for the first one.
    bus=MmioBus(0xFEB00000, range(23, 0, -1)),
    frames=_DEBUG_PORT,
    # ACPI's reduced hardware has no timer that the kernel would measure the counter with.
    needs_tsc=True,
)

MICROVM_NOACPI = Machine(
    name="microvm-noacpi",
    arch=AMD64,
    # The devices are on the kernel's command line only, where QEMU writes them; Debian's kernel does not look there.
    arguments=("-machine", "microvm,acpi=off,pit=on,pic=on,rtc=on", "-cpu", _PROCESSOR),
    kernel_words=MICROVM.kernel_words,
    modules=("virtio_mmio", "virtio_blk"),
    bus=MmioBus(0xFEB00000, range(8), can_share=False),
    frames=_DEBUG_PORT,
)

VIRT = Machine(
    name="virt",
    arch=ARM64,
    arguments=("-machine", "virt", "-cpu", "cortex-a57"),
    kernel_words=f"console=ttyAMA0 {_WORDS} hugepages=16",
    modules=("virtio_mmio", "virtio_blk"),
    bus=MmioBus(0x0A000000, range(32)),
    # This machine has one UART, which is the console, and no ISA ports. Semihosting could be faster, but through it a
    # program in the guest can open files of the host. A UART on PCI needs no driver: the agent writes its registers.
    frames=("-device", "pci-serial,chardev=frames,addr=1f.0"),
)

MACHINES = {machine.name: machine for machine in (Q35, MICROVM, MICROVM_NOACPI, VIRT)}


OWN_KERNEL = "6.1"
"""The suite's own kernel."""

KERNELS = {
    "6.12": Kernel(
        name="6.12",
        suite="bookworm-backports",
        # What 6.1 has not got: vDPA, whose devices are processes here (VDUSE). The daemon is one, `vdpa` adds it.
        packages=("qemu-system-common", "iproute2"),
        modules=("vduse", "vhost_vdpa"),
        drop=(
            *("usr/share/iso-codes", "usr/share/xml", "usr/share/qemu", "usr/share/alsa", "usr/share/icons"),
            *("usr/lib/qemu", "usr/lib/TRIPLET/libgst", "usr/lib/TRIPLET/gstreamer", "usr/lib/TRIPLET/libspice"),
            *("usr/lib/TRIPLET/libsqlite3", "usr/lib/TRIPLET/libasound", "usr/sbin/tc"),
        ),
        # Under QEMU 7.2's emulation four boots of nine died of this kernel's cmpxchg16b, and none without it.
        processor=f"{_PROCESSOR},-cx16",
    )
}


def with_kernel(machine: Machine, name: str) -> Machine:
    """The machine with the kernel of this version. Raises BadOption that lists what there is."""
    if name == OWN_KERNEL:
        return machine
    if name not in KERNELS:
        raise BadOption(f"kernel {name!r} is unknown", remedy=f"known are: {', '.join((OWN_KERNEL, *KERNELS))}")
    kernel = KERNELS[name]
    arguments = tuple(kernel.processor if word == _PROCESSOR else word for word in machine.arguments)
    return replace(machine, kernel=kernel, arguments=arguments)


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
