"""Which addresses are ordinary memory."""

from __future__ import annotations

from udev import list_ram
from udev.fake import FakeSysfs


def test_all_ranges_of_memory_are_listed_and_nothing_else(fake: FakeSysfs) -> None:
    fake.add_iomem(0x10_0000, 0x1000, "System RAM")
    fake.add_iomem(0x1000, 0x2000, "System RAM")
    fake.add_iomem(0xFEB0_0000, 0x200, "LNRO0005:00")
    fake.add_iomem(0xF0000, 0x10000, "Reserved")
    assert list_ram(fake.sysfs) == [range(0x1000, 0x3000), range(0x10_0000, 0x10_1000)]


def test_memory_is_found_where_lines_are_nested(fake: FakeSysfs) -> None:
    (fake.proc / "iomem").write_text("40000000-bfffffff : System RAM\n  40210000-41deffff : Kernel code\n")
    assert list_ram(fake.sysfs) == [range(0x4000_0000, 0xC000_0000)]


def test_those_who_are_shown_no_addresses_see_no_memory(fake: FakeSysfs) -> None:
    (fake.proc / "iomem").write_text("00000000-00000000 : System RAM\n")
    assert list_ram(fake.sysfs) == []
