"""The console device (VIRTIO 1.4, 5.3)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from hwloop.config import read_config
from hwloop.deadline import REQUEST_SECONDS, Deadline
from hwloop.device.console_port import RECEIVE_BYTES, ConsolePort
from hwloop.device.console_protocol import (
    CONTROL_BYTES,
    CONTROL_QUEUES,
    LONGEST_MESSAGE,
    ConsoleConfig,
    ControlEvent,
    ControlMessage,
    emergency_write,
    read_size,
)
from hwloop.device.outbox import Outbox
from hwloop.device.watched import WatchedDevice
from hwloop.errors import DeviceClosed, DeviceError, DmaError, HwloopError, InvalidParam, Unsupported
from hwloop.hal.base import Hal
from hwloop.owning_queue import OwningQueue
from hwloop.queue import VirtQueue
from hwloop.queue_options import QueueOptions
from hwloop.spec import PAGE_SIZE, ConsoleFeature, Feature
from hwloop.transport.base import Transport
from hwloop.waiting import POLL

if TYPE_CHECKING:
    from typing_extensions import Buffer

PORT_SECONDS = 2.0
"""How long a device may take to announce the port that somebody asks for."""

log = logging.getLogger("hwloop.console")

_QUIET_SECONDS = 0.05
_FIRST_WORD_SECONDS = 0.5
_MOST_PORTS = 64
_QUEUE_SIZE = 32
_BUFFER_BYTES = 2048
_SLOTS = 16
_MOST_ANSWERS = 1024
_NO_PORT = 0xFFFF_FFFF


class VirtioConsole(WatchedDevice):
    """The VirtIO console device driver: one port, or several where the device offers that.

    `request_seconds` is how long `send` and `receive` wait where they are told nothing else. A `send` that nobody
    takes leaves the device working.
    """

    SUPPORTED_FEATURES = (
        ConsoleFeature.SIZE
        | ConsoleFeature.MULTIPORT
        | ConsoleFeature.EMERG_WRITE
        | Feature.VERSION_1
        | Feature.ACCESS_PLATFORM
        | Feature.ORDER_PLATFORM
    )

    def __init__(
        self,
        transport: Transport,
        hal: Hal,
        *,
        request_seconds: float = REQUEST_SECONDS,
        wait: str = POLL,
        options: QueueOptions | None = None,
    ) -> None:
        self._ports: dict[int, ConsolePort] = {}
        self._port_queues: dict[int, tuple[VirtQueue, VirtQueue]] = {}
        self._inboxes: dict[int, OwningQueue] = {}
        self._outboxes: dict[int, Outbox] = {}
        self._answers: deque[bytes] = deque()
        self._max_nr_ports = 1
        self._heard = False
        self.ignored = 0
        super().__init__(transport, hal, request_seconds=request_seconds, wait=wait, options=options)
        try:
            with self._working():
                self._start()
        except BaseException:
            self.close()
            raise

    # --- What it is ---------------------------------------------------------------------------------------------------

    def device_name(self) -> str:
        return "virtio-console"

    @property
    def multiport(self) -> bool:
        """Whether the device has ports that it announces, and that come and go."""
        return bool(self.negotiated & ConsoleFeature.MULTIPORT)

    @property
    def ports(self) -> dict[int, ConsolePort]:
        """The ports that are known, by number; `read_ports` learns of new ones."""
        return dict(self._ports)

    def read_ports(self, seconds: float = PORT_SECONDS) -> dict[int, ConsolePort]:
        """Take what the device has to say of its ports, until it is quiet or the time is over; then as `ports`."""
        deadline, quiet = Deadline(seconds), Deadline(_QUIET_SECONDS if self._heard else _FIRST_WORD_SECONDS)
        while self.multiport and not quiet.expired() and not deadline.expired():
            with self._working():
                if self._serve_control():
                    quiet = Deadline(_QUIET_SECONDS)
                self._wait_for_control(min(quiet.remaining(), deadline.remaining()))
        with self._working():
            self._serve_control()
        return self.ports

    def find_port(self, which: int | str | None = None, seconds: float = PORT_SECONDS) -> ConsolePort:
        """The port of a number or of a name; None: the one that is a console, the first where there are several.

        Waits until the device announces it. Raises DeadlineExpired; InvalidParam where the device has a single port,
        which it does not announce.
        """
        deadline = Deadline(seconds)
        while True:
            last = deadline.expired() or not self.multiport
            with self._working():
                self._serve_control()
                port = self._match(which)
                if port is None and not last:
                    self._wait_for_control(deadline.remaining())
            if port is not None:
                return port
            if last:
                raise self._no_port(which, deadline)

    def read_size(self) -> tuple[int, int]:
        """Columns and rows that the console has now. Raises Unsupported without VIRTIO_CONSOLE_F_SIZE.

        A device with several ports tells the size of each in `ConsolePort.size`.
        """
        if not self.negotiated & ConsoleFeature.SIZE:
            raise Unsupported("the device has no VIRTIO_CONSOLE_F_SIZE, so it does not tell its columns and rows")
        with self._working():
            return read_size(self.transport)

    # --- Bytes --------------------------------------------------------------------------------------------------------

    def send(self, data: Buffer | int, seconds: float | None = None) -> None:
        """Send to the console port: as `ConsolePort.send`. Waits for the port, as `find_port`."""
        self.find_port().send(data, seconds)

    def receive(self, max_bytes: int = RECEIVE_BYTES, seconds: float | None = None) -> bytes:
        """Receive from the console port: as `ConsolePort.receive`. Waits for the port, as `find_port`."""
        return self.find_port().receive(max_bytes, seconds)

    def emergency_write(self, byte: int) -> None:
        """Send one character by the configuration space; also on a device that was given up.

        `console_protocol.emergency_write` does it on a transport that was never initialised. Raises Unsupported
        without VIRTIO_CONSOLE_F_EMERG_WRITE, InvalidParam, DeviceClosed.
        """
        with self._lock:
            if self._closed:
                raise DeviceClosed("the console is closed", remedy="open it again")
            emergency_write(self.transport, byte)

    # --- Private: its beginning and its end ---------------------------------------------------------------------------

    def _set_up(self) -> None:
        self._port_queues[0] = self._new_queue(0), self._new_queue(1)
        if not self.multiport:
            return
        self._max_nr_ports = self._read_max_nr_ports()
        self._control_in = self._new_inbox(self._new_queue(CONTROL_QUEUES[0]), LONGEST_MESSAGE)
        self._control_out = self._new_outbox(self._new_queue(CONTROL_QUEUES[1]), CONTROL_BYTES)
        for number in range(1, min(self._max_nr_ports, _MOST_PORTS)):
            self._port_queues[number] = self._new_queue(2 * number + 2), self._new_queue(2 * number + 3)

    def _read_max_nr_ports(self) -> int:
        count = self.transport.read_consistent(lambda: read_config(self.transport, ConsoleConfig.max_nr_ports))
        if not count:
            raise DeviceError("the device offers several ports, and says that it has 0 at most", section="5.3.4")
        return count

    def _new_queue(self, index: int) -> VirtQueue:
        """A port needs few buffers, and there may be many ports."""
        largest = 0 if self.transport.fixed_queue_size else self.transport.max_queue_size(index)
        size = 1 << (largest.bit_length() - 1) if largest else None
        return self._add_queue(index, min(size, _QUEUE_SIZE) if size else None)

    def _new_inbox(self, queue: VirtQueue, buffer_size: int) -> OwningQueue:
        """Made once for each queue: the buffers stay with the device, also when its port goes and comes again."""
        if queue.index not in self._inboxes:
            self._inboxes[queue.index] = OwningQueue(self.hal, queue, buffer_size)
        return self._inboxes[queue.index]

    def _new_outbox(self, queue: VirtQueue, slot_bytes: int) -> Outbox:
        if queue.index not in self._outboxes:
            self._outboxes[queue.index] = Outbox(self.hal, queue, _SLOTS, slot_bytes)
        return self._outboxes[queue.index]

    def _new_port(self, number: int) -> ConsolePort:
        receive, transmit = self._port_queues[number]
        outbox = self._new_outbox(transmit, PAGE_SIZE)
        inbox = self._new_inbox(receive, _BUFFER_BYTES)
        inbox.start()
        port = self._ports[number] = ConsolePort(self, number, inbox, outbox)
        return port

    def _start(self) -> None:
        """The first words to a device that is live."""
        if not self.multiport:
            port = self._new_port(0)
            port.is_console = port.host_open = port._opened = True
            return
        self._control_in.start()
        self._tell(_NO_PORT, ControlEvent.DEVICE_READY, 1)

    def _abandon_requests(self) -> None:
        for box in (*self._inboxes.values(), *self._outboxes.values()):
            box.close()

    # --- Private: what the device says of its ports -------------------------------------------------------------------

    def _match(self, which: int | str | None) -> ConsolePort | None:
        for _, port in sorted(self._ports.items()):
            if port.is_console if which is None else which in (port.id, port.name):
                return port
        return None

    def _no_port(self, which: int | str | None, deadline: Deadline) -> HwloopError:
        there = ", ".join(f"{port.id} {port.name}".strip() for port in self._ports.values()) or "none"
        remedy = f"the device has these ports: {there}"
        if not self.multiport:
            return InvalidParam(f"port {which!r} is not on a device of one port", remedy=remedy)
        return deadline.error(f"port {which!r}" if which is not None else "a console port", remedy=remedy)

    def _wait_for_control(self, seconds: float) -> None:
        if self.multiport:
            self._wait_for(self._control_in.queue, self._patience(seconds), remind=False)

    def _serve_control(self) -> int:
        """Take the control messages that have come, and answer them; returns how many there were."""
        if not self.multiport:
            return 0
        inbox, count = self._control_in, 0
        # A device that speaks without end gets its turn again in the next call.
        while count < inbox.queue.size and (data := inbox.poll(bytes)) is not None:
            count += 1
            self._handle(data)
        self._heard = self._heard or count > 0
        self._say_what_fits()
        return count

    def _handle(self, data: bytes) -> None:
        """A message that means nothing is left alone, as the specification has no answer to one."""
        try:
            message = ControlMessage.parse(data)
        except InvalidParam as error:
            self._ignore(str(error))
            return
        if message.event == ControlEvent.PORT_ADD:
            self._add_port(message)
            return
        port, handler = self._ports.get(message.id), _HANDLERS.get(message.event)
        if port is None or handler is None:
            self._ignore(f"control message {message!r}, of no known port or event")
            return
        handler(self, port, message)

    def _ignore(self, what: str) -> None:
        self.ignored += 1
        log.warning("ignored: %s", what)

    def _add_port(self, message: ControlMessage) -> None:
        """VIRTIO 1.4, 5.3.6.2: the answer is PORT_READY, 1 when it is, 0 when it cannot be used."""
        number = message.id
        if number >= self._max_nr_ports or number in self._ports:
            self._ignore(f"port {number} is added; it is there already, or out of {self._max_nr_ports}")
            return
        if number not in self._port_queues:
            self._ignore(f"port {number} is added; hwloop serves {_MOST_PORTS} ports at most")
            self._tell(number, ControlEvent.PORT_READY, 0)
            return
        try:
            self._new_port(number)._forget_input()
        except DmaError as error:
            self._ignore(f"port {number} is added: {error}")
            self._tell(number, ControlEvent.PORT_READY, 0)
            return
        self._tell(number, ControlEvent.PORT_READY, 1)

    def _remove_port(self, port: ConsolePort, message: ControlMessage) -> None:
        port._end()
        del self._ports[port.id]

    def _make_console(self, port: ConsolePort, message: ControlMessage) -> None:
        """VIRTIO 1.4, 5.3.6.2: the driver answers that the port is open."""
        port.is_console = port._opened = True
        self._tell(port.id, ControlEvent.PORT_OPEN, 1)

    def _resize(self, port: ConsolePort, message: ControlMessage) -> None:
        size = message.size()
        if size is None:
            self._ignore(f"a RESIZE of port {port.id} without a size")
            return
        port.size = size

    def _open_or_close(self, port: ConsolePort, message: ControlMessage) -> None:
        port.host_open = bool(message.value)

    def _name_port(self, port: ConsolePort, message: ControlMessage) -> None:
        port.name = message.name()

    # --- Private: what we say -----------------------------------------------------------------------------------------

    def _tell(self, number: int, event: ControlEvent, value: int) -> None:
        """Send a control message, now or when there is room; a device without control queues needs none."""
        if not self.multiport:
            return
        if len(self._answers) >= _MOST_ANSWERS:
            raise DeviceError(f"the device does not take control messages; {_MOST_ANSWERS} wait", section="5.3.6.2")
        self._answers.append(ControlMessage(number, event, value).format())
        self._say_what_fits()

    def _say_what_fits(self) -> None:
        outbox = self._control_out
        outbox.take_back()
        while self._answers and outbox.put(self._answers[0]) is not None:
            self._answers.popleft()
        outbox.queue.submit()


VirtIOConsole = VirtioConsole
"""The name that seed 004 gives the driver."""

_HANDLERS: dict[int, Callable[[VirtioConsole, ConsolePort, ControlMessage], None]] = {
    ControlEvent.PORT_REMOVE: VirtioConsole._remove_port,
    ControlEvent.CONSOLE_PORT: VirtioConsole._make_console,
    ControlEvent.RESIZE: VirtioConsole._resize,
    ControlEvent.PORT_OPEN: VirtioConsole._open_or_close,
    ControlEvent.PORT_NAME: VirtioConsole._name_port,
}
