"""`hwloop vm`: run a command in the test VM, or build the VM's image."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from hwloop import vm
from hwloop.vm.boot import ACCELERATORS
from hwloop.vm.bundle import SLOW_STEPS
from hwloop.vm.bus import MMIO_VERSIONS
from hwloop.vm.cache import Progress
from hwloop.vm.machine import KERNELS, MACHINES, OWN_KERNEL

_machine = click.option(
    "--machine",
    type=click.Choice(list(MACHINES)),
    default="q35",
    show_default=True,
    help="The kind of machine. q35: x86, disks on PCI behind an IOMMU. microvm: x86, disks in virtio-mmio slots; "
    "microvm-noacpi: the same, but only the kernel's command line says where. virt: ARM, disks in virtio-mmio slots.",
)
_kernel = click.option(
    "--kernel",
    type=click.Choice([OWN_KERNEL, *KERNELS]),
    default=OWN_KERNEL,
    show_default=True,
    help=f"{OWN_KERNEL}: Debian 12's own. 6.12: of its backports, with vDPA (VDUSE, vhost-vdpa) and "
    "qemu-storage-daemon.",
)


@click.group(name="vm")
def group() -> None:
    """Run commands in a test VM, as root, with this checkout and disks of your choice."""


@group.command(
    epilog="""\b
Examples:
  hwloop vm run -- uname -a
  hwloop vm run --disk disk.img -- hwloop list
  hwloop vm run --disk disk.img,packed=on,num-queues=4 -- hwloop info 0000:00:05.0
  hwloop vm run --machine microvm --mmio-version 1 --disk disk.img -- hwloop list
  hwloop vm run --machine virt --disk disk.img -- uname -m
  hwloop vm run --kernel 6.12 -- uname -r
  hwloop vm run --qemu '-device pcie-root-port,id=rp0' --disk disk.img,bus=rp0 -- lspci
""",
    context_settings={"allow_interspersed_args": False},
)
@_machine
@_kernel
@click.option("--qemu", metavar="ARG", multiple=True, help="Arguments for QEMU, before the disks; may be given again.")
@click.option(
    "--disk",
    "disks",
    metavar="PATH[,KEY=VALUE]...",
    multiple=True,
    help="A virtio-blk disk; the first is at 0000:00:05.0, on microvm at mmio:0xfeb02e00, on virt at mmio:0xa000000. "
    "Keys are those of QEMU's virtio-blk device (addr, bus, packed, serial, ...) or of its drive (format, cache, "
    "read-only, snapshot, ...).",
)
@click.option(
    "--mmio-version",
    type=click.Choice([str(version) for version in MMIO_VERSIONS]),
    help="Of the virtio-mmio registers: 1 is legacy; 2, the usual one, is VIRTIO 1.",
)
@click.option("--append", metavar="WORDS", multiple=True, help="Words for the kernel's command line.")
@click.option("--share", metavar="DIR", type=click.Path(), help="A folder that the guest has at /share, read-write.")
@click.option(
    "--timeout", metavar="S", type=float, default=600.0, show_default=True, help="Seconds until the guest is ended."
)
@click.option("--memory", metavar="SIZE", default="2G", show_default=True, help="The guest's memory, as QEMU's -m.")
@click.option("--smp", metavar="N", type=click.IntRange(1), default=2, show_default=True, help="Processors.")
@click.option(
    "--accel",
    type=click.Choice(ACCELERATORS),
    default="auto",
    show_default=True,
    help="kvm or tcg; auto takes kvm where a trial start of the guest works.",
)
@click.option("--console", is_flag=True, help="Show the kernel's console on standard error.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    machine: str,
    kernel: str,
    qemu: tuple[str, ...],
    disks: tuple[str, ...],
    mmio_version: str | None,
    append: tuple[str, ...],
    share: str | None,
    timeout: float,
    memory: str,
    smp: int,
    accel: str,
    console: bool,
    command: tuple[str, ...],
) -> NoReturn:
    """Run COMMAND in the test VM and exit with its status.

    Its output and errors are passed through as they are; it has no input. The checkout is at /hwloop, which is the
    working directory. After --timeout seconds the status is 124.
    """
    result = vm.run(
        command,
        disks=disks,
        qemu=qemu,
        append=" ".join(append),
        share=share,
        timeout=timeout,
        machine=machine,
        kernel=kernel,
        stdout=sys.stdout.buffer,
        stderr=sys.stderr.buffer,
        console=sys.stderr.buffer if console else None,
        memory=memory,
        smp=smp,
        accel=accel,
        mmio_version=int(mmio_version) if mmio_version else None,
        progress=_say_slow_steps,
    )
    sys.exit(result.returncode)


@group.command()
@_machine
@_kernel
@click.option("--force", is_flag=True, help="Build everything again, from packages of today.")
def build(machine: str, kernel: str, force: bool) -> None:
    """Build the VM's image, or what is missing of it, and say where it is and how big."""
    with _display() as progress:
        guest = vm.build(machine, kernel=kernel, force=force, progress=progress)
    click.echo(f"kernel  {guest.image.kernel_release}, Python {guest.image.python}")
    click.echo(f"image   {guest.image.folder.parent}")
    click.echo(f"size    {guest.size / (1 << 20):.0f} MiB loaded at each start")


def _say_slow_steps(step: str) -> None:
    """Only what is done once and takes long; what follows every change of the checkout takes a second or two."""
    if step in SLOW_STEPS:
        click.echo(f"hwloop vm: {step}, once", err=True)


@contextmanager
def _display() -> Iterator[Progress]:
    """The steps on standard error: a line with a turning mark on a terminal, plain lines elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: console.print(step, highlight=False)
        return
    with console.status("looking at the cache") as status:

        def progress(step: str) -> None:
            console.print(f"  {step}", highlight=False)
            status.update(step)

        yield progress
