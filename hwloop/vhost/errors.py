"""What a vhost-user peer does wrong. One that is gone is DeviceLost, one that does not answer DeadlineExpired."""

from __future__ import annotations

import errno

from hwloop.errors import DeviceError


class BrokenProtocol(DeviceError):
    """The peer sent what no vhost-user peer may send; nothing that comes from it is believed any more."""

    default_errno = errno.EPROTO


class WrongFlags(BrokenProtocol):
    """A message with another version than 1, with reserved flags, or a reply that is not marked as one."""


class WrongSize(BrokenProtocol):
    """A message whose payload is longer or shorter than its kind has it."""


class UnexpectedMessage(BrokenProtocol):
    """A message that nobody asked for, the answer to another question, or one that is not known."""


class WrongDescriptors(BrokenProtocol):
    """A message with more or fewer file descriptors than its kind has."""


class WrongValue(BrokenProtocol):
    """A message whose payload says what cannot be, such as 0 queues."""


class BackEndRefused(DeviceError):
    """The back end was asked for something and said that it failed. The connection is as good as before."""

    default_errno = errno.EREMOTEIO
