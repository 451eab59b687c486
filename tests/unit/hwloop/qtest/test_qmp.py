"""The client of QMP, against servers of a few lines."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from hwloop.errors import DeadlineExpired, DeviceLost
from hwloop.qtest.errors import QmpError
from hwloop.qtest.qmp import QmpClient
from tests.timing import SLACK
from tests.unit.hwloop.qtest.peer import Peer

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
EVENT = {"event": "STOP", "data": {}, "timestamp": {}}
Connect = Callable[..., tuple[QmpClient, Peer]]


def line(**content: Any) -> bytes:
    return json.dumps(content).encode() + b"\r\n"


def obedient(text: str) -> bytes:
    """Returns the arguments of every command."""
    command = json.loads(text)
    return line(**{"return": command["arguments"], "id": command["id"]})


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def connect(
            answer: Callable[[str], bytes | None] = obedient, greeting: bytes = GREETING
        ) -> tuple[QmpClient, Peer]:
            peer = stack.enter_context(Peer(answer, greeting))
            return stack.enter_context(QmpClient(peer.client, seconds=0.3)), peer

        yield connect


def test_the_greeting_is_taken_once_and_commands_return_what_they_return(connect: Connect) -> None:
    client, peer = connect()
    assert client.execute("first", value=1) == {"value": 1}
    assert client.execute("second", {"node-name": "disk0"}, size=2) == {"node-name": "disk0", "size": 2}
    assert [json.loads(text)["execute"] for text in peer.lines] == ["qmp_capabilities", "first", "second"]


def test_events_in_front_of_an_answer_are_kept(connect: Connect) -> None:
    client, _ = connect(lambda text: line(**EVENT) + obedient(text))
    client.execute("stop")
    assert [event["event"] for event in client.events] == ["STOP", "STOP"]
    assert client.wait_event("STOP", 0)["data"] == {}
    assert len(client.events) == 1


def test_an_event_is_waited_for_and_taken(connect: Connect) -> None:
    client, peer = connect()
    client.execute("anything")
    threading.Timer(0.05, peer.say, [line(**EVENT)]).start()
    assert client.wait_event("STOP", 5)["event"] == "STOP"
    assert client.events == []


def test_an_event_that_does_not_come_has_a_deadline_and_commands_work_afterwards(connect: Connect) -> None:
    client, _ = connect()
    with pytest.raises(DeadlineExpired, match="QEMU's event RESUME"):
        client.wait_event("RESUME", 0.05)
    assert client.execute("anything", value=3) == {"value": 3}


def test_a_refusal_has_its_class_and_qemus_words(connect: Connect) -> None:
    def refusing(text: str) -> bytes:
        command = json.loads(text)
        if command["execute"] == "qmp_capabilities":
            return obedient(text)
        return line(error={"class": "DeviceNotFound", "desc": "Device 'x' not found"}, id=command["id"])

    client, _ = connect(refusing)
    with pytest.raises(QmpError, match="QEMU refused device_del: Device 'x' not found") as caught:
        client.execute("device_del", id="x")
    assert (caught.value.kind, caught.value.command) == ("DeviceNotFound", "device_del")


def test_the_answer_to_an_earlier_command_is_not_taken_for_this_one(connect: Connect) -> None:
    def late(text: str) -> bytes:
        command = json.loads(text)
        return line(**{"return": "late", "id": command["id"] - 1}) + obedient(text)

    client, _ = connect(late)
    assert client.execute("anything", value=4) == {"value": 4}
    assert client.events == []


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n", b"[]\n", b"{}\n", b"\xff\n", b'"QMP"\n'])
def test_what_does_not_speak_qmp_is_found_at_once(connect: Connect, greeting: bytes) -> None:
    client, _ = connect(greeting=greeting)
    for _ in range(2):
        with pytest.raises(DeviceLost, match="does not speak QMP"):
            client.execute("anything")


def test_no_answer_has_a_deadline(connect: Connect) -> None:
    client, _ = connect(lambda text: b"")
    before = time.monotonic()
    with pytest.raises(DeadlineExpired, match="QEMU to do qmp_capabilities"):
        client.execute("anything")
    with pytest.raises(DeviceLost):
        client.execute("anything")
    assert time.monotonic() - before < SLACK


@pytest.mark.parametrize("after", [1, 2])
def test_a_client_that_was_interrupted_while_it_got_ready_gets_ready_again(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """After it took the greeting, or the answer behind that."""
    client, _ = connect()
    usual, taken = client._lines._take_line, []

    def interrupted() -> str | None:
        text = usual()
        taken.extend([text] if text is not None else [])
        if len(taken) == after:
            raise KeyboardInterrupt
        return text

    monkeypatch.setattr(client._lines, "_take_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.execute("anything")
    monkeypatch.undo()
    assert client.execute("anything", value=5) == {"value": 5}


def test_hanging_up_is_a_lost_device(connect: Connect) -> None:
    client, _ = connect(lambda text: None)
    with pytest.raises(DeviceLost, match="QEMU closed the QMP socket"):
        client.execute("quit")
