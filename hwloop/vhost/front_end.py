"""The front end of one connection: what was negotiated of the protocol, questions with their answers, and the channel
on which the back end speaks of its own accord.

QEMU, docs/interop/vhost-user.rst.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from hwloop.deadline import Deadline
from hwloop.errors import DeadlineExpired, DeviceChanged, DeviceLost, HwloopError, SetupError
from hwloop.forked import disown_in_children, keep_no_longer
from hwloop.owner import Owner
from hwloop.vhost.channel import Channel, Message, poll_of
from hwloop.vhost.errors import BackEndRefused, UnexpectedMessage, WrongDescriptors, WrongFlags, WrongSize, WrongValue
from hwloop.vhost.messages import (
    BACK_END_KINDS,
    KINDS,
    LOG_ALL,
    NEED_REPLY,
    PROTOCOL_FEATURES,
    REPLY,
    VERSION,
    Config,
    Header,
    Nothing,
    Number,
    Payload,
    ProtocolFeature,
    Request,
    parse_back_end_request,
)

ANSWER_SECONDS = 5.0
"""How long a back end may take to answer: it does one thing at a time, and that may be a flush of its image."""

WANTED = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.INFLIGHT_SHMFD
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
)
"""What is negotiated where it is offered."""

_ACCESS_PLATFORM = 1 << 33
"""Addresses would have to be explained by IOTLB messages, which are not spoken here."""
HIDDEN = PROTOCOL_FEATURES | LOG_ALL | _ACCESS_PLATFORM
"""Feature bits that no driver is shown."""
_MOST_QUEUES = 1 << 16
MOST_HEARD = 64
"""Messages of the back end's own accord that are taken at once."""

_LONGEST_NAP = 0.05

P = TypeVar("P", bound=Payload)
Connect = Callable[[float], socket.socket]
"""Connects to the same back end once more, within so many seconds. Raises SetupError."""


