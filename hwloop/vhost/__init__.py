"""The front end of a vhost-user back end: messages, the socket, the memory that both share, and a fake of the other
side.

QEMU, docs/interop/vhost-user.rst. A virtio device is a process there: it takes its orders through a UNIX socket, maps
the driver's memory from descriptors that come with them, and is notified by eventfds.
"""

from hwloop.vhost.errors import (
    BackEndRefused,
    BrokenProtocol,
    UnexpectedMessage,
    WrongDescriptors,
    WrongFlags,
    WrongSize,
    WrongValue,
)
from hwloop.vhost.front_end import FrontEnd

__all__ = [
    "BackEndRefused",
    "BrokenProtocol",
    "FrontEnd",
    "UnexpectedMessage",
    "WrongDescriptors",
    "WrongFlags",
    "WrongSize",
    "WrongValue",
]
