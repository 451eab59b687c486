from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from udev import (
    BlockDevice,
    DeviceNotFound,
    Sysfs,
    UdevError,
    block_devices_of,
    block_devices_under,
    pci_address_of_block,
    read_block,
    unbind,
    who_holds,
)
from udev.block import parse_mountinfo, parse_number, unescape
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"


def reasons(fake: FakeSysfs) -> list[str]:
    return who_holds(fake.sysfs, block_devices_of(fake.sysfs, DISK)[0])


def test_the_disk_behind_a_function_is_found_with_its_facts(fake: FakeSysfs) -> None:
    assert block_devices_of(fake.sysfs, DISK) == [
        BlockDevice(
            name="vda",
            dev_node=str(fake.dev / "vda"),
            major_minor=fake.number_of("vda"),
            size_bytes=1 << 20,
            read_only=False,
            partitions=("vda1", "vda2"),
            holders=(),
        )
    ]


def test_a_read_only_disk_says_so(fake: FakeSysfs) -> None:
    fake.add_pci("0000:00:06.0", 0x1AF4, 0x1042, driver="virtio-pci", block="vdb", read_only=True)
    assert block_devices_of(fake.sysfs, "0000:00:06.0")[0].read_only


def test_a_function_without_a_driver_has_no_disk(fake: FakeSysfs) -> None:
    unbind(fake.sysfs, DISK)
    assert block_devices_of(fake.sysfs, DISK) == []


def test_only_the_disks_of_this_function_are_listed(fake: FakeSysfs) -> None:
    fake.add_pci("0000:00:06.0", 0x1AF4, 0x1042, driver="virtio-pci", block="vdb")
    assert [disk.name for disk in block_devices_of(fake.sysfs, "0000:00:06.0")] == ["vdb"]


def test_the_disks_of_an_absent_function_are_device_not_found(fake: FakeSysfs) -> None:
    with pytest.raises(DeviceNotFound):
        block_devices_of(fake.sysfs, "0000:00:1f.0")


def test_disks_are_found_below_any_device_folder(fake: FakeSysfs) -> None:
    path = fake.add_mmio("a003e00.virtio_mmio", driver="virtio-mmio")
    assert block_devices_under(fake.sysfs, path) == []


@pytest.mark.parametrize("name", ["vda", "vda1", "vda2"])
def test_a_disk_or_partition_leads_to_its_function_and_its_disk(fake: FakeSysfs, name: str) -> None:
    assert pci_address_of_block(fake.sysfs, name) == DISK
    assert read_block(fake.sysfs, name).name == "vda"


def test_behind_a_bridge_the_innermost_function_counts(fake: FakeSysfs) -> None:
    folder = fake.root / "devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1"
    folder.mkdir(parents=True)
    (fake.root / "class/block/nvme0n1").symlink_to(folder)
    assert pci_address_of_block(fake.sysfs, "nvme0n1") == "0000:01:00.0"


def test_a_disk_of_another_kind_is_behind_no_function(fake: FakeSysfs) -> None:
    fake.add_loop("loop0", "/tmp/image")
    assert pci_address_of_block(fake.sysfs, "loop0") is None


def test_an_absent_block_device_is_device_not_found(fake: FakeSysfs) -> None:
    with pytest.raises(DeviceNotFound, match="block device vdz"):
        pci_address_of_block(fake.sysfs, "vdz")


@pytest.mark.parametrize("name", ["../vda", "/dev/vda", ""])
def test_a_block_name_is_not_a_path(fake: FakeSysfs, name: str) -> None:
    with pytest.raises(UdevError, match="not a name") as caught:
        read_block(fake.sysfs, name)
    assert caught.value.errno == errno.EINVAL


# Who holds it


def test_an_idle_disk_is_held_by_nobody(fake: FakeSysfs) -> None:
    assert reasons(fake) == []


def test_a_mounted_disk_and_a_mounted_partition_are_told_apart(fake: FakeSysfs) -> None:
    fake.add_mount("vda", "/whole")
    fake.add_mount("vda1", "/mnt")
    assert reasons(fake) == ["mount@vda1:/mnt", "mount@vda:/whole"]


def test_a_mount_is_known_by_its_number_whatever_its_source_is_called(fake: FakeSysfs) -> None:
    fake.add_mount("vda1", "/mnt", source="/dev/root")
    assert reasons(fake) == ["mount@vda1:/mnt"]


def test_a_mount_of_another_disk_with_a_stale_source_does_not_count(fake: FakeSysfs) -> None:
    fake.add_mount((259, 3), "/mnt", source="/dev/vda1")
    assert reasons(fake) == []


def test_a_btrfs_mount_is_known_by_its_source(fake: FakeSysfs) -> None:
    fake.add_mount((0, 44), "/data", source="/dev/vda2", fstype="btrfs")
    assert reasons(fake) == ["mount@vda2:/data"]


def test_a_mount_in_another_namespace_is_seen(fake: FakeSysfs) -> None:
    fake.add_process(4242, namespace=4026532000)
    fake.add_mount("vda1", "/container", pid=4242)
    assert reasons(fake) == ["mount@vda1:/container"]


