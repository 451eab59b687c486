"""`hwloop testdev`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    "testdev",
    epilog="""\b
Examples:
  hwloop testdev /tmp/disk.sock fake:64M
  hwloop testdev /tmp/disk.sock 'fake:1G?zoned=host-managed&zone-size=64M&max-open-zones=8'
  hwloop testdev /tmp/disk.sock 'disk.img?discard=on&write-zeroes=on&secure-erase=on&lifetime=1,3,3'
  hwloop zones vhost-user:/tmp/disk.sock

\b
Options of the disk, joined by & behind a question mark:
  block-size=4096 queue-size=64 queues=4 read-only=on serial=TEXT strict=off
  flush=off write-cache=writeback|writethrough size-max=SIZE seg-max=N geometry=C/H/S
  physical-block-size=SIZE alignment-offset=N min-io=SIZE opt-io=SIZE
  discard=on, write-zeroes=on, secure-erase=on, each with -max=SIZE -segments=N; discard- and
  secure-erase-alignment=SIZE, write-zeroes-may-unmap=off; lifetime=PRE_EOL,A,B
  zoned=host-managed|host-aware|none zone-size=SIZE zone-capacity=SIZE conventional-zones=N
  max-open-zones=N max-active-zones=N max-append=SIZE write-granularity=SIZE
  and every way of misbehaving that fake: targets have, such as io-error=3
""",
)
@click.argument("socket", type=click.Path(path_type=Path))
@click.argument("disk")
@click.option("--seconds", metavar="S", type=click.FloatRange(min=0), help="End after so long.")
@click.option("--connections", metavar="N", type=click.IntRange(1), help="End after so many clients have gone.")
@click.option("--parent", metavar="PID", type=click.IntRange(1), help="End when that process ends.")
def command(socket: Path, disk: str, seconds: float | None, connections: int | None, parent: int | None) -> int | None:
    """Serve DISK as a vhost-user block device at SOCKET, until Ctrl-C.

    DISK is fake:SIZE, which is zeros at first, or a file. Prints a line once it listens. It is a strict device: a
    driver that breaks a rule of virtio or of vhost-user is hung up on, the rule is printed to standard error, and the
    exit status is 4; with strict=off it answers with the status that the specification has for it instead.
    """
    from hwloop.testdev import serve

    broken = serve(
        socket,
        disk,
        ready=lambda: click.echo(f"listening at {socket}"),
        complain=lambda text: click.echo(f"hwloop: {text}", err=True),
        seconds=seconds,
        connections=connections,
        parent=parent,
    )
    return 4 if broken else None