class FrontEnd(Owner):
    """The driver's end of a connection to a vhost-user back end; owns the connected socket `sock`.

    Constructing it negotiates the protocol; nothing of the device is touched. `protocol` is what was negotiated,
    `queue_count` how many queues there are, None where that is not told. `seconds` is how long an answer may take.
    With `again`, a back end that has gone is waited for as long as `reconnect_seconds` in `reconnect`. May be used from
    several threads.

    Every method raises DeviceLost when the back end is gone, DeadlineExpired when it does not answer, BrokenProtocol
    for nonsense, and from then on the same again; BackEndRefused for what it says no to.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        seconds: float = ANSWER_SECONDS,
        peer: str = "the back end",
        again: Connect | None = None,
        reconnect_seconds: float = 0.0,
    ) -> None:
        self.seconds = seconds
        self.peer = peer
        self.reconnect_seconds = reconnect_seconds if again is not None else 0.0
        self._again = again
        self.protocol = ProtocolFeature(0)
        self.queue_count: int | None = None
        self.rings_live = False
        """Some queue is set up, so the memory table must not change any more."""
        self._lock = threading.RLock()
        self._channel = Channel(sock, peer)
        self._back_end: BackEndChannel | None = None
        self._lines: dict[int | None, int] = {}
        with ExitStack() as stack:
            stack.push(self)
            disown_in_children(self)
            self._negotiate()
            stack.pop_all()

    @property
    def fault(self) -> HwloopError | None:
        """Why the connection was given up, or None."""
        return self._channel.fault

    @property
    def gone_for_now(self) -> bool:
        """Whether the back end has hung up and may be found again. One that talks nonsense, or is silent, is not."""
        return self.reconnect_seconds > 0 and type(self.fault) is DeviceLost

    @property
    def config_changes(self) -> int | None:
        """How often the back end has said that its configuration changed; None where it has no way to say so."""
        return self._back_end.config_changes if self._back_end is not None else None

    @property
    def speaks_protocol_features(self) -> bool:
        """Whether bit 30 was offered: queues then have to be enabled."""
        return bool(self._offered & PROTOCOL_FEATURES)

    def reconnect(self) -> None:
        """Wait for a back end that has gone, and negotiate the protocol with it as before; eventfds stay what they are.

        Raises DeviceLost when it does not come back in time, DeviceChanged when it offers something else now.
        """
        deadline, nap = Deadline(self.reconnect_seconds), 0.001
        with self._lock:
            while True:
                try:
                    self._begin_anew(deadline)
                    return
                except (SetupError, DeviceLost, DeadlineExpired) as error:
                    if deadline.expired():
                        raise self._stayed_away(error) from error
                time.sleep(min(nap, deadline.remaining()))
                nap = min(2 * nap, _LONGEST_NAP)

    def read_features(self) -> int:
        """The features of the device: those offered, without what is about the protocol."""
        return self.ask(Request.GET_FEATURES, Nothing(), Number).value & ~HIDDEN

    def write_features(self, features: int) -> None:
        """Raises BackEndRefused where the back end can say no."""
        self.tell(Request.SET_FEATURES, Number(features | (self._offered & PROTOCOL_FEATURES)))

    def ask(self, request: Request, payload: Payload, reply: type[P], *, seconds: float | None = None) -> P:
        """Send a message whose kind has an answer, and return that."""
        with self._exchange(request, payload, seconds=seconds) as message:
            return self._parse(message, reply)

    def ask_with_descriptor(self, request: Request, payload: Payload, reply: type[P]) -> tuple[P, int]:
        """As `ask`, for an answer that brings a descriptor, which is the caller's to close."""
        with self._exchange(request, payload) as message:
            return self._parse(message, reply), message.descriptors.pop()

    def tell(self, request: Request, payload: Payload, descriptors: Sequence[int] = ()) -> None:
        """Send a message that has no answer of its own; where REPLY_ACK was negotiated, the back end says that it
        worked."""
        if not self.protocol & ProtocolFeature.REPLY_ACK:
            with self._lock:
                self._send(request, payload, descriptors, 0, Deadline(self.seconds))
            return
        with self._exchange(request, payload, descriptors, flags=NEED_REPLY) as message:
            code = self._parse(message, Number).value
        if code:
            raise BackEndRefused(f"{self._channel.peer} refused {request.name}: it answers {code:#x}, not 0")

    def read_config(self, size: int) -> bytes:
        """The first so many bytes of the configuration space. Raises BackEndRefused when there are not so many."""
        with self._exchange(Request.GET_CONFIG, Config(0, bytes(size))) as message:
            if not message.payload:
                raise BackEndRefused(f"{self._channel.peer} gives no {size} bytes of its configuration space")
            answer = self._parse(message, Config)
        if answer.offset or len(answer.data) != size:
            raise self._channel.give_up(
                WrongValue(
                    f"{self._channel.peer} was asked for {size} bytes of its configuration space from 0 on, and gives "
                    f"{len(answer.data)} from {answer.offset} on"
                )
            )
        return answer.data

    def settle(self) -> None:
        """Everything that was told has been done, or the connection is lost. Costs nothing with REPLY_ACK."""
        if not self.protocol & ProtocolFeature.REPLY_ACK:
            self.ask(Request.GET_FEATURES, Nothing(), Number)

    def check(self) -> None:
        """Look whether the back end is there and sane, without asking it; hear what it has to say."""
        with self._lock:
            self._channel.check_quiet()
            self._listen()

    def wait(self, line: int, seconds: float) -> bool:
        """Wait for the eventfd `line`, at most so long; what the back end says meanwhile is heard."""
        deadline = Deadline(seconds)
        while True:
            poll = poll_of(line, self._channel.fileno(), self._back_end_fileno())
            if line in dict(poll.poll(deadline.remaining() * 1000)):
                return True
            self.check()
            if deadline.expired():
                return False

    def call_line(self, vector: int | None) -> int:
        """The eventfd with which the back end tells of used buffers, on the line (None) or vector of that number; it
        lasts as long as the connection."""
        with self._lock:
            self._channel.check()
            if vector not in self._lines:
                self._lines[vector] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return self._lines[vector]

    def disown(self) -> None:
        """A child would end what is the parent's."""
        self._lock = threading.RLock()
        self._channel.give_up(DeviceLost("the connection belongs to the process that opened it, and this is its child"))
        self.close()

    def close(self) -> None:
        """Hang up: a back end gives up the memory then, and forgets the device's state. Idempotent."""
        keep_no_longer(self)
        with self._lock:
            self._channel.close()
            if self._back_end is not None:
                self._back_end.close()
            while self._lines:
                os.close(self._lines.popitem()[1])

    # --- Private ------------------------------------------------------------------------------------------------------

    def _begin_anew(self, deadline: Deadline) -> None:
        assert self._again is not None, "only what can be found again is gone for now"
        channel = Channel(self._again(max(deadline.remaining(), 0.001)), self.peer)
        self._channel.close()
        if self._back_end is not None:
            self._back_end.close()
        changes, had = self.config_changes, (self.protocol, self.queue_count, self.speaks_protocol_features)
        self._channel, self._back_end, self.rings_live = channel, None, False
        self.protocol = ProtocolFeature(0)
        try:
            self._negotiate()
            has = (self.protocol, self.queue_count, self.speaks_protocol_features)
            if has != had:
                raise DeviceChanged(
                    f"{self.peer} came back with another protocol: it had {had[0]!r} and {had[1]} queues, now it has "
                    f"{has[0]!r} and {has[1]}"
                )
        except HwloopError as error:
            channel.give_up(error)
            raise
        finally:
            self.protocol, self.queue_count = had[:2]
            if self._back_end is not None:
                self._back_end.config_changes = changes or 0

    def _stayed_away(self, error: HwloopError) -> DeviceLost:
        lost = DeviceLost(
            f"{self.peer} is gone, and did not come back within {self.reconnect_seconds:g} s: {error.problem}",
            remedy="start it again, then open the device again",
        )
        self._channel.give_up(lost)
        self.reconnect_seconds = 0.0
        return lost

    def _negotiate(self) -> None:
        self._offered = self.ask(Request.GET_FEATURES, Nothing(), Number).value
        self.tell(Request.SET_OWNER, Nothing())
        if not self.speaks_protocol_features:
            return
        offered = self.ask(Request.GET_PROTOCOL_FEATURES, Nothing(), Number).value
        wanted = WANTED & offered
        self.tell(Request.SET_PROTOCOL_FEATURES, Number(wanted))
        self.protocol = ProtocolFeature(wanted)
        if wanted & ProtocolFeature.MQ:
            self.queue_count = self._checked_queue_count(self.ask(Request.GET_QUEUE_NUM, Nothing(), Number).value)
        if wanted & ProtocolFeature.BACKEND_REQ:
            self._open_back_end_channel()

    def _checked_queue_count(self, count: int) -> int:
        if not 0 < count <= _MOST_QUEUES:
            raise self._channel.give_up(WrongValue(f"{self._channel.peer} says that it has {count} queues"))
        return count

    def _open_back_end_channel(self) -> None:
        """Always, where it is offered: qemu-storage-daemon 10 writes to the channel that it was not given, and dies."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._back_end = BackEndChannel(Channel(ours, f"{self._channel.peer} (on its own channel)"), self.seconds)
            self.tell(Request.SET_BACKEND_REQ_FD, Nothing(), [theirs.fileno()])

    def _exchange(
        self,
        request: Request,
        payload: Payload,
        descriptors: Sequence[int] = (),
        *,
        seconds: float | None = None,
        flags: int = 0,
    ) -> Message:
        """Send a message and receive its answer; the descriptors of that are as many as its kind has."""
        with self._lock:
            deadline = Deadline(self.seconds if seconds is None else seconds)
            try:
                self._send(request, payload, descriptors, flags, deadline)
                return self._answer(request, deadline)
            except HwloopError as error:
                self._channel.give_up(error)
                raise
            except BaseException:
                self._channel.give_up(DeviceLost(f"a question to {self._channel.peer} was interrupted"))
                raise

    def _send(
        self, request: Request, payload: Payload, descriptors: Sequence[int], flags: int, deadline: Deadline
    ) -> None:
        self._channel.check_quiet()
        data = payload.format()
        self._channel.send(Header(request, VERSION | flags, len(data)), data, descriptors, deadline)

    def _answer(self, request: Request, deadline: Deadline) -> Message:
        waited_for = f"{self._channel.peer} to answer {request.name}"
        self._hear_until_answered(deadline)
        message = self._channel.receive(deadline, waited_for)
        try:
            self._check_answer(request, message)
        except BaseException:
            message.close()
            raise
        return message

    def _hear_until_answered(self, deadline: Deadline) -> None:
        """A back end that waits for an answer of ours on its own channel gives none before."""
        ours = self._channel.fileno()
        while self._back_end_fileno() >= 0 and not deadline.expired():
            if ours in dict(poll_of(ours, self._back_end_fileno()).poll(deadline.remaining() * 1000)):
                return
            self._listen()

    def _check_answer(self, request: Request, message: Message) -> None:
        header, peer = message.header, self._channel.peer
        if header.request != request:
            raise UnexpectedMessage(f"{peer} answered {request.name} with message {header.request}")
        if not header.flags & REPLY:
            raise WrongFlags(f"{peer} answered {request.name} with the flags {header.flags:#x}, which say no reply")
        allowed = KINDS[request].reply_descriptors
        if len(message.descriptors) not in allowed:
            raise WrongDescriptors(
                f"{peer} answered {request.name} with {len(message.descriptors)} descriptors, not {allowed[-1]}"
            )

    def _parse(self, message: Message, reply: type[P]) -> P:
        try:
            return reply.parse(message.payload)
        except HwloopError as error:
            raise self._channel.give_up(error) from None

    def _listen(self) -> None:
        """Hear what is there on the back end's channel. One that has ended is no longer listened to."""
        if self._back_end is None:
            return
        try:
            self._back_end.hear()
        except HwloopError as error:
            raise self._channel.give_up(error) from None

    def _back_end_fileno(self) -> int:
        return self._back_end.fileno() if self._back_end is not None else -1


