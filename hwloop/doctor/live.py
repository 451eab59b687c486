"""Tries a device: initialises it, reads one sector, and looks at what came of it. Nothing on it is changed.

What is seen is collected first (`Evidence`), and judged by itself (`judge`): a judgement can be tested with any
evidence, and says `certain` only where a register said so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from hwloop.doctor.base import CERTAIN, DEVICE_ERROR, DEVICE_LOST, HINT, LIKELY, POSSIBLE, Finding
from hwloop.door.base import Place
from hwloop.errors import DeviceError, DeviceLost, FeaturesRefused, HwloopError
from hwloop.hal.base import BufferDirection, Dma, Hal
from hwloop.queue import VirtQueue
from hwloop.spec import DeviceStatus, DeviceType, Feature, PhysAddr
from hwloop.transport.base import Transport
from hwloop.transport.filter import TransportFilter
from pci import Command

WAIT_SECONDS = 1.0
_HEADER, _DATA = 16, 512
_NOT_WRITTEN = 0xFF


@dataclass(frozen=True)
class Evidence:
    """What was seen of a request that did not complete, or completed late. None: cannot be known here.

    `used` counts what the device has put into the used ring: after the first wait, and after a second notification.
    """

    status: int | None = 0x0F
    used: int = 0
    used_after_notify: int = 0
    command: int | None = None
    queue_enabled: bool | None = True
    interrupt_wanted: bool = False
    interrupt_came: bool = False


def try_device(place: Place, seconds: float = WAIT_SECONDS) -> list[Finding]:
    """Take the device, try it, give it back. With `wait=irq` in its target its interrupt is tried too.

    Raises what `Place.open_filtered` raises.
    """
    with place.open_filtered() as opened:
        trial = Trial(place.name, opened.transport, opened.hal, seconds)
        try:
            findings = list(trial.run(interrupts=place.target.options.get("wait", "poll") != "poll"))
        finally:
            trial.end()
            opened.transport.stop_dma()
    if trial.fault is not None and not findings:
        findings.append(judge_error(place.name, trial.fault))
    return [finding.of("live") for finding in findings]


class Trial:
    """One device that is being tried."""

    def __init__(self, name: str, transport: Transport, hal: Hal, seconds: float) -> None:
        self.name = name
        self.transport = transport
        self.hal = hal
        self.seconds = seconds
        self.fault: HwloopError | None = None
        """Why its last reset is not known to have worked."""

    def run(self, *, interrupts: bool) -> Iterator[Finding]:
        try:
            offered = self.transport.read_device_features()
            self.transport.begin_init(lambda bits: bits & (Feature.VERSION_1 | Feature.ACCESS_PLATFORM))
            queue = VirtQueue(self.hal, self.transport, 0)
            try:
                self.transport.finish_init()
                yield from _hints(self.name, offered)
                if self.transport.device_type() == DeviceType.Block:
                    yield from self._read_a_sector(queue, interrupts)
            finally:
                self.end()
                queue.close()
        except HwloopError as error:
            yield judge_error(self.name, error)

    def end(self) -> None:
        """Reset the device; where that cannot be confirmed, its memory is never used again."""
        try:
            if not self.transport.reset_pending:
                self.transport.reset()
        except HwloopError as error:
            self.hal.quarantine()
            self.fault = self.fault or error

    def _read_a_sector(self, queue: VirtQueue, interrupts: bool) -> Iterator[Finding]:
        hal = self.hal
        with Dma(hal, 1, BufferDirection.DriverToDevice) as header, Dma(hal, 1, BufferDirection.DeviceToDriver) as data:
            try:
                yield from self._read_once(queue, header, data)
                if interrupts and queue.pop() is not None:
                    yield from self._read_with_interrupt(queue, header, data)
            finally:
                # Before its memory goes back: the device may still have it.
                self.end()

    def _read_once(self, queue: VirtQueue, header: Dma, data: Dma) -> Iterator[Finding]:
        _submit(queue, header, data)
        used = again = int(queue.wait(self.seconds))
        if not used:
            with suppress(OSError):
                queue.notify()
                again = int(queue.wait(self.seconds / 2))
            yield from judge(self.name, self._look(used, again))
        if again and data.view[_DATA]:
            yield _failed_read(self.name, data.view[_DATA])

    def _read_with_interrupt(self, queue: VirtQueue, header: Dma, data: Dma) -> Iterator[Finding]:
        line = self.hal.interrupt()
        if line is None:
            yield _no_interrupt(self.hal.name)
            return
        with line:
            queue.use_interrupt(line)
            _submit(queue, header, data)
            came = line.wait(self.seconds)
            queue.use_interrupt(None)
        if not came and queue.wait(self.seconds):
            evidence = self._look(1, 1)
            yield from judge(self.name, replace(evidence, interrupt_wanted=True))

    def _look(self, used: int, again: int) -> Evidence:
        status: int | None = None
        enabled: bool | None = None
        with suppress(OSError):
            status = int(self.transport.get_status())
        with suppress(OSError):
            enabled = self.transport.queue_used(0)
        command = read_command(self.transport)
        return Evidence(status, used, again, command, enabled)


def _submit(queue: VirtQueue, header: Dma, data: Dma) -> None:
    data.view[_DATA] = _NOT_WRITTEN
    queue.add([(header.paddr, _HEADER)], [(data.paddr, _DATA), (PhysAddr(data.paddr + _DATA), 1)], None)
    queue.submit()


def _no_interrupt(hal: str) -> Finding:
    return Finding(
        f"the {hal} HAL brings no interrupt of this device",
        "it can only be polled",
        "leave wait= out, or use wait=poll",
    )


def _hints(name: str, offered: int) -> Iterator[Finding]:
    if not offered & Feature.VERSION_1:
        yield Finding(
            f"{name} does not offer VERSION_1", "it is driven as a legacy device", f"hwloop info {name}", severity=HINT
        )


def _failed_read(name: str, status: int) -> Finding:
    said = {1: "an I/O error", 2: "that it does not support it"}.get(status, f"the undefined status {status:#x}")
    return Finding(
        f"reading sector 0 of {name} completed, and the device reports {said}",
        "its storage cannot be read: a broken medium, an image that is gone, a server that does not answer",
        "look at the log of whatever serves the disk",
        sure=LIKELY,
        exit_code=DEVICE_ERROR,
    )


def read_command(transport: Transport) -> int | None:
    """The command register of a PCI function; None for what is none, and where it cannot be read."""
    while isinstance(transport, TransportFilter):
        transport = transport.inner
    config = getattr(transport, "_config", None)
    read: Callable[[], int] | None = getattr(config, "read_command", None)
    with suppress(OSError):
        return int(read()) if read is not None else None
    return None


def judge_error(name: str, error: HwloopError) -> Finding:
    """A device that did not get as far as a request."""
    if isinstance(error, FeaturesRefused):
        return Finding(
            error.problem, "the device does not take the features that it needs to be driven", f"hwloop info {name}",
            exit_code=DEVICE_ERROR,
        )  # fmt: skip
    if isinstance(error, DeviceLost):
        return Finding(
            error.problem, "the device is gone, or does not do what it is told", f"hwloop info {name}", sure=LIKELY,
            exit_code=DEVICE_LOST,
        )  # fmt: skip
    code = error.exit_code if isinstance(error, DeviceError) else 6
    return Finding(
        error.problem, "the device cannot be initialised", error.remedy or f"hwloop info {name}", exit_code=code
    )  # fmt: skip


def judge(name: str, evidence: Evidence) -> Iterator[Finding]:
    """Why a request did not complete, the surest reason first. There is always one."""
    found = list(_from_registers(name, evidence))
    yield from found
    if not found:
        yield _from_behaviour(name, evidence)


def _from_registers(name: str, evidence: Evidence) -> Iterator[Finding]:
    """What a register says is wrong. That it is why the request did not complete follows where nothing else can."""
    reset = f"hwloop info {name}"
    if evidence.status is None:
        yield _stuck("its status cannot be read any more", "the device is gone", reset, LIKELY)
        return
    status = DeviceStatus(evidence.status)
    if not status:
        yield _stuck("its status is 0 after DRIVER_OK was set", "the device was reset, by itself or by others", reset)
        return
    if evidence.command is not None and not evidence.command & Command.BUS_MASTER:
        yield _stuck(
            "bus mastering is off", "it cannot read the available ring: somebody has turned it off since it was set",
            "find out who else has it: fuser -v /dev/uio* /dev/vfio/*",
        )  # fmt: skip
    if status & DeviceStatus.DEVICE_NEEDS_RESET:
        yield _stuck("its status says DEVICE_NEEDS_RESET", "it met an error that it cannot recover from", reset)
    elif not status & DeviceStatus.DRIVER_OK:
        yield _stuck(f"its status is {evidence.status:#04x}, without DRIVER_OK", "it serves no queue until then", reset)
    if evidence.command is not None and not evidence.command & (Command.MEMORY_SPACE | Command.IO_SPACE):
        yield _stuck("it decodes neither memory nor ports", "no notification reaches it", reset)
    if evidence.queue_enabled is False:
        yield _stuck("queue 0 is not enabled", "the device does not look at it", reset)


def _from_behaviour(name: str, evidence: Evidence) -> Finding:
    if evidence.used_after_notify > evidence.used:
        return Finding(
            "a read of sector 0 completed only after a second notification",
            "the first notification was lost, between the doorbell and the device",
            "trace it: hwloop read TARGET 0 512 --trace FILE", LIKELY, exit_code=DEVICE_LOST,
        )  # fmt: skip
    if evidence.interrupt_wanted and evidence.used and not evidence.interrupt_came:
        off = evidence.command is not None and evidence.command & Command.INTERRUPT_DISABLE
        return Finding(
            f"a read of sector 0 completed, and no interrupt came{': INTx is disabled in the function' if off else ''}",
            "the interrupt is masked, or goes to another processor or vector", "use wait=poll", LIKELY,
            exit_code=DEVICE_LOST,
        )  # fmt: skip
    return _stuck(
        "its registers show no fault",
        "whatever serves it does not run, such as a QEMU that is stopped or a back end that hangs; or an IOMMU "
        "refuses its accesses",
        "dmesg | grep -i -e DMAR -e AMD-Vi -e fault; for QEMU: info status in its monitor", POSSIBLE,
    )  # fmt: skip


def _stuck(saw: str, means: str, remedy: str, sure: str = CERTAIN) -> Finding:
    return Finding(f"a read of sector 0 did not complete, and {saw}", means, remedy, sure, exit_code=DEVICE_LOST)
