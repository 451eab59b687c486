"""What a `qemu:` or `qtest:` target means, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwloop.cli.main import run
from hwloop.device import DRIVERS
from hwloop.door.qemu import QemuPlace
from hwloop.errors import InvalidParam, SetupError
from hwloop.qtest.machine import MACHINES, Slots
from hwloop.session import find
from hwloop.spec import DeviceType


def place(options: str = "", name: str = "disk.img") -> QemuPlace:
    found = find(f"qemu:{name}?{options}" if options else f"qemu:{name}")
    assert isinstance(found, QemuPlace)
    return found


def device(options: str = "", name: str = "disk.img") -> str:
    """QEMU's argument for the device."""
    arguments = place(options, name).arguments()
    return arguments[arguments.index("-device") + 1]


# --- What QEMU is told ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "modern", "legacy"),
    [("", "off", "on"), ("legacy=on", "on", "off"), ("transitional=on", "off", "off"), ("legacy=off", "off", "on")],
)
def test_a_pci_device_has_the_interfaces_that_were_asked_for(options: str, modern: str, legacy: str) -> None:
    found = device(options)
    assert found.startswith("virtio-blk-pci,drive=disk0,")
    assert f"disable-modern={modern},disable-legacy={legacy}" in found


@pytest.mark.parametrize(
    ("options", "legacy"), [("", "false"), ("&mmio-version=2", "false"), ("&mmio-version=1", "true")]
)
def test_an_mmio_device_has_the_version_that_was_asked_for(options: str, legacy: str) -> None:
    arguments = place(f"machine=virt{options}").arguments()
    assert arguments[:2] == ["-global", f"virtio-mmio.force-legacy={legacy}"]
    assert device(f"machine=virt{options}").startswith("virtio-blk-device,drive=disk0,")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("packed=on", "packed=on"),
        ("num-queues=4", "num-queues=4"),
        ("queue-size=1024", "queue-size=1024"),
        ("serial=A,B", "serial=A,,B"),
        ("block-size=4096", "logical_block_size=4096,physical_block_size=4096"),
        ("write-cache=off", "write-cache=off,config-wce=off"),
        ("", "rerror=report,werror=report"),
    ],
)
def test_properties_of_the_disk_are_passed_on(option: str, expected: str) -> None:
    assert f",{expected}" in device(option)


def test_what_was_not_asked_for_is_left_to_qemu() -> None:
    for name in ("packed", "num-queues", "queue-size", "serial", "block_size", "config-wce"):
        assert name not in device()


def test_the_image_is_opened_as_what_it_was_said_to_be_and_never_probed() -> None:
    for options, kind, read_only in (("", "raw", "off"), ("format=qcow2&read-only=on", "qcow2", "on")):
        file, node = (argument for argument in place(options).arguments() if argument.startswith("driver="))
        assert file == f"driver=file,node-name=file0,filename=disk.img,read-only={read_only},discard=unmap"
        assert node == f"driver={kind},node-name=disk0,file=file0,read-only={read_only},discard=unmap"


def test_a_device_that_is_no_disk_has_no_image() -> None:
    assert device("device=rng", "none").startswith("virtio-rng-pci,")
    assert device("device=console&machine=virt", "none").startswith("virtio-serial-device,")
    assert "-blockdev" not in place("device=rng", "none").arguments()


def test_a_console_can_have_its_other_end_at_a_socket() -> None:
    arguments = place("device=console&socket=/run/a,b", "none").arguments()
    assert "socket,path=/run/a,,b,server=on,wait=off,id=console0" in arguments


