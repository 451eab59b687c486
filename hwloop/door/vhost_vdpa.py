"""A vDPA device that the kernel's vhost_vdpa driver holds: `vhost-vdpa:/dev/vhost-vdpa-0`.

It may be a network card, or a process (VDUSE), such as qemu-storage-daemon with a disk:

    modprobe -a vduse vhost_vdpa
    qemu-storage-daemon --blockdev driver=file,node-name=disk0,filename=disk.img \\
        --export type=vduse-blk,id=e0,node-name=disk0,name=disk0,writable=on
    vdpa dev add name disk0 mgmtdev vduse

The kernel gives a node to one process at a time, resets the device at both ends, and a disk that the kernel itself uses
has no such node: so nothing has to be taken away or given back. Debian's kernels have vDPA from 6.12 on. Where the
process of a VDUSE device has died, the kernel waits for it until its own time is over, 30 s, before a reset returns
(/sys/class/vduse/NAME/msg_timeout).
"""

from __future__ import annotations

from contextlib import ExitStack

from hwloop.door.base import QUEUE_OPTIONS, WAIT, Opened, Place, check_options
from hwloop.hal.vhost_vdpa import VhostVdpaHal
from hwloop.signals import shield
from hwloop.target import Target
from hwloop.transport.vhost_vdpa import VhostVdpaTransport
from udev import Sysfs

OPTIONS = WAIT | QUEUE_OPTIONS


class VhostVdpaPlace(Place):
    """The device behind a node, whose path is the target's name. It tells its type once it is open."""

    def open_transport(self) -> Opened:
        with ExitStack() as stack:
            with shield():
                hal = stack.enter_context(VhostVdpaHal(self.target.name))
                transport = stack.enter_context(VhostVdpaTransport(hal))
            # A signal that came meanwhile was raised at the end of the shield, and `stack` has given everything back.
            return Opened(transport, hal, stack.pop_all())


def find(target: Target, sysfs: Sysfs) -> VhostVdpaPlace:
    """Raises InvalidParam."""
    check_options(target, OPTIONS)
    return VhostVdpaPlace(target)
