"""A console device in process: the meaning of a `FakeDevice`'s requests, with ports that a test adds and removes.

Refuses what breaks a rule of the console (VIRTIO 1.4, 5.3), and what no driver should do to a port that is not ready.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import RLock

from cython_ring import Chain
from hwloop.device.console_protocol import CONTROL_BYTES, CONTROL_QUEUES, ConsoleConfig, ControlEvent, ControlMessage
from hwloop.hal.fake import FakeHal
from hwloop.spec import ConsoleFeature, DeviceType, InterruptStatus
from hwloop.transport.fake_device import MODERN, FakeDevice, RuleBroken

_CONFIG_BYTES = 12
_CONTROL_IN, _CONTROL_OUT = CONTROL_QUEUES


@dataclass
class ConsoleFaults:
    """One switch for each way in which the console may misbehave. Buffers that are never used are `Faults.drop`."""

    garbage_control: int = 0
    """So many further control messages are replaced by bytes that are none."""
    empty_input: int = 0
    """So many further receive buffers come back without a byte."""


@dataclass
class FakePort:
    """The other end of a port: `output` is what the driver sent, `open` whether the driver says that it is there."""

    id: int
    name: bytes = b""
    is_console: bool = False
    host_open: bool = True
    output: bytearray = field(default_factory=bytearray)
    ready: bool = False
    open: bool = False


class FakeConsole(FakeDevice):
    """A console. Without MULTIPORT it has port 0 alone; with it, the ports of `add_port`.

    `emergency` is what came by emergency writes, `told` every control message of the driver. Another thread than the
    driver's may type, as a person would.
    """

    def __init__(
        self,
        hal: FakeHal,
        *,
        features: int = MODERN | ConsoleFeature.SIZE | ConsoleFeature.EMERG_WRITE,
        queue_size: int = 16,
        size: tuple[int, int] = (80, 25),
        max_nr_ports: int = 4,
    ) -> None:
        count = 2 * max_nr_ports + 2 if features & ConsoleFeature.MULTIPORT else 2
        super().__init__(hal, DeviceType.Console, features, [queue_size] * count, bytes(_CONFIG_BYTES))
        self.console_faults = ConsoleFaults()
        self.ports: dict[int, FakePort] = {}
        self.emergency = bytearray()
        self.told: list[ControlMessage] = []
        self._waiting: dict[int, deque[bytes]] = {}
        self._lock = RLock()
        self._serving = 0
        self._is_ready = False
        self._set(ConsoleConfig.max_nr_ports.offset, 4, max_nr_ports)
        self.resize(*size)
        if not self._multiport_offered:
            self.ports[0] = FakePort(0, is_console=True, ready=True, open=True)

    # --- What the person at the other end does ------------------------------------------------------------------------

    def resize(self, cols: int, rows: int) -> None:
        """The console has another size from now on."""
        self._set(ConsoleConfig.cols.offset, 2, cols)
        self._set(ConsoleConfig.rows.offset, 2, rows)
        self.config_changed()

    def type(self, data: bytes, port: int = 0) -> None:
        """Input for a port; what does not fit into the buffers there are waits for more."""
        self._queue_up(_receive_queue(port), data)

    def add_port(self, number: int, name: bytes = b"", *, is_console: bool = False, host_open: bool = True) -> FakePort:
        """A port appears; the driver is told as soon as it is ready for that."""
        port = self.ports[number] = FakePort(number, name, is_console, host_open)
        if self._is_ready:
            self.tell(number, ControlEvent.PORT_ADD, 1)
        return port

    def remove_port(self, number: int) -> None:
        del self.ports[number]
        self.tell(number, ControlEvent.PORT_REMOVE, 1)

    def tell(self, number: int, event: int, value: int = 0, rest: bytes = b"") -> None:
        """Send a control message, sensible or not."""
        data = ControlMessage(number, event, value, rest).format()
        if self.console_faults.garbage_control:
            self.console_faults.garbage_control -= 1
            data = data[:3]
        self.tell_bytes(data)

    def tell_bytes(self, data: bytes) -> None:
        """Send bytes by the control queue, a message or not."""
        self._queue_up(_CONTROL_IN, data)

    # --- The device ---------------------------------------------------------------------------------------------------

    def write_config(self, offset: int, width: int, value: int) -> None:
        """VIRTIO 1.4, 5.3.4: emerg_wr is the one field to write, and takes a character at any time."""
        if offset != ConsoleConfig.emerg_wr.offset or not self.features & ConsoleFeature.EMERG_WRITE:
            raise RuleBroken(f"{width} bytes were written at {offset:#x} of the configuration (5.3.4)")
        self.emergency.append(value & 0xFF)

    def enable(self, index: int) -> None:
        if index >= 2 and not self.driver_features & ConsoleFeature.MULTIPORT:
            raise RuleBroken(f"queue {index} was enabled without VIRTIO_CONSOLE_F_MULTIPORT (5.3.2)")
        super().enable(index)

    def run(self, index: int) -> None:
        with self._lock:
            super().run(index)

    def release(self, index: int = 0, count: int | None = None, *, backwards: bool = False) -> None:
        if index % 2 == 0:
            self._deliver(index)
            return
        self._serving = index
        super().release(index, count, backwards=backwards)

    def serve(self, chain: Chain) -> int:
        if chain.writable_bytes:
            raise RuleBroken(f"a device-writable buffer was put into transmit queue {self._serving} (5.3.6.1)")
        data = chain.read()
        if self._serving == _CONTROL_OUT:
            self._control(data)
            return 0
        number = 0 if self._serving == 1 else (self._serving - 3) // 2
        port = self.ports.get(number)
        if self._multiport_offered and (port is None or not port.ready or not port.open):
            raise RuleBroken(f"port {number} was sent {len(data)} bytes and is not ready and open (5.3.6.2)")
        if port is not None:
            port.output += data
        return 0

    # --- Private ------------------------------------------------------------------------------------------------------

    @property
    def _multiport_offered(self) -> bool:
        return bool(self.features & ConsoleFeature.MULTIPORT)

    def _set(self, offset: int, width: int, value: int) -> None:
        self.config[offset : offset + width] = value.to_bytes(width, "little")

    def _queue_up(self, index: int, data: bytes) -> None:
        with self._lock:
            self._waiting.setdefault(index, deque()).append(data)
            if not self.hold and not self.faults.drop:
                self._deliver(index)

    def _deliver(self, index: int) -> None:
        """Fill receive buffers: a control message has one of its own, input is cut to fit."""
        queue, waiting = self.queues[index], self._waiting.setdefault(index, deque())
        before = len(queue.held)
        while waiting and queue.held and queue.ring is not None:
            chain = queue.held.pop(0)
            if chain.readable_bytes:
                raise RuleBroken(f"a device-readable buffer was put into receive queue {index} (5.3.6.1)")
            queue.ring.complete(chain.head, self._fill(chain, index, waiting))
        if len(queue.held) < before and queue.ring is not None and queue.ring.needs_used_notification():
            self._interrupt(InterruptStatus.QUEUE_INTERRUPT, queue.vector)

    def _fill(self, chain: Chain, index: int, waiting: deque[bytes]) -> int:
        if self.console_faults.empty_input and index != _CONTROL_IN:
            self.console_faults.empty_input -= 1
            return 0
        data = waiting.popleft()
        written = chain.write(data[: chain.writable_bytes])
        if written < len(data) and index != _CONTROL_IN:
            waiting.appendleft(data[written:])
        return written

    def _control(self, data: bytes) -> None:
        if len(data) != CONTROL_BYTES:
            raise RuleBroken(f"a control message of {len(data)} bytes (5.3.6.2)")
        message = ControlMessage.parse(data)
        self.told.append(message)
        if message.event == ControlEvent.DEVICE_READY:
            self._begin(message)
            return
        port = self.ports.get(message.id)
        if not self._is_ready:
            raise RuleBroken(f"control message {message!r} before DEVICE_READY (5.3.5)")
        if message.event == ControlEvent.PORT_READY:
            self._describe(port, message)
        elif message.event == ControlEvent.PORT_OPEN:
            self._check_port(port, message)
        else:
            raise RuleBroken(f"control message {message!r}, which a driver does not send (5.3.6.2)")

    def _begin(self, message: ControlMessage) -> None:
        if self._is_ready or message.value != 1:
            raise RuleBroken(f"DEVICE_READY {message.value}, twice or not 1 (5.3.6.2)")
        self._is_ready = True
        for number in self.ports:
            self.tell(number, ControlEvent.PORT_ADD, 1)

    def _describe(self, port: FakePort | None, message: ControlMessage) -> None:
        if port is None or not message.value:
            return
        port.ready = True
        if port.is_console:
            self.tell(port.id, ControlEvent.CONSOLE_PORT, 1)
        if port.name:
            self.tell(port.id, ControlEvent.PORT_NAME, 1, port.name)
        if port.host_open:
            self.tell(port.id, ControlEvent.PORT_OPEN, 1)

    def _check_port(self, port: FakePort | None, message: ControlMessage) -> None:
        if port is None:
            # The port may have gone while the message was on its way.
            return
        if not port.ready:
            raise RuleBroken(f"PORT_OPEN of port {port.id} before its PORT_READY (5.3.6.2)")
        port.open = bool(message.value)

    def _reset(self) -> None:
        super()._reset()
        self._is_ready = False
        self._waiting.clear()
        for port in self.ports.values():
            port.ready = port.open = not self._multiport_offered


def _receive_queue(port: int) -> int:
    return 2 * port + 2 if port else 0