class BackEndChannel(Owner):
    """What the back end says of its own accord, on the channel `channel`, which this owns."""

    def __init__(self, channel: Channel, seconds: float) -> None:
        self.config_changes = 0
        self._channel = channel
        self._seconds = seconds

    def fileno(self) -> int:
        """-1 once it has ended."""
        return self._channel.fileno()

    def hear(self) -> None:
        """Take and answer the messages that are there, so many at a time that one who never stops does not keep us.

        Raises BrokenProtocol, DeadlineExpired for half a message.
        """
        for _ in range(MOST_HEARD):
            if self.fileno() < 0 or not self._channel.readable():
                return
            deadline = Deadline(self._seconds)
            try:
                message = self._channel.receive(deadline, "the rest of a message of the back end")
            except DeviceLost:
                # Its end alone changes nothing: the connection tells whether the back end is gone.
                self._channel.close()
                return
            with message:
                self._take(message, deadline)

    def close(self) -> None:
        self._channel.close()

    def _take(self, message: Message, deadline: Deadline) -> None:
        header = message.header
        kind = BACK_END_KINDS[parse_back_end_request(header.request)]
        if header.flags & REPLY:
            raise WrongFlags(f"message {header.request} of the back end is marked as a reply to nothing")
        if message.payload:
            raise WrongSize(f"message {header.request} of the back end has {len(message.payload)} bytes; it has none")
        if len(message.descriptors) not in kind.descriptors:
            raise WrongDescriptors(f"message {header.request} of the back end brings descriptors; it has none")
        self.config_changes += 1
        if header.flags & NEED_REPLY:
            answer = Number(0).format()
            self._channel.send(Header(header.request, VERSION | REPLY, len(answer)), answer, (), deadline)
