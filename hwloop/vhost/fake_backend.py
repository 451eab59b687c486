"""A vhost-user back end in process, stricter than any real one: a `FakeDevice` behind a real socket, in a thread.

A front end that breaks a rule of the protocol or of virtio is noted in `violations` and hung up on. The device reaches
its memory only through the regions that it was given. Each way of misbehaving is a switch in `PeerFaults`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cython_ring import DeviceSideSplit
from hwloop.deadline import Deadline
from hwloop.errors import DeviceLost
from hwloop.hal.fake import DmaFault, FakeHal
from hwloop.owner import Owner
from hwloop.spec import DeviceStatus, Feature
from hwloop.transport.fake_device import FakeDevice, RuleBroken, Step
from hwloop.vhost.channel import Channel, Message, poll_of
from hwloop.vhost.inflight import InflightMemory, InflightQueue, region_bytes
from hwloop.vhost.messages import (
    KINDS,
    LONGEST_CONFIG,
    NEED_REPLY,
    NO_DESCRIPTOR,
    PROTOCOL_FEATURES,
    REPLY,
    VERSION,
    BackEndRequest,
    Config,
    Header,
    Inflight,
    MemoryTable,
    Nothing,
    Number,
    Payload,
    ProtocolFeature,
    Region,
    Request,
    SingleRegion,
    VringAddresses,
    VringState,
    parse_request,
)

P = ProtocolFeature
EVERYTHING = (
    P.MQ | P.REPLY_ACK | P.BACKEND_REQ | P.CONFIG | P.INFLIGHT_SHMFD | P.RESET_DEVICE | P.CONFIGURE_MEM_SLOTS | P.STATUS
)
"""All that can be negotiated here."""
LIKE_QEMU = EVERYTHING & ~(P.INFLIGHT_SHMFD | P.RESET_DEVICE | P.STATUS)
"""What qemu-storage-daemon offers of it."""
LEAST = P.CONFIG
"""A back end of the first years: no answers, no queue count, no channel of its own."""

MOST_SLOTS = 32
_WORD_SECONDS = 5.0
_READY = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER
_SETTLED = _READY | DeviceStatus.FEATURES_OK
_ALIGNMENTS = {"descriptors": 16, "available": 2, "used": 4}


@dataclass
class PeerFaults:
    """One switch for each way in which a peer may misbehave, in its answers to the message `at`, or to every one."""

    at: Request | None = None
    silent: bool = False
    """It takes the message and does not answer."""
    hang_up: bool = False
    """It closes the connection instead of answering."""
    hang_up_midway: bool = False
    """It closes the connection in the middle of the answer."""
    stall_midway: bool = False
    """Half of the answer comes, and no more."""
    version: int = VERSION
    no_reply_flag: bool = False
    reserved_flags: bool = False
    other_request: bool = False
    """The answer is to another question."""
    short: bool = False
    long: bool = False
    huge: bool = False
    """The header claims 4 GiB."""
    descriptors: int = 0
    """So many descriptors come with the answer that do not belong to it."""
    no_descriptors: bool = False
    """Those that belong to it do not come."""
    unasked: bool = False
    """The answer comes twice."""
    refuse: bool = False
    """It says that it failed."""
    number: int | None = None
    """What is said where a number is asked for."""


@dataclass
class _Death:
    """When the back end dies: `left` buffers after this one, at this step. `then` is what changes until it is back."""

    step: Step
    left: int
    then: Callable[[], object] | None
    always: bool


class Died(Exception):
    """The back end is dead."""


@dataclass
class _Ring:
    """What the front end told about one queue."""

    size: int = 0
    base: int | None = None
    addresses: VringAddresses | None = None
    enabled: bool = False
    descriptors: dict[Request, int] = field(default_factory=dict)
    running: bool = False
    notes: InflightQueue | None = None

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])


class MappedMemory(FakeHal):
    """The driver's memory as a back end has it: files mapped once more, and what is not in a region does not exist."""

    def __init__(self) -> None:
        super().__init__()
        self._mapped: dict[Region, _Mapping] = {}

    @property
    def regions_mapped(self) -> list[Region]:
        return list(self._mapped)

    def add(self, region: Region, descriptor: int) -> None:
        """Raises RuleBroken for a region that is not in its file, or that overlaps another."""
        for other in self._mapped:
            for start, begun in ((region.guest, other.guest), (region.user, other.user)):
                if start < begun + other.size and begun < start + region.size:
                    raise RuleBroken(f"{region} overlaps {other}")
        if not region.size or os.fstat(descriptor).st_size < region.offset + region.size:
            raise RuleBroken(f"{region} is not in its file, which has {os.fstat(descriptor).st_size} bytes")
        self._mapped[region] = _Mapping(region, descriptor)

    def remove(self, region: Region) -> None:
        if region not in self._mapped:
            raise RuleBroken(f"{region} was not there, and cannot be removed")
        self._mapped.pop(region).close()

    def clear(self) -> None:
        while self._mapped:
            self._mapped.popitem()[1].close()

    def translate(self, address: int, length: int, writable: bool) -> int:
        for region, mapping in self._mapped.items():
            if region.guest <= address and address + length <= region.guest + region.size:
                return mapping.address + address - region.guest
        raise DmaFault(f"no region of memory has {length} bytes at {address:#x}")

    def guest_address(self, user: int, length: int) -> int:
        """The guest address of a user address. Raises DmaFault."""
        for region in self._mapped:
            if region.user <= user and user + length <= region.user + region.size:
                return region.guest + user - region.user
        raise DmaFault(f"no region of memory has {length} bytes at the user address {user:#x}")


