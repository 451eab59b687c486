from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.timing import SLACK
from udev import BindTimeout, wait_for_node, wait_until


def test_a_character_device_that_is_there_is_not_waited_for() -> None:
    start = time.monotonic()
    wait_for_node("/dev/null", 60)
    assert time.monotonic() - start < SLACK


def test_a_node_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    node = tmp_path / "uio0"
    timer = threading.Timer(0.05, node.symlink_to, ["/dev/null"])
    timer.start()
    wait_for_node(node, 5)
    timer.join()


def test_a_node_that_never_comes_is_a_timeout_that_says_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(BindTimeout, match=r"uio0: no character device after 0\.1 s \(nothing has that name\)"):
        wait_for_node(tmp_path / "uio0", 0.1)


def test_a_plain_file_under_the_name_is_not_the_node(tmp_path: Path) -> None:
    (tmp_path / "uio0").touch()
    with pytest.raises(BindTimeout, match="something else has that name"):
        wait_for_node(tmp_path / "uio0", 0.1)


def test_a_condition_is_asked_once_even_without_any_time() -> None:
    wait_until(lambda: True, "anything", 0)
    with pytest.raises(BindTimeout, match=r"the moon: not so after 0\.0 s"):
        wait_until(lambda: False, "the moon", 0)
