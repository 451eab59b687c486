"""Trying a device: what is wrong with it, and how sure that is."""

from __future__ import annotations

import pytest

from hwloop import session
from hwloop.doctor.base import Finding
from hwloop.doctor.live import Evidence, judge, try_device
from hwloop.transport.base import Transport


def tried(target: str) -> list[Finding]:
    return try_device(session.find(target), seconds=0.05)


def test_a_device_that_works() -> None:
    assert tried("fake:1M") == []


@pytest.mark.parametrize(
    ("target", "sure", "word", "code"),
    [
        ("fake:1M?drop=on", "possible", "its registers show no fault", 5),
        ("fake:1M?lose-notifications=1", "likely", "only after a second notification", 5),
        ("fake:1M?drop=on&filter=fault:needs-reset-after=1", "certain", "DEVICE_NEEDS_RESET", 5),
        ("fake:1M?refuse-features=on", "certain", "refused the accepted features", 4),
        ("fake:1M?ignore-driver-ok=on", "likely", "did not become ready", 5),
        ("fake:1M?gone=on", "likely", "", 5),
        ("fake:1M?io-error=-1", "likely", "reports an I/O error", 4),
        ("fake:1M?filter=fault:withhold=0x100000000", "certain", "does not offer VIRTIO_F_VERSION_1", 4),
        ("fake:1M?queue-size=0", "certain", "no queue 0", 4),
    ],
)
def test_a_device_that_does_not(target: str, sure: str, word: str, code: int) -> None:
    (finding,) = tried(target)
    assert word in finding.saw
    assert (finding.sure, finding.exit_code, finding.check) == (sure, code, "live")


ALL_ON = 0x0406


@pytest.mark.parametrize(
    ("evidence", "sure", "word"),
    [
        (Evidence(status=None), "likely", "cannot be read any more"),
        (Evidence(status=0), "certain", "status is 0"),
        (Evidence(status=0x4F), "certain", "DEVICE_NEEDS_RESET"),
        (Evidence(status=0x0B), "certain", "without DRIVER_OK"),
        (Evidence(command=2), "certain", "bus mastering is off"),
        (Evidence(command=4), "certain", "neither memory nor ports"),
        (Evidence(queue_enabled=False), "certain", "queue 0 is not enabled"),
        (Evidence(used_after_notify=1), "likely", "second notification"),
        (Evidence(used=1, used_after_notify=1, interrupt_wanted=True), "likely", "no interrupt came"),
        (
            Evidence(used=1, used_after_notify=1, interrupt_wanted=True, command=ALL_ON),
            "likely",
            "INTx is disabled in the function",
        ),
        (Evidence(command=6), "possible", "registers show no fault"),
        (Evidence(), "possible", "registers show no fault"),
    ],
)
def test_evidence_is_judged(evidence: Evidence, sure: str, word: str) -> None:
    first = next(iter(judge("disk", evidence)))
    assert word in first.saw
    assert first.sure == sure
    assert first.remedy


def test_a_reset_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transport.reset, "__defaults__", (0.05,))
    (finding,) = tried("fake:1M?filter=fault:stuck-reset")
    assert "reset" in finding.saw
    assert finding.exit_code == 5


def test_two_faults_are_both_told() -> None:
    found = list(judge("disk", Evidence(status=0x4F, command=2)))
    assert [finding.sure for finding in found] == ["certain", "certain"]


def test_every_evidence_has_a_judgement_and_only_registers_are_certain() -> None:
    statuses = [None, 0, 0x03, 0x0B, 0x0F, 0x4F, 0x8F]
    for status in statuses:
        for command in (None, 0, 2, 4, 6, ALL_ON):
            for enabled in (None, False, True):
                for again in (0, 1):
                    evidence = Evidence(status=status, command=command, queue_enabled=enabled, used_after_notify=again)
                    found = list(judge("disk", evidence))
                    assert found
                    if status == 0x0F and command in (None, 6, ALL_ON) and enabled is not False:
                        assert "certain" not in {finding.sure for finding in found}