def test_the_same_mount_in_two_namespaces_is_told_once(fake: FakeSysfs) -> None:
    fake.add_process(4242, namespace=4026532000)
    fake.add_mount("vda1", "/mnt")
    fake.add_mount("vda1", "/mnt", pid=4242)
    assert reasons(fake) == ["mount@vda1:/mnt"]


def test_a_chrooted_process_does_not_speak_for_its_namespace(fake: FakeSysfs) -> None:
    shutil.rmtree(fake.proc / "1")
    fake.add_process(1, root="/jail")
    fake.add_mount((254, 250), "/", source="/dev/root")
    fake.add_process(2)
    fake.add_mount("vda1", "/outside", pid=2)
    assert reasons(fake) == ["mount@vda1:/outside"]


def test_a_namespace_is_read_once_and_not_for_each_process(fake: FakeSysfs) -> None:
    fake.add_mount("vda1", "/mnt")
    fake.add_process(2)
    fake.add_mount("vda1", "/never-read", pid=2)
    assert reasons(fake) == ["mount@vda1:/mnt"]


def test_processes_that_vanish_while_they_are_read_are_passed_over(fake: FakeSysfs) -> None:
    (fake.proc / "0099").mkdir()  # listed, and nothing in it: gone before the open
    half = fake.add_process(77, namespace=4026532000)
    (half / "mountinfo").unlink()
    fake.add_process(78, namespace=4026532000)
    fake.add_mount("vda2", "/late", pid=78)
    assert reasons(fake) == ["mount@vda2:/late"]


def test_a_process_whose_namespace_is_hidden_is_read_for_itself(fake: FakeSysfs) -> None:
    for pid, point in ((50, "/a"), (51, "/b")):
        (fake.add_process(pid) / "ns/mnt").unlink()
        fake.add_mount("vda1", point, pid=pid)
    assert reasons(fake) == ["mount@vda1:/a", "mount@vda1:/b"]


def test_without_any_mount_table_the_disk_does_not_pass_for_idle(fake: FakeSysfs) -> None:
    shutil.rmtree(fake.proc / "1")
    with pytest.raises(UdevError, match="nobody knows what is mounted"):
        reasons(fake)


@pytest.mark.parametrize("point", ["/with space", "/tab\there", "/line\nbreak", "/back\\slash", "/hash#tag", "/zażółć"])
def test_a_mount_point_is_told_as_it_is(fake: FakeSysfs, point: str) -> None:
    fake.add_mount("vda1", point)
    assert reasons(fake) == [f"mount@vda1:{point}"]


def test_an_escape_is_undone_once() -> None:
    assert unescape(r"/a\134040b") == r"/a\040b"


def test_optional_fields_of_mountinfo_do_not_shift_the_source() -> None:
    text = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\nbroken line\n"
    (mount,) = parse_mountinfo(text)
    assert (mount.major_minor, mount.mount_point, mount.source) == ((98, 0), "/mnt2", "/dev/root")


def test_swap_on_a_partition_is_seen(fake: FakeSysfs) -> None:
    fake.add_swap("/dev/vda2")
    fake.add_swap("/swapfile")
    assert reasons(fake) == ["swap@vda2"]


def test_a_machine_without_swap_support_has_no_swap(fake: FakeSysfs) -> None:
    (fake.proc / "swaps").unlink()
    assert reasons(fake) == []


def test_holders_of_the_disk_and_of_its_partitions_are_seen(fake: FakeSysfs) -> None:
    fake.add_holder("vda", "dm-0")
    fake.add_holder("vda2", "md127")
    assert reasons(fake) == ["holder@vda2:md127", "holder@vda:dm-0"]
    assert block_devices_of(fake.sysfs, DISK)[0].holders == ("dm-0", "md127")


def test_a_loop_device_on_a_partition_is_seen(fake: FakeSysfs) -> None:
    fake.add_loop("loop0", "/dev/vda1")
    fake.add_loop("loop1", "/home/image")
    assert reasons(fake) == ["loop@vda1:loop0"]


def test_every_kind_of_use_is_told_in_one_list(fake: FakeSysfs) -> None:
    fake.add_holder("vda", "dm-0")
    fake.add_swap("/dev/vda2")
    fake.add_mount("vda1", "/mnt")
    assert reasons(fake) == ["mount@vda1:/mnt", "swap@vda2", "holder@vda:dm-0"]


@pytest.mark.parametrize("text", ["", "254", "254:", "a:b", "254:0:1", "-1:0"])
def test_a_malformed_device_number_is_an_error(text: str) -> None:
    with pytest.raises(UdevError, match="not of the form MAJOR:MINOR"):
        parse_number(text)


def test_the_disk_of_the_real_root_is_held() -> None:
    number = os.stat("/").st_dev
    link = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not link.exists():
        pytest.skip("the root file system here is on no block device")
    sysfs = Sysfs()
    held = who_holds(sysfs, read_block(sysfs, link.resolve().name))
    assert any(reason.startswith("mount@") and reason.endswith(":/") for reason in held)
