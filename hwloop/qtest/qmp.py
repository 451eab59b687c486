"""The QEMU Machine Protocol, as much as is needed to change a machine that is running: commands and events."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

from hwloop.deadline import Deadline
from hwloop.errors import DeadlineExpired, DeviceLost
from hwloop.forked import disown_in_children, keep_no_longer
from hwloop.owner import Owner
from hwloop.qtest.errors import QmpError
from hwloop.qtest.lines import LineSocket

ANSWER_SECONDS = 10.0

Event = dict[str, Any]


class QmpClient(Owner):
    """Commands to QEMU through the connected socket `sock`, which it owns. The greeting is taken with the first.

    `events` are all that came, the newest last: dictionaries with `event` and `data`. May be used from several threads.
    Methods raise DeviceLost when QEMU is gone, DeadlineExpired, QmpError for what it refuses.
    """

    def __init__(
        self, sock: socket.socket, *, seconds: float = ANSWER_SECONDS, explain: Callable[[], str] | None = None
    ) -> None:
        self._lines = LineSocket(sock, "the QMP socket", seconds, explain)
        self._lock = threading.RLock()
        self._ready = False
        self._number = 0
        self.events: list[Event] = []
        disown_in_children(self)

    def execute(self, command: str, arguments: dict[str, Any] | None = None, /, **more: Any) -> Any:
        """Run a command, and return what it returns. Arguments whose names are no Python names come in a dictionary."""
        with self._lock:
            self._get_ready()
            return self._execute(command, {**(arguments or {}), **more})

    def wait_event(self, name: str, seconds: float = ANSWER_SECONDS) -> Event:
        """The first event of that name that is in `events` or comes; it is taken out of the list."""
        deadline = Deadline(seconds)
        with self._lock:
            self._get_ready()
            while True:
                for event in self.events:
                    if event["event"] == name:
                        self.events.remove(event)
                        return event
                if deadline.expired():
                    # Nothing is owed: the connection is as good as before.
                    raise DeadlineExpired(f"QEMU's event {name}", seconds)
                self._lines.wait(deadline.remaining())
                for line in self._lines.arrived():
                    self._take_other(self._parse(line))

    def disown(self) -> None:
        self._lock = threading.RLock()

    def close(self) -> None:
        """Hang up. Idempotent."""
        keep_no_longer(self)
        self._lines.close()

    def _get_ready(self) -> None:
        """Leave the state in which QEMU takes no commands; the greeting comes in front of the answer."""
        if not self._ready:
            self._execute("qmp_capabilities", {})
            self._ready = True

    def _execute(self, command: str, arguments: dict[str, Any]) -> Any:
        # Numbered, so that the answer to a command whose caller was interrupted is not taken for the next one's.
        self._number += 1
        self._lines.send(json.dumps({"execute": command, "arguments": arguments, "id": self._number}))
        deadline = Deadline(self._lines.seconds)
        while True:
            answer = self._receive(deadline, f"QEMU to do {command}")
            if answer.get("id") != self._number:
                self._take_other(answer)
            elif "error" in answer:
                raise QmpError(command, answer["error"].get("class", ""), answer["error"].get("desc", ""))
            else:
                return answer.get("return")

    def _receive(self, deadline: Deadline, waited_for: str) -> dict[str, Any]:
        return self._parse(self._lines.receive(deadline, waited_for))

    def _take_other(self, answer: dict[str, Any]) -> None:
        """What is no answer of now: an event, the greeting, or an answer that comes late."""
        if "event" in answer:
            self.events.append(answer)
        elif "QMP" not in answer and "id" not in answer:
            raise self._broken(json.dumps(answer))

    def _parse(self, line: str) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._broken(line) from None
        if not isinstance(answer, dict):
            raise self._broken(line)
        return answer

    def _broken(self, line: str) -> DeviceLost:
        self._lines.lost = f"what answers at the QMP socket does not speak QMP: {line[:80]!r}"
        return DeviceLost(self._lines.lost)
