"""A "Simple VirtIO Block" device (seed 002) in process, strict about every MUST; names as the seed's skeleton has them.

A driver that breaks a rule gets `RuleBroken` in the access that broke it. Where there is nobody to raise it to
(`strict=False`: the driver is behind a wire), it is noted in `violations`. Either way the device goes to RESET. Each
way of misbehaving is a switch in `Faults`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from hwloop.device import svirtb_rules as rules
from hwloop.device.svirtb_memory import Backing, BadAddress, Memory
from hwloop.device.svirtb_mmio import (
    Bus,
    Direction,
    Gpa,
    MmioInfo,
    MmioRegion,
    OtherAccess,
    VmexitResult,
    Write32,
    map_region,
)
from hwloop.device.svirtb_protocol import (
    SVIRTB_BASE,
    Interpretation,
    ResetEndedBy,
    VirtIoMmioHeader,
    VirtIoStatus,
    VirtQueueEntry,
    VirtQueueEntryCmd,
)
from hwloop.device.svirtb_queue import VirtQueue, VirtQueueFetcher
from hwloop.device.svirtb_registers import status_text
from hwloop.device.svirtb_rules import Rule
from hwloop.errors import InvalidParam
from hwloop.owner import Owner
from hwloop.transport.fake_device import RuleBroken
from mmio import FakeRegion

_STATUS, _SIZE, _HI, _LO, _HEAD, _TAIL = (register.offset for register in VirtIoMmioHeader.registers())
_CONFIG = {_SIZE: "queue_size", _HI: "queue_addr_hi", _LO: "queue_addr_lo"}
_ALL_ONES = 0xFFFF_FFFF


@dataclass
class Faults:
    """One switch for each way in which the device may misbehave."""

    magic: int = VirtIoStatus.MAGIC
    """What it shows in place of the magic, at its next start or reset."""
    keep_status_at: set[VirtIoStatus] = field(default_factory=set)
    """Writes of these values to the status change nothing: DRIVER_OK or READY do not stick, RESET does not reset."""
    refuse: bool = False
    """READY is answered with RESET, whatever the ring."""
    forget: set[str] = field(default_factory=set)
    """Configuration registers that show 0 whatever was written."""
    drop: bool = False
    """Entries are taken and never completed."""
    lose_doorbells: int = 0
    """So many writes of the head are not seen."""
    tail: Callable[[int], int] | None = None
    """What queue_tail shows, of what it should."""
    move_head: bool = False
    """The device writes queue_head."""
    fail_after: int = -1
    """The entry behind so many puts the device in error: it asks to be reset."""
    reset_after: int = -1
    """At the entry behind so many the device resets itself."""
    gone: bool = False
    """Unplugged: every register reads all ones."""


@dataclass
class SimpleVirtioBlockDevInner:
    """The state that the lock guards: `status`, the ring once it is configured, and the disk."""

    status: int
    virt_queue: VirtQueue | None
    file_system: Backing


class SimpleVirtIoBlockDev(Owner):
    """The device, on a disk, with the memory that it may reach. Any thread may access the registers.

    Entries are executed inside the write of the doorbell, or by a thread of the device's own after `start`, or by
    `release` with `hold` set.
    """

    def __init__(
        self,
        file_system: Backing,
        memory: Memory,
        *,
        interpretation: Interpretation | None = None,
        strict: bool = True,
        address: int = SVIRTB_BASE,
    ) -> None:
        self.memory = memory
        self.interpretation = interpretation or Interpretation()
        self.strict = strict
        self.address = address
        self.faults = Faults()
        self.hold = False
        self.violations: list[RuleBroken] = []
        self.errors: list[str] = []
        """Why the device went to RESET."""
        self.registers = FakeRegion(VirtIoMmioHeader.span, on_read=self._on_read, on_write=self._on_write)
        self.inner = SimpleVirtioBlockDevInner(VirtIoStatus.MAGIC, None, file_system)
        self._lock = threading.RLock()
        self._work = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._excused = False
        self.reset()

    def attach(self, bus: Bus) -> None:
        """Put the registers on a bus (seed 002). Raises AlreadyUsed when something else is there."""
        map_region(bus, self.region(), self.registers)

    def region(self) -> MmioRegion:
        """The addresses of the registers."""
        return MmioRegion(Gpa(self.address), Gpa(self.address + VirtIoMmioHeader.span))

    def handle(self, info: MmioInfo) -> VmexitResult:
        """A trapped access: a write of 32 bits is acted on, everything else is left alone (seed 002)."""
        direction = info.direction
        if isinstance(direction, Write32):
            with self._lock:
                self._write(direction.dst - self.address, direction.src)
        return VmexitResult.Ok

    def reset(self) -> None:
        """What power on and a write of RESET do: everything is forgotten, and the magic shows (seed 002, 2.1.2)."""
        with self._lock:
            self.inner.virt_queue = None
            for offset in (*_CONFIG, _HEAD, _TAIL):
                self.registers.poke(offset, 4, 0)
            self._head = self._consumed = 0
            self._configured: set[str] = set()
            self._set_status(self.faults.magic)

    def start(self) -> None:
        """From now on a thread executes entries, at the same time as the driver goes on. `close` ends it."""
        self._thread = threading.Thread(target=self._run, name="svirtb", daemon=True)
        self._thread.start()

    def release(self, count: int = -1) -> None:
        """Execute so many of the entries that are available, or all."""
        while count and self._execute_next():
            count -= 1

    def close(self) -> None:
        """End the thread, and close the disk."""
        self._stopping = True
        self._work.set()
        if self._thread is not None:
            self._thread.join()
        self.inner.file_system.close()

    # --- Private: registers -------------------------------------------------------------------------------------------

    def _on_read(self, offset: int, width: int) -> int | None:
        if self.faults.gone:
            return (1 << 8 * width) - 1
        with self._lock:
            if offset == _STATUS and width == 4:
                return self._read_status()
        return None

    def _read_status(self) -> int:
        self._seen = True
        status = self.inner.status
        if status == VirtIoStatus.RESET and self.interpretation.reset_ended_by is ResetEndedBy.DEVICE:
            # Its driver has seen the error.
            self.reset()
        return status

    def _on_write(self, offset: int, width: int, value: int) -> int:
        """A write reaches the device by `handle`; the bytes stay what the device made of them."""
        dst = Gpa(self.address + offset)
        direction: Direction = Write32(dst, value) if width == 4 else OtherAccess(dst, width, write=True)
        self.handle(MmioInfo(direction))
        return self.registers.peek(offset, width)

    def _write(self, offset: int, value: int) -> None:
        if self.faults.gone:
            return
        if offset == _STATUS:
            self._write_status(value)
        elif offset in _CONFIG:
            self._write_config(offset, value)
        elif offset == _HEAD:
            self._write_head(value)
        else:
            self._break(rules.NO_WRITTEN_TAIL, "the driver wrote queue_tail")

    def _set_status(self, status: int) -> None:
        self.inner.status = status
        self.registers.poke(_STATUS, 4, status)
        self._seen = False

    # --- Private: status ----------------------------------------------------------------------------------------------

    def _write_status(self, value: int) -> None:
        if value not in list(VirtIoStatus):
            self._break(rules.SET_KNOWN_STATUS, f"the driver wrote {value:#x} into status, which has no such value")
        elif value == VirtIoStatus.MAGIC:
            self._break(rules.NEVER_SET_MAGIC, "the driver wrote MAGIC into status")
        elif value in self.faults.keep_status_at:
            return
        elif value == VirtIoStatus.RESET:
            self.reset()
        elif value == VirtIoStatus.DRIVER_OK:
            self._take_driver_ok()
        else:
            self._take_ready()

    def _take_driver_ok(self) -> None:
        if self.inner.status != self.faults.magic:
            self._break(rules.WRITE_DRIVER_OK, f"DRIVER_OK was written while {self._state}")
        elif not self._seen:
            self._break(rules.CHECK_MAGIC, "DRIVER_OK was written before the magic was read")
        else:
            self._excused = False
            self._set_status(VirtIoStatus.DRIVER_OK)

    def _write_config(self, offset: int, value: int) -> None:
        name = _CONFIG[offset]
        if self._is_excused():
            return
        if self.inner.status != VirtIoStatus.DRIVER_OK:
            self._break(rules.CONFIGURE_AFTER_DRIVER_OK, f"{name} was written while {self._state}")
        elif not self._seen:
            self._break(rules.READ_DRIVER_OK_BACK, f"{name} was written before DRIVER_OK was read back")
        else:
            self._configured.add(name)
            self.registers.poke(offset, 4, 0 if name in self.faults.forget else value)

    def _take_ready(self) -> None:
        missing = set(_CONFIG.values()) - self._configured
        if self._is_excused():
            return
        if self.inner.status != VirtIoStatus.DRIVER_OK:
            self._break(rules.WRITE_READY, f"READY was written while {self._state}")
        elif missing:
            self._break(rules.CONFIGURE_RING, f"READY was written before {', '.join(sorted(missing))}")
        elif self.faults.refuse:
            self._ask_for_reset("it was told to refuse")
        else:
            self._validate()

    def _validate(self) -> None:
        """READY only with a ring that is there (seed 002, 2.1.2)."""
        size = self.registers.peek(_SIZE, 4)
        address = self.registers.peek(_HI, 4) << 32 | self.registers.peek(_LO, 4)
        try:
            self.interpretation.check_queue_size(size)
            self.inner.virt_queue = VirtQueue.new_from_raw_ptr(self.memory, address, size)
        except (InvalidParam, BadAddress) as error:
            self._break(rules.GIVE_A_RING, f"READY was written with a ring of {size} entries at {address:#x}: {error}")
            return
        self._show_tail()
        self._set_status(VirtIoStatus.READY)

    # --- Private: the ring --------------------------------------------------------------------------------------------

    def _write_head(self, value: int) -> None:
        if self._is_excused():
            return
        queue = self.inner.virt_queue
        if self.inner.status != VirtIoStatus.READY or queue is None:
            self._break(rules.NO_EARLY_DOORBELL, f"the doorbell was written while {self._state}")
            return
        if not self._seen:
            self._break(rules.READ_READY_BACK, "the doorbell was written before READY was read back")
            return
        new = self.interpretation.progress(self._head, value, queue.size)
        free = self.interpretation.usable(queue.size) - (self._head - self._consumed)
        if new is None or new > free:
            self._break(
                rules.KEEP_WITHIN_RING, f"queue_head {value} is impossible: {free} of {queue.size} entries are free"
            )
        elif self.faults.lose_doorbells:
            self.faults.lose_doorbells -= 1
            self.registers.poke(_HEAD, 4, value)
        else:
            self._head += new
            self.registers.poke(_HEAD, 4, value + 1 & _ALL_ONES if self.faults.move_head else value)
            self._serve()

    def _serve(self) -> None:
        if self.hold or self.faults.drop:
            return
        if self._thread is None:
            self.release()
        else:
            self._work.set()

    def _run(self) -> None:
        while not self._stopping:
            self._work.wait()
            self._work.clear()
            try:
                self.release()
            except RuleBroken:
                # It is in `violations`; here is nobody to raise it to.
                continue

    def _execute_next(self) -> bool:
        """The lock is held for one entry, so that no memory is touched once a reset shows."""
        with self._lock:
            queue = self.inner.virt_queue
            if self.inner.status != VirtIoStatus.READY or queue is None or self._stopping:
                return False
            if self._misbehave():
                return False
            try:
                entry = VirtQueueFetcher(queue, self._consumed, self._head).fetch()
                if entry is None or not self._execute(entry):
                    return False
            except BadAddress as error:
                self._break(rules.FILL_ENTRY, f"entry {self._consumed} of the ring: {error}")
                return False
            except OSError as error:
                self._ask_for_reset(f"the disk failed: {error}")
                return False
            self._consumed += 1
            self._show_tail()
            return True

    def _misbehave(self) -> bool:
        if self._consumed == self._head:
            return False
        if self._consumed == self.faults.fail_after:
            self._ask_for_reset("it was told to fail")
            return True
        if self._consumed == self.faults.reset_after:
            self._excused = True
            self.reset()
            return True
        return False

    def _execute(self, entry: VirtQueueEntry) -> bool:
        sector, disk = self.interpretation.sector_size, self.inner.file_system
        start = entry.sector * sector
        if entry.cmd not in list(VirtQueueEntryCmd):
            self._break(rules.FILL_ENTRY, f"{entry} has a command that is neither read nor write")
            return False
        if not entry.size or entry.size % sector or start + entry.size > disk.size:
            self._ask_for_reset(f"{entry} is not whole sectors of a disk of {disk.size} bytes")
            return False
        if entry.cmd == VirtQueueEntryCmd.Read:
            self.memory.write(entry.addr, disk.read(start, entry.size))
        else:
            disk.write(start, self.memory.read(entry.addr, entry.size))
        return True

    def _show_tail(self) -> None:
        assert self.inner.virt_queue is not None
        tail = self.interpretation.tail_of(self._consumed, self.inner.virt_queue.size)
        if self.faults.tail is not None:
            tail = self.faults.tail(tail)
        self.registers.poke(_TAIL, 4, tail)

    # --- Private: errors ----------------------------------------------------------------------------------------------

    def _is_excused(self) -> bool:
        """Whether the device left its state by itself, so that the driver cannot know better."""
        return self._excused and self.inner.status in (VirtIoStatus.RESET, self.faults.magic)

    def _ask_for_reset(self, why: str) -> None:
        """The device met an error (seed 002, 2.1.2); from now on it touches nothing."""
        self.errors.append(why)
        self._excused = True
        self._set_status(VirtIoStatus.RESET)

    @property
    def _state(self) -> str:
        return f"the status was {status_text(self.inner.status)}"

    def _break(self, rule: Rule, what: str) -> None:
        broken = RuleBroken(f"{what} ({rule})")
        self.violations.append(broken)
        self._ask_for_reset(str(broken))
        if self.strict:
            raise broken
