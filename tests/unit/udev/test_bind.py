from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from udev import (
    BindError,
    BindTimeout,
    DeviceNotFound,
    ModuleMissing,
    UdevError,
    clear_override,
    current_driver,
    driver_exists,
    load_module,
    read_pci,
    rebind,
    set_override,
    unbind,
)
from udev.bind import bind
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"
SHORT = 0.1


def test_a_device_goes_to_another_driver_and_its_disk_goes_away(fake: FakeSysfs) -> None:
    bind(fake.sysfs, DISK, "vfio-pci")
    device = read_pci(fake.sysfs, DISK)
    assert (device.driver, device.driver_override) == ("vfio-pci", "vfio-pci")
    assert not (fake.root / "block/vda").exists()
    assert (fake.dev / "vfio/7").is_char_device()


def test_the_override_is_written_before_the_old_driver_lets_go(fake: FakeSysfs) -> None:
    bind(fake.sysfs, DISK, "vfio-pci")
    assert fake.writes == [
        (f"bus/pci/devices/{DISK}/driver_override", "vfio-pci\n"),
        ("bus/pci/drivers/virtio-pci/unbind", DISK),
        ("bus/pci/drivers_probe", DISK),
    ]


def test_binding_to_the_driver_that_holds_it_writes_nothing(fake: FakeSysfs) -> None:
    bind(fake.sysfs, DISK, "virtio-pci")
    assert fake.writes == []


def test_a_driver_that_is_still_probing_is_not_taken_for_bound(fake: FakeSysfs) -> None:
    fake._stuck.add(DISK)
    with pytest.raises(BindTimeout):
        bind(fake.sysfs, DISK, "virtio-pci", SHORT)


def test_binding_a_device_that_nobody_holds_unbinds_nothing(fake: FakeSysfs) -> None:
    fake.add_pci("0000:00:02.0", 0x8086, 0x100E)
    bind(fake.sysfs, "0000:00:02.0", "vfio-pci")
    assert current_driver(fake.sysfs, "0000:00:02.0") == "vfio-pci"
    assert not any("unbind" in path for path, _ in fake.writes)


def test_a_driver_that_is_not_loaded_is_refused_before_anything_is_written(fake: FakeSysfs) -> None:
    with pytest.raises(ModuleMissing, match="`modprobe uio_pci_generic`"):
        bind(fake.sysfs, DISK, "uio_pci_generic")
    assert fake.writes == []
    assert current_driver(fake.sysfs, DISK) == "virtio-pci"


def test_a_probe_that_fails_is_found_out_by_reading_the_link(fake: FakeSysfs) -> None:
    fake.bind_fails = True
    with pytest.raises(BindError, match="held by none, not by vfio-pci"):
        bind(fake.sysfs, DISK, "vfio-pci", SHORT)


@pytest.mark.fault(54)
def test_another_driver_that_takes_the_device_is_named(fake: FakeSysfs) -> None:
    fake.add_driver("greedy")
    fake.stolen_by = "greedy"
    with pytest.raises(BindError, match="held by greedy, not by vfio-pci"):
        bind(fake.sysfs, DISK, "vfio-pci", SHORT)


@pytest.mark.fault(54)
def test_an_override_that_does_not_stay_is_found_out_before_the_old_driver_lets_go(fake: FakeSysfs) -> None:
    fake.override_lost = True
    with pytest.raises(BindError, match="driver_override was set to vfio-pci and reads None"):
        bind(fake.sysfs, DISK, "vfio-pci")
    assert current_driver(fake.sysfs, DISK) == "virtio-pci"


@pytest.mark.fault(53)
def test_a_driver_that_never_lets_go_is_a_timeout_that_says_so(fake: FakeSysfs) -> None:
    fake.unbind_hangs = True
    with pytest.raises(BindTimeout, match="driver virtio-pci did not let go within") as caught:
        bind(fake.sysfs, DISK, "vfio-pci", SHORT)
    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.fault(53)
def test_a_hung_device_shows_no_driver_and_is_still_not_taken_for_unbound(fake: FakeSysfs) -> None:
    fake.unbind_hangs = True
    for _ in range(2):
        with pytest.raises(BindTimeout):
            unbind(fake.sysfs, DISK, SHORT)
        assert current_driver(fake.sysfs, DISK) is None
    with pytest.raises(BindTimeout):
        rebind(fake.sysfs, DISK, None, SHORT)


def test_a_device_that_hung_can_be_bound_once_the_old_driver_has_let_go(fake: FakeSysfs) -> None:
    fake.unbind_hangs = True
    with pytest.raises(BindTimeout):
        bind(fake.sysfs, DISK, "vfio-pci", SHORT)
    with pytest.raises(BindTimeout):
        clear_override(fake.sysfs, DISK, SHORT)
    fake.release()
    bind(fake.sysfs, DISK, "vfio-pci")
    assert current_driver(fake.sysfs, DISK) == "vfio-pci"


@pytest.mark.parametrize("step", [unbind, current_driver, clear_override])
def test_an_absent_device_is_device_not_found(fake: FakeSysfs, step: object) -> None:
    assert callable(step)
    with pytest.raises(DeviceNotFound):
        step(fake.sysfs, "0000:00:1f.0")


