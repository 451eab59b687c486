"""The machines that QEMU can be."""

from __future__ import annotations

import pytest

from hwloop.qtest.machine import MACHINES


def test_the_slots_of_the_arm_machine_begin_where_seed_003_says() -> None:
    slots = MACHINES["virt"].slots
    assert slots is not None
    assert (slots.address, slots.step, slots.count) == (0x0A00_0000, 0x200, 32)


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_a_machine_has_a_pci_host_or_slots(name: str) -> None:
    machine = MACHINES[name]
    assert machine.name == name
    assert (machine.pci is None) != (machine.slots is None)
