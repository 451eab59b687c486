"""The client of QEMU's qtest server: a line is a command, a line the answer, and interrupts come in between.

QEMU, softmmu/qtest.c. The server makes exactly the bus access that a command names.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from hwloop.deadline import Deadline
from hwloop.errors import InvalidParam
from hwloop.forked import disown_in_children, keep_no_longer
from hwloop.owner import Owner
from hwloop.qtest.errors import QtestError
from hwloop.qtest.lines import LineSocket

ANSWER_SECONDS = 5.0
"""How long QEMU may take to answer: it is at work on one thing at a time, and that may be a flush of its image."""

_LETTERS = {1: "b", 2: "w", 4: "l", 8: "q"}
_PORT_LETTERS = {1: "b", 2: "w", 4: "l"}
_HELLO = "endianness"
_HELLO_ANSWERS = ("OK little", "OK big")
_MOST_OWED = 32
_SLICE_SECONDS = 0.01


class QtestClient(Owner):
    """Memory, I/O ports and interrupts of a machine, through the connected socket `sock`, which it owns.

    A write returns once it is sent, as a posted write of PCI does; its answer is looked at later, and everything
    happens in the order of the calls. `seconds` is how long an answer may take; `explain` tells why QEMU is gone.
    May be used from several threads. Every method raises DeviceLost when QEMU is gone, DeadlineExpired when it does not
    answer, QtestError for what it refuses.
    """

    def __init__(
        self, sock: socket.socket, *, seconds: float = ANSWER_SECONDS, explain: Callable[[], str] | None = None
    ) -> None:
        self._lines = LineSocket(sock, "the qtest socket", seconds, explain)
        self._lock = threading.RLock()
        self._owed: deque[str] = deque()
        self._raised: set[int] = set()
        self._intercepted = ""
        self._uncertain = False
        disown_in_children(self)

    def hello(self, seconds: float) -> None:
        """Ask for something harmless, to see whether a qtest server is there, which may take so long to start."""
        with self._exchange():
            self._send(_HELLO)
            self._lines.wait(seconds)
            self._take_answers()

    def read(self, address: int, width: int) -> int:
        """One read of memory or registers; `width` is 1, 2, 4 or 8 bytes."""
        return self._ask_number(f"read{_letter(_LETTERS, width)} {address:#x}")

    def write(self, address: int, width: int, value: int) -> None:
        """One write of memory or registers."""
        self._post(f"write{_letter(_LETTERS, width)} {address:#x} {value:#x}")

    def read_port(self, port: int, width: int) -> int:
        """One read of an I/O port; `width` is 1, 2 or 4 bytes."""
        return self._ask_number(f"in{_letter(_PORT_LETTERS, width)} {port:#x}")

    def write_port(self, port: int, width: int, value: int) -> None:
        """One write of an I/O port."""
        self._post(f"out{_letter(_PORT_LETTERS, width)} {port:#x} {value:#x}")

    def settle(self) -> None:
        """Wait until QEMU has done everything that was asked. Raises QtestError for a write that it refused."""
        with self._exchange():
            self._take_answers()

    def intercept_interrupts(self, path: str) -> None:
        """Be told of the lines that go into an interrupt controller, which no longer sees them. Idempotent; QEMU knows
        one controller at a time."""
        with self._lock:
            if self._intercepted != path:
                self._ask(f"irq_intercept_in {path}")
                self._intercepted = path

    def wait_raised(self, lines: Collection[int], seconds: float) -> bool:
        """Wait at most so long until one of these lines of the intercepted controller is raised; lines keep their
        level until the device lowers them."""
        deadline = Deadline(seconds)
        # A write that is still on its way may lower the line.
        self.settle()
        while True:
            with self._exchange():
                for line in self._lines.arrived():
                    self._take(line)
            if not self._raised.isdisjoint(lines):
                return True
            if deadline.expired():
                return False
            # Another thread may take the line that we wait for along with an answer of its own.
            self._lines.wait(min(deadline.remaining(), _SLICE_SECONDS))

    def disown(self) -> None:
        self._lock = threading.RLock()

    def close(self) -> None:
        """Hang up. Idempotent."""
        keep_no_longer(self)
        self._lines.close()

    # --- Private ------------------------------------------------------------------------------------------------------

    def _ask_number(self, command: str) -> int:
        answer = self._ask(command)
        try:
            return int(answer, 0)
        except ValueError:
            raise QtestError(command, f"OK {answer}") from None

    def _ask(self, command: str) -> str:
        with self._exchange():
            self._send(command)
            return self._take_answers()

    def _post(self, command: str) -> None:
        with self._exchange():
            self._send(command)
            if len(self._owed) >= _MOST_OWED:
                self._take_answers()

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Commands and answers, after whose interruption (a signal may raise anywhere) nobody knows what was sent."""
        with self._lock:
            if self._uncertain:
                self._find_the_thread_again()
            self._uncertain = True
            yield
            self._uncertain = False

    def _find_the_thread_again(self) -> None:
        """Ask for what only one answer looks like: all answers in front of it are to what was asked before."""
        self._owed.clear()
        self._lines.send(_HELLO)
        deadline = Deadline(self._lines.seconds)
        while (line := self._lines.receive(deadline, f"QEMU to answer {_HELLO!r}")) not in _HELLO_ANSWERS:
            if line.startswith("IRQ "):
                self._take_interrupt(line)

    def _send(self, command: str) -> None:
        self._owed.append(command)
        self._lines.send(command)

    def _take_answers(self) -> str:
        """All that are owed; returns the last."""
        deadline = Deadline(self._lines.seconds)
        answer: str | None = None
        while self._owed:
            line = self._lines.receive(deadline, f"QEMU to answer {self._owed[0]!r}")
            answer = self._take(line)
        return answer or ""

    def _take(self, line: str) -> str | None:
        if line.startswith("IRQ "):
            self._take_interrupt(line)
            return None
        command = self._owed.popleft() if self._owed else ""
        if not command or line.split(" ")[0] != "OK":
            raise QtestError(command, line)
        return line[3:]

    def _take_interrupt(self, line: str) -> None:
        try:
            _, change, number = line.split()
            {"raise": self._raised.add, "lower": self._raised.discard}[change](int(number))
        except (ValueError, KeyError):
            raise QtestError("irq_intercept_in", line) from None


def _letter(letters: dict[int, str], width: int) -> str:
    if width not in letters:
        raise InvalidParam(f"no such access is {width} bytes wide", remedy=f"use {', '.join(map(str, letters))}")
    return letters[width]
