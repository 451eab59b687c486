"""A virtio device that is a process of its own, with no VM and no root: `vhost-user:/tmp/disk.sock`.

qemu-storage-daemon serves a disk like this:

    qemu-storage-daemon --blockdev driver=file,node-name=disk0,filename=disk.img \\
        --export type=vhost-user-blk,id=e0,node-name=disk0,addr.type=unix,addr.path=/tmp/disk.sock,writable=on

The protocol does not tell what a back end is, so `device=` does where it is no disk.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import cast

from hwloop.door.base import QUEUE_OPTIONS, WAIT, Opened, Place, check_options
from hwloop.errors import DeadlineExpired, InvalidParam, SetupError
from hwloop.hal.vhost import VhostHal
from hwloop.signals import shield
from hwloop.spec import DeviceType
from hwloop.target import Target
from hwloop.transport.vhost_user import LARGEST_QUEUE, VhostUserTransport
from hwloop.vhost.front_end import ANSWER_SECONDS, FrontEnd
from udev import Sysfs

_TYPES = {"block": DeviceType.Block, "console": DeviceType.Console, "rng": DeviceType.EntropySource}
_LARGEST_THERE_IS = 32768
_RECONNECT_SECONDS = 10.0
"""How long a back end that has gone is waited for: longer than a service manager takes to start it again."""
_LONGEST_RECONNECT = 3600.0
OPTIONS = {"device": tuple(_TYPES), "reconnect": None} | WAIT | QUEUE_OPTIONS


class VhostUserPlace(Place):
    """The device of the back end that listens at a path. `queue-size` is the most descriptors that it allows a queue,
    `reconnect` how many seconds it is waited for once it has gone. Raises InvalidParam."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._largest = _queue_size(target.options.get("queue-size", str(LARGEST_QUEUE)))
        self._reconnect = _seconds(target.options.get("reconnect", str(_RECONNECT_SECONDS)))

    @property
    def device_type(self) -> DeviceType:
        return _TYPES[self.target.options.get("device", "block")]

    def open_transport(self) -> Opened:
        with ExitStack() as stack:
            with shield():
                front_end = stack.enter_context(connect(self.target.name, reconnect=self._reconnect))
                transport = VhostUserTransport(front_end, self.device_type, largest_queue=self._largest)
                hal = VhostHal(front_end)
                stack.push(transport)
                stack.push(hal)
            # A signal that came meanwhile was raised at the end of the shield, and `stack` has given everything back.
            return Opened(transport, hal, stack.pop_all())


def connect(path: str, seconds: float | None = None, *, reconnect: float = 0.0) -> FrontEnd:
    """Connect to the back end that listens at a path; an answer may take so many seconds, and its coming back
    `reconnect` seconds.

    Raises SetupError when nobody answers there, DeviceLost when it hangs up, BrokenProtocol for what is no vhost-user
    back end.
    """
    seconds = ANSWER_SECONDS if seconds is None else seconds
    sock = _connect(path, seconds)
    try:
        return FrontEnd(
            sock,
            seconds=seconds,
            peer=f"the back end at {path}",
            again=lambda most: _connect(path, min(most, seconds)),
            reconnect_seconds=reconnect,
        )
    except DeadlineExpired as error:
        raise SetupError(
            f"{path} takes connections and does not answer: a back end serves one client at a time, or is stopped",
            errno=error.errno,
            remedy=f"find out who else uses it: ss -xp | grep {path}",
        ) from error


def find(target: Target, sysfs: Sysfs) -> VhostUserPlace:
    """Raises InvalidParam."""
    check_options(target, OPTIONS)
    return VhostUserPlace(target)


def _connect(path: str, seconds: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # Or a connection to a socket whose backlog is full would wait for ever.
    sock.settimeout(seconds)
    try:
        sock.connect(os.fspath(path))
    except (OSError, ValueError) as error:
        sock.close()
        code = getattr(error, "errno", None)
        if code is None:  # a path that cannot be one, which Python finds itself, or a timeout
            raise SetupError(f"cannot connect to {path!r}: {error}", remedy="use a shorter path") from error
        raise SetupError.refused(
            f"cannot connect to {path}", cast(OSError, error), remedy="does a vhost-user back end listen there?"
        ) from error
    return sock


def _queue_size(text: str) -> int:
    size = int(text) if text.isascii() and text.isdecimal() else 0
    if not 0 < size <= _LARGEST_THERE_IS:
        raise InvalidParam(
            f"option queue-size cannot be {text!r}", remedy=f"give a number from 1 to {_LARGEST_THERE_IS}"
        )
    return size


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_RECONNECT:
        raise InvalidParam(
            f"option reconnect cannot be {text!r}", remedy=f"give seconds from 0 (never) to {_LONGEST_RECONNECT:g}"
        )
    return seconds
