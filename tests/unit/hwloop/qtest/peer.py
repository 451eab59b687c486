"""The other end of a client's socket: a thread that answers each line, as a test tells it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from hwloop.owner import Owner

Answer = Callable[[str], bytes | None]
"""From a line to the bytes that go back; None: hang up."""


class Peer(Owner):
    """`lines` is what came so far. `say` sends something by itself."""

    def __init__(self, answer: Answer, greeting: bytes = b"") -> None:
        self.client, self._socket = socket.socketpair()
        self.lines: list[str] = []
        self._answer = answer
        self.say(greeting)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self.client.close()
        with suppress(OSError):  # hung up already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        buffer = b""
        while piece := self._receive():
            buffer += piece
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                self.lines.append(line.decode())
                answer = self._answer(line.decode())
                if answer is None:
                    self._socket.shutdown(socket.SHUT_RDWR)
                    return
                try:
                    self.say(answer)
                except OSError:
                    return

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(4096)
        except OSError:
            return b""
