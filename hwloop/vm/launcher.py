"""Own a QEMU process: start it, read what the guest sends, and be sure that it has ended afterwards."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import BinaryIO

from hwloop.deadline import Deadline
from hwloop.vm import frames
from hwloop.vm.errors import GuestFailed, GuestTimeout, last_lines

Sink = Callable[[bytes], None]
"""Takes bytes as they come."""

CONSOLE_LINES = 20
END_SECONDS = 5.0
"""How long QEMU may take to end after SIGTERM, before it is killed; and a guest to end after its command."""

_PIPE_SIZE = 1 << 20
_KEEP = 1 << 16
_NAP = 0.002  # QEMU writes single bytes; reading them one by one would take the processor from the guest
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Tail:
    """The last 64 KiB of a stream, passed on to a sink as well."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._kept = bytearray()
        self._sink = sink

    def __call__(self, data: bytes) -> None:
        self._kept += data
        del self._kept[:-_KEEP]
        if self._sink:
            self._sink(data)

    @property
    def text(self) -> str:
        return self._kept.decode(errors="replace")


class FileSink:
    """Writes to a file of the host, and gives up at the deadline when nobody reads its other end."""

    def __init__(self, file: BinaryIO, deadline: Deadline) -> None:
        self._file = file
        self._deadline = deadline

    def __call__(self, data: bytes) -> None:
        try:
            fd = self._file.fileno()
        except (AttributeError, OSError):
            self._file.write(data)
            return
        self._file.flush()
        for start in range(0, len(data), select.PIPE_BUF):
            self._write(fd, data[start : start + select.PIPE_BUF])

    def _write(self, fd: int, piece: bytes) -> None:
        """At most PIPE_BUF bytes: so much fits into a pipe that is ready."""
        while piece:
            if not select.select([], [fd], [], self._deadline.remaining())[1]:
                raise GuestTimeout("the reader of the command's output", self._deadline.seconds)
            piece = piece[os.write(fd, piece) :]


class Qemu:
    """One QEMU process with three pipes that it writes: `frames`, `console` and `errors`. A context manager.

    It does not outlive us: `close()` ends it, and the kernel kills it when the thread that started it dies.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.frames, self.frames_end = self._pipe()
        self.console, self.console_end = self._pipe()
        self.errors, self._errors_end = self._pipe()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, command: Sequence[str], files: Sequence[int]) -> None:
        """Start it. `files` are descriptors that it inherits under their numbers."""
        ends = (self.frames_end, self.console_end)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._errors_end.fileno(),
            stderr=self._errors_end.fileno(),
            pass_fds=[*files, *(end.fileno() for end in ends)],
            start_new_session=True,  # Ctrl-C is ours to handle
            preexec_fn=_dies_with(os.getpid()),
        )
        for end in (*ends, self._errors_end):
            end.close()

    def wait(self, seconds: float) -> int | None:
        """Its exit status, or None if it still runs after so long."""
        if self.process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        return None

    def close(self) -> None:
        """End it if it runs: asked first, so that disk images are left whole, then killed."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()
                if self.wait(END_SECONDS) is None:
                    self.process.kill()
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._stack.close()

    def _pipe(self) -> tuple[BinaryIO, BinaryIO]:
        """A pipe that holds what comes while we nap."""
        read, write = os.pipe()
        with suppress(OSError):  # the user's limit for pipes is reached: a smaller one works too
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        ends = os.fdopen(read, "rb", buffering=0), os.fdopen(write, "wb", buffering=0)
        for end in ends:
            self._stack.callback(end.close)
        return ends


class Conversation:
    """What is read from one QEMU until its guest has given the command's exit status."""

    def __init__(self, qemu: Qemu, stdout: Sink, stderr: Sink, console: Sink | None, deadline: Deadline) -> None:
        self._qemu = qemu
        self._deadline = deadline
        self._outputs = {frames.STDOUT: stdout, frames.STDERR: stderr}
        self._decoder = frames.Decoder()
        self._status: int | None = None
        self._ready = False
        self.console = Tail(console)
        self.errors = Tail(console)

    def run(self) -> int:
        """The command's exit status. Raises GuestTimeout, GuestFailed."""
        with selectors.DefaultSelector() as selector:
            for pipe, take in self._pipes().items():
                selector.register(pipe, selectors.EVENT_READ, take)
            while self._status is None and selector.get_map():
                self._step(selector)
            self._end(selector)
        if self._status is None:
            raise self._ended_early()
        return self._status

    def _pipes(self) -> dict[BinaryIO, Sink]:
        return {self._qemu.frames: self._take_frames, self._qemu.console: self.console, self._qemu.errors: self.errors}

    def _step(self, selector: selectors.BaseSelector) -> None:
        events = selector.select(self._deadline.remaining())
        if not events and self._deadline.expired():
            raise GuestTimeout(self._waited_for(), self._deadline.seconds, console=self.last_lines())
        _take(selector, events)
        time.sleep(_NAP)

    def _end(self, selector: selectors.BaseSelector) -> None:
        """Let the guest power off, reading the rest, so that QEMU closes its images by itself."""
        deadline = Deadline(END_SECONDS)
        while selector.get_map() and not deadline.expired():
            _take(selector, selector.select(deadline.remaining()))
        self._qemu.wait(deadline.remaining())

    def _take_frames(self, data: bytes) -> None:
        for kind, body in self._decoder.feed(data):
            if kind in self._outputs:
                self._outputs[kind](body)
            elif kind == frames.EXIT:
                self._status = frames.exit_status(body)
            elif kind == frames.FAILURE:
                why = body.decode(errors="replace")
                raise GuestFailed(f"the guest could not be set up: {why}", console=self.last_lines())
            else:
                self._ready = True

    def _waited_for(self) -> str:
        return "the command to end" if self._ready else "the guest's kernel to start"

    def last_lines(self) -> str:
        """The end of the console: from a panic on, if there was one, because what follows it is long."""
        before, panic, rest = self.console.text.partition("Kernel panic")
        if not panic:
            return last_lines(before, CONSOLE_LINES)
        return "\n".join([last_lines(before, 2), *(panic + rest).splitlines()[:CONSOLE_LINES]])

    def _ended_early(self) -> GuestFailed:
        status = self._qemu.wait(0)
        said = last_lines(self.errors.text, CONSOLE_LINES)
        if status:
            how = f"QEMU ended with status {status}" if status > 0 else f"QEMU was ended by signal {-status}"
            return GuestFailed(f"{how} and said:\n{said}" if said else how, console=self.last_lines())
        when = "before the command had ended" if self._ready else "before it had started"
        problem = f"the guest ended {when}, with no exit status (a kernel panic, or a reboot)"
        return GuestFailed(f"{problem}\nQEMU said:\n{said}" if said else problem, console=self.last_lines())


def _take(selector: selectors.BaseSelector, events: list[tuple[selectors.SelectorKey, int]]) -> None:
    """Give what is there to who takes it; a pipe at its end is taken out."""
    for key, _ in events:
        data = os.read(key.fd, _PIPE_SIZE)
        if data:
            key.data(data)
        else:
            selector.unregister(key.fileobj)


def _dies_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes QEMU: asks to be killed with us, and looks whether we are gone already."""

    def ask() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask
