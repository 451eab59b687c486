"""A UNIX socket on which both sides speak vhost-user, and on which nothing is waited for without an end."""

from __future__ import annotations

import array
import copy
import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from hwloop.deadline import Deadline
from hwloop.errors import DeviceClosed, DeviceLost, HwloopError
from hwloop.owner import Owner
from hwloop.vhost.errors import UnexpectedMessage, WrongDescriptors
from hwloop.vhost.messages import HEADER_BYTES, MOST_REGIONS, Header

_INT_BYTES = array.array("i").itemsize
_ANCILLARY_BYTES = socket.CMSG_SPACE(MOST_REGIONS * _INT_BYTES)


@dataclass
class Message(Owner):
    """A message as it came, and the owner of the descriptors that came with it."""

    header: Header
    payload: bytes
    descriptors: list[int]

    def close(self) -> None:
        """Close the descriptors that nobody took. Idempotent."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Channel(Owner):
    """Messages over the connected stream socket `sock`, which it owns; `peer` is what errors call the other side.

    After a failure the place in the stream is lost, or nothing that comes can be believed: every later call raises the
    same error. Not locked: its user does that.
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.peer = peer
        self.fault: HwloopError | None = None
        """Why nothing can be sent or received any more."""
        self._socket = sock
        sock.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, header: Header, payload: bytes, descriptors: Sequence[int], deadline: Deadline) -> None:
        """All of a message. Raises DeviceLost, DeadlineExpired when the peer takes nothing."""
        data = memoryview(header.format() + payload)
        waited_for = f"{self.peer} to take message {header.request}"
        while data:
            self.wait(select.POLLOUT, deadline, waited_for)
            try:
                sent = self._send(data, descriptors)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self.give_up(self._gone(os.strerror(error.errno or 0))) from error
            data, descriptors = data[sent:], ()

    def receive(self, deadline: Deadline, waited_for: str) -> Message:
        """The next message, whatever it is. Raises BrokenProtocol, DeviceLost, DeadlineExpired."""
        descriptors: list[int] = []
        try:
            header = Header.parse(self._exactly(HEADER_BYTES, descriptors, deadline, waited_for))
            payload = self._exactly(header.size, descriptors, deadline, waited_for)
        except BaseException as error:
            Message(Header(0, 0, 0), b"", descriptors).close()
            if isinstance(error, HwloopError):
                self.give_up(error)
            raise
        return Message(header, payload, descriptors)

    def readable(self) -> bool:
        """Whether something is there, be it the end."""
        self.check()
        return bool(poll_of(self.fileno()).poll(0))

    def check_quiet(self) -> None:
        """The peer is there, and says nothing that it was not asked for. Raises DeviceLost, UnexpectedMessage."""
        if not self.readable():
            return
        try:
            begun = self._socket.recv(HEADER_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            raise self.give_up(self._gone(os.strerror(error.errno or 0))) from error
        if not begun:
            raise self.give_up(self._gone("it closed the connection"))
        raise self.give_up(UnexpectedMessage(f"{self.peer} sent a message that nobody asked for: {begun.hex()}"))

    def wait(self, events: int, deadline: Deadline, waited_for: str) -> None:
        """Until the socket is ready for one of these events of `select.poll`. Raises DeadlineExpired."""
        self.check()
        poll = poll_of(self.fileno(), events=events)
        while not poll.poll(deadline.remaining() * 1000):
            if deadline.expired():
                raise self.give_up(deadline.error(waited_for, remedy="is it stopped, or busy with another client?"))

    def give_up(self, error: HwloopError) -> HwloopError:
        """From now on every call raises this error. Returns it."""
        self.fault = self.fault or copy.copy(error)
        return error

    def check(self) -> None:
        """Raises what the channel was given up for."""
        if self.fault is not None:
            raise copy.copy(self.fault)

    def close(self) -> None:
        """Hang up. Idempotent."""
        self.give_up(DeviceClosed(f"the connection to {self.peer} is closed"))
        self._socket.close()

    # --- Private ------------------------------------------------------------------------------------------------------

    def _send(self, data: memoryview, descriptors: Sequence[int]) -> int:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        return self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)

    def _exactly(self, size: int, descriptors: list[int], deadline: Deadline, waited_for: str) -> bytes:
        data = b""
        while len(data) < size:
            self.wait(select.POLLIN, deadline, waited_for)
            with suppress(BlockingIOError):
                piece = self._piece(size - len(data), descriptors)
                if not piece:
                    where = " in the middle of a message" if data else ""
                    raise self._gone(f"it closed the connection{where}")
                data += piece
        return data

    def _piece(self, size: int, descriptors: list[int]) -> bytes:
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(size, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._gone(os.strerror(error.errno or 0)) from error
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) // _INT_BYTES * _INT_BYTES
                descriptors += array.array("i", content[:whole])
        if flags & socket.MSG_CTRUNC or len(descriptors) > MOST_REGIONS:
            raise WrongDescriptors(f"{self.peer} sent more than {MOST_REGIONS} descriptors with a message")
        return data

    def _gone(self, why: str) -> DeviceLost:
        return DeviceLost(f"{self.peer} is gone: {why}", remedy="start it again, then open the device again")


def poll_of(*descriptors: int, events: int = select.POLLIN) -> select.poll:
    """A poll object for those of the descriptors that are open, which are not negative."""
    poll = select.poll()
    for descriptor in descriptors:
        if descriptor >= 0:
            poll.register(descriptor, events)
    return poll
