"""`hwloop serve`: a disk for programs that know nothing of hwloop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hwloop.cli.common import open_disk, target_argument

if TYPE_CHECKING:
    from hwloop.nbd.run import Place


@click.group("serve")
def group() -> None:
    """Serve a disk to other programs, until Ctrl-C."""


@group.command(
    "nbd",
    epilog="""\b
Examples:
  hwloop serve nbd qemu:disk.img --socket /tmp/disk.sock
  qemu-img convert -O qcow2 'nbd+unix:///?socket=/tmp/disk.sock' backup.qcow2
  nbdcopy 'nbd+unix:///?socket=/tmp/disk.sock' backup.img
  hwloop serve nbd 0000:00:05.0 --read-only
  qemu-io -f raw nbd://127.0.0.1:10809 -c 'read 0 4k'
""",
)
@target_argument
@click.option("--socket", type=click.Path(path_type=Path), metavar="PATH", help="Serve at a socket of this machine.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Serve at a port; 0: any. Default: 10809.")
@click.option(
    "--address", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="The address of the port. Whoever "
    "reaches it has the disk: nobody is asked who they are, and nothing is encrypted.",
)  # fmt: skip
@click.option("--name", default="", metavar="NAME", help="What clients call the disk; they may always leave it out.")
@click.option("--read-only", is_flag=True, help="Refuse writes, also where the disk takes them.")
def nbd(target: str, socket: Path | None, port: int | None, address: str, name: str, read_only: bool) -> None:
    """Serve a disk as an NBD server.

    Prints a line with its address once it listens. Ends by Ctrl-C or SIGTERM: what was asked for is done and answered,
    the disk is flushed, and the device given back. A client that breaks the protocol is hung up on, which is said on
    standard error, and others go on. When the device is lost it ends with exit status 5.
    """
    if socket is not None and port is not None:
        raise click.UsageError("--socket and --port do not go together")
    from hwloop.nbd.run import TcpPlace, UnixPlace, serve

    place: Place = UnixPlace(socket) if socket is not None else TcpPlace(address, port)
    with place.hold(), open_disk(target) as disk:
        serve(
            disk,
            place,
            name=name,
            description=f"{disk.device_name()} disk {target}",
            readonly=read_only,
            ready=lambda uri: click.echo(f"serving {target} at {uri}"),
            complain=lambda text: click.echo(f"hwloop: {text}", err=True),
        )