class _Mapping(Owner):
    def __init__(self, region: Region, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, region.size, offset=region.offset)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)

    def close(self) -> None:
        self._anchor = None
        self._map.close()


class FakeBackEnd(Owner):
    """Serves `device` to one front end at a time, as real back ends do; `protocol` is what it offers of the protocol.

    `requests` are the messages that came, `violations` what was wrong with one, `connections` how many there were.
    """

    def __init__(self, device: FakeDevice, protocol: ProtocolFeature = EVERYTHING) -> None:
        self.device = device
        self.protocol_offered = protocol
        self.faults = PeerFaults()
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.connections = 0
        self._death: _Death | None = None
        self._session: _Session | None = None
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def connect(self) -> socket.socket:
        """A connected socket for a front end; its other end is served."""
        ours, theirs = socket.socketpair()
        self._begin(lambda: self._serve(ours))
        return theirs

    def listen(self, path: Path) -> None:
        """Serve those who connect to a socket at this path, one after the other."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(os.fspath(path))
        self._listener.listen(1)
        self._begin(lambda: self._accept(self._listener))

    def send_unasked(self, data: bytes, descriptors: Sequence[int] = (), *, own_channel: bool = True) -> None:
        """Send any bytes, on the channel of its own or on the connection."""
        session = self._live()
        channel = session.own if own_channel else session.channel
        assert channel is not None, "the front end gave a channel"
        with socket.socket(fileno=os.dup(channel.fileno())) as sock:
            socket.send_fds(sock, [data], list(descriptors))

    def needs_reset(self) -> None:
        """The device met an error, and says so."""
        self.device.status |= DeviceStatus.DEVICE_NEEDS_RESET
        self._live().signal_errors()

    def hang_up(self) -> None:
        """Close the connection that is served, as a process does that dies."""
        self._live().channel.hang_up()

    def die(
        self, step: Step, *, after: int = 0, then: Callable[[], object] | None = None, always: bool = False
    ) -> None:
        """Die as soon as another buffer, the first or `after` so many, has come to this step; with `always`, each time.

        It forgets all but the disk, and hangs up. One that listens at a path is there again for the next connection,
        before which `then` is called.
        """
        self._death = _Death(step, after, then, always)

    def passed(self, step: Step) -> None:
        """A buffer has come to a step. Raises Died."""
        death = self._death
        if death is None or death.step is not step:
            return
        death.left -= 1
        if death.left >= 0:
            return
        if not death.always:
            self._death = None
        if death.then is not None:
            death.then()
        raise Died

    def close(self) -> None:
        """Stop serving, and wait for that. Idempotent."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        for thread in self._threads:
            thread.join()
        if self._listener is not None:
            self._listener.close()
        os.close(self._stop)
        self._stop = -1

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="fake vhost-user back end", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket | None) -> None:
        assert listener is not None
        while self._stop not in dict(poll_of(listener.fileno(), self._stop).poll()):
            self._serve(listener.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        self.connections += 1
        with _Session(self, sock) as session:
            self._session = session
            session.run(self._stop)

    def _live(self) -> _Session:
        assert self._session is not None, "somebody has connected"
        return self._session


class _Session(Owner):
    """One connection, from its first message to its end."""

    def __init__(self, back_end: FakeBackEnd, sock: socket.socket) -> None:
        self.back_end = back_end
        self.device = back_end.device
        self.channel = _FakeChannel(sock, "the front end")
        self.own: Channel | None = None
        self._memory = MappedMemory()
        self._owned = False
        self._protocol = ProtocolFeature(0)
        self._features: int | None = None
        self._rings: dict[int, _Ring] = {}
        self._inflight: InflightMemory | None = None
        self.device.hal = self._memory
        self.device.on_step = self._note
        self.device.bus_master = True
        self.device.send_message = self._call
        self.device.reset_itself()

    def run(self, stop: int) -> None:
        """Until the front end hangs up, breaks a rule, or `stop` is readable."""
        try:
            while self.channel.fault is None:
                ready = dict(poll_of(self.channel.fileno(), stop, *self._kicks()).poll())
                if stop in ready:
                    return
                if self.channel.fileno() in ready:
                    self._take_message()
                for index, ring in list(self._rings.items()):
                    if ring.running and ring.descriptors.get(Request.SET_VRING_KICK) in ready:
                        self._run_queue(index, ring)
        except (DeviceLost, Died):
            return
        except Exception as error:
            # Whatever it is: nobody waits for this thread, and a test has to hear of it.
            self.back_end.violations.append(f"{type(error).__name__}: {error}")

    def signal_errors(self) -> None:
        for ring in self._rings.values():
            os.eventfd_write(ring.descriptors[Request.SET_VRING_ERR], 1)

    def close(self) -> None:
        with ExitStack() as steps:
            steps.callback(self._memory.clear)
            if self._inflight is not None:
                steps.callback(self._inflight.close)
            # The rings of the device are in that memory.
            steps.callback(self.device.reset_itself)
            for ring in self._rings.values():
                steps.callback(ring.close)
            if self.own is not None:
                steps.callback(self.own.close)
            steps.callback(self.channel.close)

    # --- Messages -----------------------------------------------------------------------------------------------------

    def _take_message(self) -> None:
        with self.channel.receive(Deadline(_WORD_SECONDS), "the rest of a message") as message:
            request = parse_request(message.header.request)
            self.back_end.requests.append(request)
            payload = self._checked(request, message)
            answer = _HANDLERS[request](self, payload, message.descriptors)
            self._answer(request, message, answer)

    def _checked(self, request: Request, message: Message) -> Payload:
        kind, flags = KINDS[request], message.header.flags
        _rule(not flags & REPLY, f"{request.name} is marked as a reply")
        _rule(not flags & NEED_REPLY or self._has(P.REPLY_ACK), f"{request.name} needs a reply, without REPLY_ACK")
        _rule(kind.feature in self._protocol, f"{request.name} was sent without {kind.feature!r}")
        _rule(self._owned or request in (Request.GET_FEATURES, Request.SET_OWNER), f"{request.name} before SET_OWNER")
        count = len(message.descriptors)
        _rule(count in kind.descriptors, f"{request.name} came with {count} descriptors")
        return kind.payload.parse(message.payload)

    def _answer(self, request: Request, message: Message, answer: _Answer) -> None:
        if KINDS[request].reply is None and not message.header.flags & NEED_REPLY:
            return
        faults = self.back_end.faults
        spoilt = faults if faults.at in (None, request) else PeerFaults()
        payload, descriptors = answer if isinstance(answer, tuple) else (answer, [])
        if isinstance(payload, Number) and spoilt.number is not None:
            payload = Number(spoilt.number)
        self.channel.answer(request, b"" if payload is None else payload.format(), descriptors, spoilt)
        for descriptor in descriptors:
            os.close(descriptor)

    def _has(self, feature: ProtocolFeature) -> bool:
        return bool(self._protocol & feature)

    # --- Negotiating --------------------------------------------------------------------------------------------------

    def _get_features(self, payload: Nothing, descriptors: list[int]) -> _Answer:
        return Number(self._offered())

    def _offered(self) -> int:
        return self.device.offered | (PROTOCOL_FEATURES if self.back_end.protocol_offered else 0)

    def _set_features(self, payload: Number, descriptors: list[int]) -> _Answer:
        _rule(not payload.value & ~self._offered(), f"features {payload.value:#x} of {self._offered():#x}")
        _rule(bool(payload.value & PROTOCOL_FEATURES) or not self._protocol, "SET_FEATURES without bit 30")
        _rule(not self._running(), "SET_FEATURES while a queue runs")
        if not self._has(P.STATUS):
            # Without a status the features are the only sign of a reset, and of every step before them.
            for status in (DeviceStatus(0), DeviceStatus.ACKNOWLEDGE, _READY):
                self.device.write_status(int(status))
        self.device.write_features(payload.value & ~PROTOCOL_FEATURES)
        self._features = payload.value
        if self._has(P.STATUS):
            return Number(0)
        self.device.write_status(int(_SETTLED))
        return Number(int(self.device.faults.refuse_features))

    def _set_owner(self, payload: Nothing, descriptors: list[int]) -> _Answer:
        _rule(not self._owned, "SET_OWNER twice")
        self._owned = True
        return Number(0)

    def _get_protocol_features(self, payload: Nothing, descriptors: list[int]) -> _Answer:
        _rule(bool(self.back_end.protocol_offered), "GET_PROTOCOL_FEATURES, and bit 30 is not offered")
        return Number(int(self.back_end.protocol_offered))

    def _set_protocol_features(self, payload: Number, descriptors: list[int]) -> _Answer:
        _rule(not payload.value & ~self.back_end.protocol_offered, f"protocol features {payload.value:#x}")
        self._protocol = ProtocolFeature(payload.value)
        return Number(0)

    def _get_queue_num(self, payload: Nothing, descriptors: list[int]) -> _Answer:
        return Number(len(self.device.queues))

    def _set_backend_req_fd(self, payload: Nothing, descriptors: list[int]) -> _Answer:
        _rule(self.own is None, "SET_BACKEND_REQ_FD twice")
        self.own = Channel(socket.socket(fileno=descriptors.pop()), "the front end")
        return Number(0)

    # --- Memory -------------------------------------------------------------------------------------------------------

    def _set_mem_table(self, payload: MemoryTable, descriptors: list[int]) -> _Answer:
        _rule(not self._running(), "SET_MEM_TABLE while a queue runs")
        _rule(len(payload.regions) == len(descriptors), f"{len(payload.regions)} regions, {len(descriptors)} files")
        self._memory.clear()
        for region, descriptor in zip(payload.regions, descriptors, strict=True):
            self._memory.add(region, descriptor)
        return Number(0)

    def _get_max_mem_slots(self, payload: Nothing, descriptors: list[int]) -> _Answer:
        return Number(MOST_SLOTS)

    def _add_mem_reg(self, payload: SingleRegion, descriptors: list[int]) -> _Answer:
        _rule(len(self._memory.regions_mapped) < MOST_SLOTS, f"more than {MOST_SLOTS} regions")
        self._memory.add(payload.region, descriptors[0])
        return Number(0)

    def _rem_mem_reg(self, payload: SingleRegion, descriptors: list[int]) -> _Answer:
        _rule(not self._running(), "REM_MEM_REG while a queue runs")
        self._memory.remove(payload.region)
        return Number(0)

    # --- Queues -------------------------------------------------------------------------------------------------------

    def _set_vring_num(self, payload: VringState, descriptors: list[int]) -> _Answer:
        ring, size = self._ring(payload.index), payload.num
        _rule(size > 0 and not size & (size - 1), f"queue {payload.index} with {size} descriptors")
        too_many = size > self.device.queues[payload.index].max_size
        # No message tells how many it takes, so this is no rule that was broken; but who hears no answer goes on.
        _rule(not too_many or self._has(P.REPLY_ACK), f"queue {payload.index} with {size} descriptors, too many")
        ring.size = size
        return Number(int(too_many))

    def _set_vring_base(self, payload: VringState, descriptors: list[int]) -> _Answer:
        # The wrap counters of a packed ring begin at 1 (VIRTIO 1.4, 2.8.1).
        first = 0x8000_8000 if self._packed else 0
        known = self._inflight is not None and not self._packed
        _rule(known or payload.num == first, f"queue {payload.index} begins at {payload.num}, and was never served")
        self._ring(payload.index).base = payload.num
        return Number(0)

    def _set_vring_addr(self, payload: VringAddresses, descriptors: list[int]) -> _Answer:
        ring = self._ring(payload.index)
        _rule(bool(ring.size), "SET_VRING_ADDR before SET_VRING_NUM")
        _rule(payload.flags == 0, f"the log of queue {payload.index} was turned on, and is not offered")
        for name, alignment in _ALIGNMENTS.items():
            _rule(not getattr(payload, name) % alignment, f"{name} of queue {payload.index} is not aligned")
        ring.addresses = payload
        return Number(0)

    def _set_descriptor(self, request: Request, payload: Number, descriptors: list[int]) -> _Answer:
        index, none = payload.value & 0xFF, bool(payload.value & NO_DESCRIPTOR)
        _rule(payload.value < 2 * NO_DESCRIPTOR, f"{request.name} with {payload.value:#x}")
        _rule(len(descriptors) == (not none), f"{request.name} with {len(descriptors)} descriptors and bit 8 {none}")
        ring = self._ring(index)
        _rule(request not in ring.descriptors, f"{request.name} twice")
        if descriptors:
            ring.descriptors[request] = descriptors.pop()
        self._start_when_ready(index, ring)
        return Number(0)

    def _set_vring_call(self, payload: Number, descriptors: list[int]) -> _Answer:
        return self._set_descriptor(Request.SET_VRING_CALL, payload, descriptors)

    def _set_vring_err(self, payload: Number, descriptors: list[int]) -> _Answer:
        return self._set_descriptor(Request.SET_VRING_ERR, payload, descriptors)

    def _set_vring_kick(self, payload: Number, descriptors: list[int]) -> _Answer:
        return self._set_descriptor(Request.SET_VRING_KICK, payload, descriptors)

    def _set_vring_enable(self, payload: VringState, descriptors: list[int]) -> _Answer:
        _rule(bool((self._features or 0) & PROTOCOL_FEATURES), "SET_VRING_ENABLE without bit 30")
        _rule(payload.num in (0, 1), f"SET_VRING_ENABLE with {payload.num}")
        ring = self._ring(payload.index, running=True)
        ring.enabled = bool(payload.num)
        self._start_when_ready(payload.index, ring)
        return Number(0)

    def _get_vring_base(self, payload: VringState, descriptors: list[int]) -> _Answer:
        ring = self._rings.pop(payload.index, None)
        if ring is None or Request.SET_VRING_KICK not in ring.descriptors:
            raise RuleBroken(f"GET_VRING_BASE of queue {payload.index}, which was not started")
        index = self._next_available(payload.index) if ring.running else 0
        self.device.forget_queue(payload.index)
        ring.close()
        return VringState(payload.index, index)

    def _ring(self, index: int, *, running: bool = False) -> _Ring:
        _rule(self._features is not None, "a queue was described before SET_FEATURES")
        _rule(index < len(self.device.queues), f"there is no queue {index}")
        ring = self._rings.setdefault(index, _Ring())
        _rule(running or not ring.running, f"queue {index} was changed while it runs")
        return ring

    def _start_when_ready(self, index: int, ring: _Ring) -> None:
        """A queue runs once it has a kick and, with protocol features, is enabled."""
        enabled = ring.enabled or not (self._features or 0) & PROTOCOL_FEATURES
        if ring.running or Request.SET_VRING_KICK not in ring.descriptors or not enabled:
            return
        if ring.addresses is None or ring.base is None:
            raise RuleBroken(f"queue {index} was started without its addresses or its base")
        queue, size = self.device.queues[index], ring.size
        queue.size, queue.vector = size, index
        desc, driver, device = self.device.area_lengths(size)
        queue.desc = self._memory.guest_address(ring.addresses.descriptors, desc)
        queue.driver = self._memory.guest_address(ring.addresses.available, driver)
        queue.device = self._memory.guest_address(ring.addresses.used, device)
        self._set_beginning(index, ring)
        self.device.enable(index)
        ring.running = True
        if ring.notes is not None:
            assert isinstance(queue.ring, DeviceSideSplit), "only of those there are notes"
            # What one before it had taken and not used is served with what comes next.
            queue.held += [queue.ring.take_again(head) for head in ring.notes.recover(queue.first_index)]

    def _set_beginning(self, index: int, ring: _Ring) -> None:
        """Where a queue begins: at its beginning, unless there are notes of a back end that served it before."""
        if self._packed:
            return
        used = self._used_index(index)
        _rule(ring.base == used, f"queue {index} begins at {ring.base}, and its used ring at {used}")
        _rule(not used or self._inflight is not None, f"queue {index} begins at {used}, and was never served")
        self.device.queues[index].first_index = used
        if self._inflight is not None:
            ring.notes = self._inflight.queue(index)

    @property
    def _packed(self) -> bool:
        return bool((self._features or 0) & Feature.RING_PACKED)

    def _note(self, step: Step, index: int, head: int) -> None:
        """Raises Died where the back end is to die at this step."""
        ring = self._rings[index]
        if ring.notes is not None and step is Step.FETCHED:
            ring.notes.take(head)
        if ring.notes is not None and step is Step.SERVED:
            ring.notes.about_to_use(head)
        self.back_end.passed(step)
        if ring.notes is not None and step is Step.USED:
            ring.notes.used(self._used_index(index))

    def _used_index(self, index: int) -> int:
        queue = self.device.queues[index]
        return ctypes.c_uint16.from_address(self._memory.translate(queue.device + 2, 2, False)).value

    def _run_queue(self, index: int, ring: _Ring) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(ring.descriptors[Request.SET_VRING_KICK])
        if not self._has(P.STATUS) and not self.device.status & DeviceStatus.DRIVER_OK:
            self.device.write_status(int(_SETTLED | DeviceStatus.DRIVER_OK))
        self.device.notify(index)

    def _kicks(self) -> list[int]:
        return [ring.descriptors[Request.SET_VRING_KICK] for ring in self._rings.values() if ring.running]

    def _running(self) -> bool:
        return any(ring.running for ring in self._rings.values())

    def _next_available(self, index: int) -> int:
        queue = self.device.queues[index]
        assert queue.ring is not None, "it runs"
        place = queue.ring.next_avail
        return place if isinstance(place, int) else place[0] | place[1] << 15

    def _call(self, vector: int | None) -> bool:
        """The device's messages: used buffers by eventfd, changes of the configuration on the channel of its own."""
        if vector is None:
            if self.own is not None:
                self.own.send(Header(BackEndRequest.CONFIG_CHANGE_MSG, VERSION, 0), b"", (), Deadline(_WORD_SECONDS))
        elif (line := self._rings[vector].descriptors.get(Request.SET_VRING_CALL)) is not None:
            with suppress(BlockingIOError):
                os.eventfd_write(line, 1)
        return True

    # --- The device ---------------------------------------------------------------------------------------------------

    def _get_config(self, payload: Config, descriptors: list[int]) -> _Answer:
        end = payload.offset + len(payload.data)
        _rule(end <= LONGEST_CONFIG, f"GET_CONFIG up to {end}")
        if end > len(self.device.config):
            return None
        return Config(payload.offset, bytes(self.device.config[payload.offset : end]))

    def _set_config(self, payload: Config, descriptors: list[int]) -> _Answer:
        if payload.offset + len(payload.data) > len(self.device.config):
            return Number(1)
        self.device.write_config(payload.offset, len(payload.data), int.from_bytes(payload.data, "little"))
        return Number(0)

    def _get_inflight_fd(self, payload: Inflight, descriptors: list[int]) -> _Answer:
        _rule(payload.queues == len(self.device.queues), f"GET_INFLIGHT_FD for {payload.queues} queues")
        size = payload.queues * region_bytes(payload.queue_size)
        file = os.memfd_create("fake in-flight", os.MFD_CLOEXEC)
        os.ftruncate(file, size)
        return Inflight(size, 0, payload.queues, payload.queue_size), [file]

    def _set_inflight_fd(self, payload: Inflight, descriptors: list[int]) -> _Answer:
        size = os.fstat(descriptors[0]).st_size
        _rule(payload.offset + payload.size <= size, f"{payload} is not in its file of {size} bytes")
        _rule(not self._running(), "SET_INFLIGHT_FD while a queue runs")
        if self._inflight is not None:
            self._inflight.close()
        self._inflight = InflightMemory(payload, descriptors[0])
        return Number(0)

    def _reset_device(self, payload: Nothing, descriptors: list[int]) -> _Answer:
        _rule(not self._running(), "RESET_DEVICE while a queue runs")
        self.device.write_status(0)
        return Number(0)

    def _set_status(self, payload: Number, descriptors: list[int]) -> _Answer:
        self.device.write_status(payload.value)
        return Number(0)

    def _get_status(self, payload: Nothing, descriptors: list[int]) -> _Answer:
        return Number(self.device.read_status())


_Answer = Payload | tuple[Payload, list[int]] | None
_HANDLERS: dict[Request, Callable[[_Session, Payload, list[int]], _Answer]] = {
    request: getattr(_Session, f"_{request.name.lower()}") for request in KINDS
}


class _FakeChannel(Channel):
    """A channel that can say anything."""

    def answer(self, request: Request, payload: bytes, descriptors: Sequence[int], faults: PeerFaults) -> None:
        """Send an answer, spoilt as the switches say."""
        if faults.silent:
            return
        if faults.hang_up:
            self.hang_up()
            return
        data = _spoilt_header(request, payload, faults) + _spoilt_payload(payload, faults)
        with ExitStack() as stack:
            extra = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(faults.descriptors)]
            for descriptor in extra:
                stack.callback(os.close, descriptor)
            whole = [*extra, *([] if faults.no_descriptors else descriptors)]
            midway = faults.hang_up_midway or faults.stall_midway
            with suppress(OSError):
                socket.send_fds(self._socket, [data[:16] if midway else data * (2 if faults.unasked else 1)], whole)
        if faults.hang_up_midway:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection at once; what was sent arrives."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _spoilt_header(request: Request, payload: bytes, faults: PeerFaults) -> bytes:
    number = request + 1 if faults.other_request else request
    flags = faults.version | (0 if faults.no_reply_flag else REPLY) | (0x100 if faults.reserved_flags else 0)
    size = 0xFFFF_FFFF if faults.huge else len(_spoilt_payload(payload, faults))
    return struct.pack("=III", number, flags, size)


def _spoilt_payload(payload: bytes, faults: PeerFaults) -> bytes:
    if faults.refuse:
        return Number(1).format()
    if faults.short:
        return payload[:-1]
    return payload + bytes(8) if faults.long else payload


def _rule(kept: bool, broken: str) -> None:
    if not kept:
        raise RuleBroken(f"vhost-user: {broken}")