@pytest.mark.parametrize(
    ("options", "expected"),
    [("", DeviceType.Block), ("device=rng", DeviceType.EntropySource), ("device=console", DeviceType.Console)],
)
def test_the_type_is_known_before_anything_is_started(options: str, expected: DeviceType) -> None:
    found = place(options, "none" if options else "disk.img")
    assert found.device_type == expected
    assert expected.label in DRIVERS


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("machine=pc", "option machine cannot be 'pc'"),
        ("mmio-version=1", "option mmio-version is not for the machine q35"),
        ("machine=virt&legacy=on", "option legacy is not for the machine virt"),
        ("machine=microvm&transitional=off", "option transitional is not for the machine microvm"),
        ("machine=virt&mode=modern", "option mode is not for the machine virt"),
        ("machine=virt&mmio-version=3", "option mmio-version cannot be '3'"),
        ("legacy=on&transitional=on", "a device is legacy or transitional"),
        ("mode=legacy", "the device has no legacy interface"),
        ("legacy=on&mode=modern", "the device has no modern interface"),
        ("legacy=yes", "option legacy cannot be 'yes'"),
        ("packed=1", "option packed cannot be '1'"),
        ("num-queues=0", "option num-queues cannot be '0'"),
        ("num-queues=1025", "option num-queues cannot be '1025'"),
        ("num-queues=-1", "option num-queues cannot be '-1'"),
        ("num-queues=many", "option num-queues cannot be 'many'"),
        ("num-queues=²", "option num-queues cannot be '²'"),
        ("queue-size=3", "option queue-size cannot be '3'"),
        ("queue-size=2", "option queue-size cannot be '2'"),
        ("queue-size=2048", "option queue-size cannot be '2048'"),
        ("block-size=256", "option block-size cannot be '256'"),
        ("block-size=1000", "option block-size cannot be '1000'"),
        ("block-size=131072", "option block-size cannot be '131072'"),
        ("format=vmdk", "option format cannot be 'vmdk'"),
        ("serial=123456789012345678901", "more than 20 bytes"),
        ("serial=äääääääääää", "more than 20 bytes"),
        ("wait=irqs", "option wait cannot be 'irqs'"),
        ("accel=xen", "option accel cannot be 'xen'"),
        ("nonsense=1", "no option is called 'nonsense'"),
        ("socket=/x", "option socket is not for device=block"),
        ("device=rng", "device=rng has no image, so not 'disk.img'"),
        ("device=gpu", "option device cannot be 'gpu'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: str, words: str) -> None:
    with pytest.raises(InvalidParam) as caught:
        place(options)
    assert words in str(caught.value)
    assert caught.value.remedy or "more than" in words


def test_options_of_a_disk_are_not_for_other_devices() -> None:
    with pytest.raises(InvalidParam, match="option read-only is not for device=rng"):
        place("device=rng&read-only=on", "none")


def test_the_mode_of_a_transitional_device_is_the_users_choice() -> None:
    assert place("transitional=on")._mode == "modern"
    assert place("transitional=on&mode=legacy")._mode == "legacy"
    assert place("legacy=on&mode=legacy")._mode is None


def test_finding_a_place_looks_at_no_file_and_opening_it_does(tmp_path: Path) -> None:
    found = place(name=str(tmp_path / "none.img"))
    with pytest.raises(SetupError):
        found.open()


def test_the_command_line_says_what_is_wrong_and_exits_with_2_or_6(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["read", "qemu:disk.img?machine=pc", "0", "512"]) == 2
    assert "choose one of: q35, microvm, virt, virt-pci" in capsys.readouterr().err
    assert run(["read", f"qemu:{tmp_path}/none.img", "0", "512"]) == 6
    assert "truncate -s 16M" in capsys.readouterr().err


# --- A machine that runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "lacks the file that is the memory"),
        ("ram=x&machine=pc", "option machine cannot be 'pc'"),
        ("ram=x&ram-base=zero", "option ram-base cannot be 'zero'"),
        ("ram=x&machine=virt&mode=legacy", "option mode is not for the machine virt"),
        ("ram=x&legacy=on", "no option is called 'legacy'"),
    ],
)
def test_a_socket_needs_the_memory_of_its_machine(options: str, words: str) -> None:
    with pytest.raises(InvalidParam) as caught:
        find(f"qtest:/run/qtest?{options}" if options else "qtest:/run/qtest")
    assert words in str(caught.value)


def test_memory_that_is_none_is_refused(tmp_path: Path) -> None:
    target = f"qtest:{tmp_path}/qtest?ram="
    (tmp_path / "small").write_bytes(bytes(1000))
    for name, words in (("none", "No such file"), ("small", "1000 bytes"), ("", "Is a directory")):
        with pytest.raises(SetupError, match=words):
            find(f"{target}{tmp_path}/{name}").open()


# --- The table of machines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MACHINES))
def test_a_machine_has_one_kind_of_bus_and_firmware_that_fits(name: str) -> None:
    machine = MACHINES[name]
    assert (machine.pci is None) != (machine.slots is None)
    assert machine.name == name
    if "x86" in machine.program:
        assert len(machine.firmware) == 1 << 16
        assert machine.firmware[0xFFF0:0xFFF4] == b"\xfa\xf4\xeb\xfd"
    else:
        assert machine.firmware == 0xD503_207F.to_bytes(4, "little") + 0x17FF_FFFF.to_bytes(4, "little")


def test_a_slot_has_its_address_and_its_line() -> None:
    slots = MACHINES["virt"].slots
    assert isinstance(slots, Slots)
    assert slots.addresses()[31] == 0x0A00_3E00
    assert slots.line(0x0A00_3E00) == 47