def test_binding_an_absent_device_is_device_not_found(fake: FakeSysfs) -> None:
    with pytest.raises(DeviceNotFound):
        bind(fake.sysfs, "0000:00:1f.0", "vfio-pci")


def test_unbinding_leaves_the_device_to_nobody_and_twice_is_once(fake: FakeSysfs) -> None:
    unbind(fake.sysfs, DISK)
    unbind(fake.sysfs, DISK)
    assert current_driver(fake.sysfs, DISK) is None
    assert len(fake.writes) == 1


def test_a_refusal_of_the_kernel_keeps_its_errno(fake: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes, seconds: float | None) -> int:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(fake.sysfs, "_store", refuse)
    with pytest.raises(BindError, match="unbinding from virtio-pci: the kernel refused") as caught:
        unbind(fake.sysfs, DISK)
    assert caught.value.errno == errno.EBUSY


def test_clearing_the_override_writes_one_newline(fake: FakeSysfs) -> None:
    set_override(fake.sysfs, DISK, "vfio-pci")
    clear_override(fake.sysfs, DISK)
    assert fake.writes[-1] == (f"bus/pci/devices/{DISK}/driver_override", "\n")
    assert read_pci(fake.sysfs, DISK).driver_override is None


def test_rebind_gives_the_device_and_its_disk_back(fake: FakeSysfs) -> None:
    before = read_pci(fake.sysfs, DISK)
    bind(fake.sysfs, DISK, "vfio-pci")
    rebind(fake.sysfs, DISK, before.driver, override=before.driver_override)
    assert read_pci(fake.sysfs, DISK) == before
    assert (fake.root / "block/vda/size").read_text() == "2048\n"
    assert not (fake.dev / "vfio/7").exists()


def test_rebind_puts_an_earlier_override_back(fake: FakeSysfs) -> None:
    set_override(fake.sysfs, DISK, "pci-stub")
    bind(fake.sysfs, DISK, "vfio-pci")
    rebind(fake.sysfs, DISK, "virtio-pci", override="pci-stub")
    device = read_pci(fake.sysfs, DISK)
    assert (device.driver, device.driver_override) == ("virtio-pci", "pci-stub")


def test_rebind_to_none_leaves_the_device_unbound_and_without_override(fake: FakeSysfs) -> None:
    bind(fake.sysfs, DISK, "vfio-pci")
    rebind(fake.sysfs, DISK, None)
    device = read_pci(fake.sysfs, DISK)
    assert (device.driver, device.driver_override) == (None, None)


def test_rebind_puts_the_override_back_also_when_the_driver_refuses(fake: FakeSysfs) -> None:
    bind(fake.sysfs, DISK, "vfio-pci")
    fake.bind_fails = True
    with pytest.raises(BindError, match="not by virtio-pci"):
        rebind(fake.sysfs, DISK, "virtio-pci", SHORT)
    assert read_pci(fake.sysfs, DISK).driver_override is None


def test_a_platform_device_is_unbound_and_given_back_in_the_same_way(fake: FakeSysfs) -> None:
    fake.add_mmio("a003e00.virtio_mmio", driver="virtio-mmio")
    unbind(fake.sysfs, "a003e00.virtio_mmio", bus="platform")
    assert current_driver(fake.sysfs, "a003e00.virtio_mmio", bus="platform") is None
    rebind(fake.sysfs, "a003e00.virtio_mmio", "virtio-mmio", bus="platform")
    assert current_driver(fake.sysfs, "a003e00.virtio_mmio", bus="platform") == "virtio-mmio"


def test_a_driver_exists_when_its_folder_does(fake: FakeSysfs) -> None:
    assert driver_exists(fake.sysfs, "vfio-pci")
    assert not driver_exists(fake.sysfs, "uio_pci_generic")


def _install_modprobe(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    script = folder / "modprobe"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_loading_a_module_runs_modprobe_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install_modprobe(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/called')
    load_module("vfio-pci")
    assert (tmp_path / "called").read_text() == "vfio-pci\n"


@pytest.mark.parametrize(
    "words",
    [
        "modprobe: FATAL: Module nosuch not found in directory /lib/modules/6.1.0",
        "modprobe: module nosuch not found in modules.dep",
    ],
)
def test_a_module_that_is_not_there_is_module_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    _install_modprobe(tmp_path, monkeypatch, f"echo '{words}' >&2; exit 1")
    with pytest.raises(ModuleMissing, match="`modprobe nosuch`") as caught:
        load_module("nosuch")
    assert caught.value.errno == errno.ENOENT


def test_another_failure_of_modprobe_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install_modprobe(tmp_path, monkeypatch, "echo 'could not insert: Operation not permitted' >&2; exit 1")
    with pytest.raises(UdevError, match="Operation not permitted") as caught:
        load_module("vfio-pci")
    assert not isinstance(caught.value, ModuleMissing)


def test_a_machine_without_modprobe_is_module_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(ModuleMissing, match="no modprobe"):
        load_module("vfio-pci")


def test_a_modprobe_that_never_ends_is_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install_modprobe(tmp_path, monkeypatch, "exec sleep 60")
    with pytest.raises(BindTimeout, match="modprobe vfio-pci: not finished"):
        load_module("vfio-pci", 0.2)


def test_a_module_name_cannot_be_an_option_of_modprobe() -> None:
    with pytest.raises(UdevError, match="not a name"):
        load_module("--remove")
