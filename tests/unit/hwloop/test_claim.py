"""Taking a function from the kernel and giving it back, on a fake sysfs tree."""

from __future__ import annotations

import atexit
import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import udev
from hwloop import claim as claim_module
from hwloop.claim import UIO_DRIVER, Claim, bind_lastingly, group_fault, restore, restore_all, why_in_use
from hwloop.errors import RefusedError, SetupError, exit_code_of
from hwloop.journal import Entry, Journal
from hwloop.lock import DeviceLock, lock_holder
from udev import BindError, BindTimeout, DeviceNotFound
from udev.fake import FakeSysfs

DISK = "0000:00:05.0"
OVERRIDE = f"bus/pci/devices/{DISK}/driver_override"
VIRTIO = "bus/pci/drivers/virtio-pci"


@pytest.fixture
def fake(tmp_path: Path) -> FakeSysfs:
    """A machine with one virtio disk alone in its group, and vfio-pci loaded."""
    machine = FakeSysfs(tmp_path / "machine")
    machine.add_driver("vfio-pci")
    machine.add_pci(DISK, 0x1AF4, 0x1042, driver="virtio-pci", iommu_group=7, block="vda", partitions=(4096, 8192))
    return machine


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def driver(fake: FakeSysfs) -> str | None:
    return udev.current_driver(fake.sysfs, DISK)


def override(fake: FakeSysfs) -> str:
    return fake.sysfs.read(fake.sysfs.pci_device(DISK) / "driver_override")


def take(fake: FakeSysfs, run_dir: Path) -> Claim:
    return Claim(DISK, sysfs=fake.sysfs, run_dir=run_dir)


def untouched(fake: FakeSysfs, run_dir: Path) -> None:
    """Nothing was written anywhere, and nothing is left over."""
    assert fake.writes == []
    assert driver(fake) == "virtio-pci"
    assert not run_dir.exists() or list(run_dir.iterdir()) == []


def as_before(fake: FakeSysfs, run_dir: Path) -> None:
    assert (driver(fake), override(fake)) == ("virtio-pci", "(null)")
    assert (fake.dev / "vda").exists()
    assert list(run_dir.iterdir()) == []


# --- The way in and the way out ---------------------------------------------------------------------------------------


def test_a_function_is_taken_in_this_order_and_given_back_in_this(fake: FakeSysfs, run_dir: Path) -> None:
    with take(fake, run_dir):
        assert driver(fake) == "vfio-pci"
        assert lock_holder(DISK, run_dir) == os.getpid()
        assert Journal(run_dir).read(DISK) == Entry(DISK, "virtio-pci", None, pid=os.getpid())
        taking = list(fake.writes)
        fake.writes.clear()
    assert taking == [
        (OVERRIDE, "vfio-pci\n"),
        (f"{VIRTIO}/unbind", DISK),
        ("bus/pci/drivers_probe", DISK),
    ]
    assert fake.writes == [
        (OVERRIDE, "virtio-pci\n"),
        ("bus/pci/drivers/vfio-pci/unbind", DISK),
        ("bus/pci/drivers_probe", DISK),
        (OVERRIDE, "\n"),
    ]
    as_before(fake, run_dir)


def test_the_journal_is_written_before_anything_is_changed(
    fake: FakeSysfs, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: Journal, entry: Entry) -> None:
        raise SetupError("no space")

    monkeypatch.setattr(Journal, "write", crash)
    with pytest.raises(SetupError, match="no space"):
        take(fake, run_dir)
    untouched(fake, run_dir)


def test_giving_back_twice_is_giving_back(fake: FakeSysfs, run_dir: Path) -> None:
    claim = take(fake, run_dir)
    claim.give_back()
    fake.writes.clear()
    claim.give_back()
    assert fake.writes == []


def test_a_program_that_ends_without_a_word_gives_back_at_its_exit(fake: FakeSysfs, run_dir: Path) -> None:
    registered: list[Any] = []
    original = atexit.register
    try:
        atexit.register = registered.append  # type: ignore[assignment]
        claim = take(fake, run_dir)
    finally:
        atexit.register = original
    assert registered == [claim.give_back]
    registered[0]()
    as_before(fake, run_dir)


def test_an_earlier_override_comes_back(fake: FakeSysfs, run_dir: Path) -> None:
    udev.set_override(fake.sysfs, DISK, "virtio-pci")
    take(fake, run_dir).give_back()
    assert override(fake) == "virtio-pci"


def test_a_function_that_no_driver_held_is_held_by_none_again(fake: FakeSysfs, run_dir: Path) -> None:
    udev.unbind(fake.sysfs, DISK)
    take(fake, run_dir).give_back()
    assert driver(fake) is None
    assert override(fake) == "(null)"


def test_a_driver_that_is_missing_is_loaded_after_the_refusals_and_before_any_change(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = FakeSysfs(tmp_path / "other")
    machine.add_pci(DISK, 0x1AF4, 0x1042, driver="virtio-pci", iommu_group=7, block="vda")
    loaded: list[str] = []

    def load(name: str) -> None:
        assert machine.writes == []
        loaded.append(name)
        machine.add_driver(name)

    monkeypatch.setattr(udev, "load_module", load)
    take(machine, run_dir).give_back()
    assert loaded == ["vfio-pci"]
    take(machine, run_dir).give_back()
    assert loaded == ["vfio-pci"], "it is there by now"


# --- Refusals, before anything is written -----------------------------------------------------------------------------


def mounted(fake: FakeSysfs) -> None:
    fake.add_mount("vda1", "/mnt")


def swap(fake: FakeSysfs) -> None:
    fake.add_swap("/dev/vda2")


def device_mapper(fake: FakeSysfs) -> None:
    fake.add_holder("vda", "dm-0")


def loop(fake: FakeSysfs) -> None:
    fake.add_loop("loop0", "/dev/vda")


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (mounted, "mount@vda1:/mnt"),
        (swap, "swap@vda2"),
        (device_mapper, "holder@vda:dm-0"),
        (loop, "loop@vda:loop0"),
    ],
)
def test_a_disk_in_use_is_refused_and_not_touched(fake: FakeSysfs, run_dir: Path, use: Any, reason: str) -> None:
    use(fake)
    fake.writes.clear()
    for attempt in (
        lambda: take(fake, run_dir),
        lambda: bind_lastingly(DISK, "vfio-pci", fake.sysfs, run_dir),
        lambda: bind_lastingly(DISK, None, fake.sysfs, run_dir),
    ):
        with pytest.raises(RefusedError, match=f"{DISK} is in use \\({reason}.*it was not touched; unmount") as caught:
            attempt()
        assert (caught.value.errno, exit_code_of(caught.value)) == (errno.EBUSY, 3)
        untouched(fake, run_dir)
    assert reason in why_in_use(fake.sysfs, udev.block_devices_of(fake.sysfs, DISK))


def test_many_reasons_are_cut_short(fake: FakeSysfs, run_dir: Path) -> None:
    for number in range(12):
        fake.add_mount("vda1", f"/mnt{number}")
    with pytest.raises(RefusedError, match="and 4 more"):
        take(fake, run_dir)


def test_a_disk_that_somebody_has_open_exclusively_is_refused(
    fake: FakeSysfs, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def busy(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).endswith("/dev/vda"):
            assert flags & os.O_EXCL
            assert not flags & os.O_CREAT
            raise OSError(errno.EBUSY, "Device or resource busy")
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", busy)
    with pytest.raises(RefusedError, match="exclusive@vda"):
        take(fake, run_dir)
    untouched(fake, run_dir)


@pytest.mark.parametrize(("code", "kind"), [(errno.EACCES, SetupError), (errno.EIO, OSError)])
def test_a_disk_that_cannot_be_looked_at_is_not_taken(
    fake: FakeSysfs, run_dir: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[OSError]
) -> None:
    opened = os.open

    def refused(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).endswith("/dev/vda"):
            raise OSError(code, os.strerror(code))
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(kind) as caught:
        take(fake, run_dir)
    assert caught.value.errno == code
    untouched(fake, run_dir)


def test_a_disk_without_a_node_is_taken(fake: FakeSysfs, run_dir: Path) -> None:
    (fake.dev / "vda").unlink()
    take(fake, run_dir).give_back()


def test_the_disk_is_held_until_it_has_left_its_driver(fake: FakeSysfs, run_dir: Path) -> None:
    """Nobody may mount it between our look and the unbind."""
    held: list[bool] = []
    unbind = fake._unbind

    def watched(*arguments: Any) -> None:
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
        held.append(str(fake.dev / "vda") in links)
        unbind(*arguments)

    fake._unbind = watched  # type: ignore[method-assign, assignment]
    with take(fake, run_dir):
        assert held == [True]


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_another_process_that_has_it_is_named(fake: FakeSysfs, run_dir: Path) -> None:
    with DeviceLock(DISK, run_dir):
        for attempt in (lambda: take(fake, run_dir), lambda: restore(DISK, fake.sysfs, run_dir)):
            with pytest.raises(RefusedError, match=f"process {os.getpid()}"):
                attempt()
        assert fake.writes == []


def test_a_function_that_is_not_there_leaves_no_lock(fake: FakeSysfs, run_dir: Path) -> None:
    with pytest.raises(DeviceNotFound):
        Claim("0000:00:1f.0", sysfs=fake.sysfs, run_dir=run_dir)
    assert list(run_dir.iterdir()) == []


def test_without_an_iommu_group_the_remedy_is_the_kernels_command_line(fake: FakeSysfs, run_dir: Path) -> None:
    fake.add_pci("0000:00:06.0", 0x1AF4, 0x1042, driver="virtio-pci", block="vdb")
    with pytest.raises(SetupError, match="has no IOMMU group; turn the IOMMU on: intel_iommu=on"):
        Claim("0000:00:06.0", sysfs=fake.sysfs, run_dir=run_dir)
    untouched(fake, run_dir)


@pytest.mark.parametrize(
    ("neighbour", "fine"), [("e1000", False), (None, True), ("vfio-pci", True), ("pcieport", True), ("pci-stub", True)]
)
def test_a_neighbour_in_the_group_is_named_unless_it_is_harmless(
    fake: FakeSysfs, run_dir: Path, neighbour: str | None, fine: bool
) -> None:
    fake.add_pci("0000:00:05.1", 0x8086, 0x100E, driver=neighbour, iommu_group=7)
    if fine:
        take(fake, run_dir).give_back()
        return
    with pytest.raises(SetupError, match=r"group 7 of 0000:00:05\.0 also holds 0000:00:05\.1 \(e1000\)"):
        take(fake, run_dir)
    untouched(fake, run_dir)
    assert group_fault(fake.sysfs, udev.read_pci(fake.sysfs, DISK)) != ""


# --- Failures on the way ----------------------------------------------------------------------------------------------


def test_a_driver_that_does_not_take_the_function_leaves_it_with_the_old_one(
    fake: FakeSysfs, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udev, "bind_device", _impatient(udev.bind_device))
    fake.bind_fails = True
    probe = fake._probe

    def fails_once(device: Any) -> None:
        probe(device)
        fake.bind_fails = False

    fake._probe = fails_once  # type: ignore[method-assign]
    with pytest.raises(BindError, match="held by none, not by vfio-pci"):
        take(fake, run_dir)
    as_before(fake, run_dir)


def _impatient(bind: Any) -> Any:
    return lambda sysfs, address, driver, *, bus: bind(sysfs, address, driver, 0.05, bus=bus)


@pytest.mark.fault(54, over="machine")
def test_an_override_that_does_not_stay_is_noticed_before_the_unbind(fake: FakeSysfs, run_dir: Path) -> None:
    fake.override_lost = True
    with pytest.raises(BindError, match="somebody else manages this device"):
        take(fake, run_dir)
    assert not any(path.endswith("unbind") for path, _ in fake.writes)
    as_before(fake, run_dir)


def test_a_node_that_does_not_come_gives_the_function_back(
    fake: FakeSysfs, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_module, "_NODE_SECONDS", 0.02)
    monkeypatch.setattr(fake, "_make_user_node", lambda device, driver: None)
    with pytest.raises(OSError, match="vfio/7"):
        take(fake, run_dir)
    as_before(fake, run_dir)


@pytest.mark.fault(53, over="machine")
def test_an_unbind_that_hangs_is_given_up_and_repaired_later(fake: FakeSysfs, run_dir: Path) -> None:
    fake.unbind_hangs = True
    with pytest.raises(BindTimeout):
        take(fake, run_dir)
    assert Journal(run_dir).read(DISK) is not None, "what it was is remembered"
    assert lock_holder(DISK, run_dir) is None
    with pytest.raises(BindTimeout):
        restore(DISK, fake.sysfs, run_dir)
    fake.release()
    assert restore(DISK, fake.sysfs, run_dir) == "virtio-pci"
    as_before(fake, run_dir)


def test_a_device_that_was_unplugged_is_given_back_without_a_word(fake: FakeSysfs, run_dir: Path) -> None:
    claim = take(fake, run_dir)
    fake.remove_pci(DISK)
    claim.give_back()
    assert list(run_dir.iterdir()) == [], "another device may come to this address"


def test_the_entry_of_a_device_that_was_unplugged_is_told_once(fake: FakeSysfs, run_dir: Path) -> None:
    crash(take(fake, run_dir))
    fake.remove_pci(DISK)
    assert isinstance(dict(restore_all(fake.sysfs, run_dir))[DISK], DeviceNotFound)
    assert dict(restore_all(fake.sysfs, run_dir)) == {}


@pytest.mark.fault(59, over="machine")
def test_a_child_of_the_process_that_took_it_does_not_give_it_back(fake: FakeSysfs, run_dir: Path) -> None:
    with take(fake, run_dir) as claim:
        child = os.fork()
        if not child:
            try:
                claim.give_back()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert driver(fake) == "vfio-pci"
        assert lock_holder(DISK, run_dir) == os.getpid()
        assert Journal(run_dir).addresses() == [DISK]
    as_before(fake, run_dir)


def test_a_signal_while_it_is_given_back_comes_when_it_is(
    fake: FakeSysfs, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = take(fake, run_dir)
    monkeypatch.setattr(claim_module.atexit, "unregister", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        claim.give_back()
    as_before(fake, run_dir)


def crash(claim: Claim) -> None:
    """As SIGKILL ends a process: its descriptors are closed, and nothing else happens."""
    atexit.unregister(claim.give_back)
    os.close(claim._lock._fd)
    claim._lock._fd = -1
    claim._active = False


def test_after_a_crash_restore_goes_back_to_what_was(fake: FakeSysfs, run_dir: Path) -> None:
    crash(take(fake, run_dir))
    assert driver(fake) == "vfio-pci"
    assert restore(DISK, fake.sysfs, run_dir) == "virtio-pci"
    as_before(fake, run_dir)


def test_after_a_crash_the_next_user_goes_back_to_what_was(fake: FakeSysfs, run_dir: Path) -> None:
    crash(take(fake, run_dir))
    crash(take(fake, run_dir))
    with take(fake, run_dir):
        assert driver(fake) == "vfio-pci"
    as_before(fake, run_dir)


def test_a_journal_that_cannot_be_read_stops_us_with_the_command_that_helps(fake: FakeSysfs, run_dir: Path) -> None:
    run_dir.mkdir()
    (run_dir / f"{DISK}.json").write_text("{")
    with pytest.raises(SetupError, match=f"hwloop restore {DISK}"):
        take(fake, run_dir)
    assert fake.writes == []


# --- Lasting binds, and restore ---------------------------------------------------------------------------------------


def test_a_lasting_bind_stays_and_restore_undoes_it(fake: FakeSysfs, run_dir: Path) -> None:
    bind_lastingly(DISK, "vfio-pci", fake.sysfs, run_dir)
    assert driver(fake) == "vfio-pci"
    assert lock_holder(DISK, run_dir) is None
    assert restore(DISK, fake.sysfs, run_dir) == "virtio-pci"
    as_before(fake, run_dir)


def test_a_device_that_was_bound_lastingly_stays_bound_after_it_was_used(fake: FakeSysfs, run_dir: Path) -> None:
    bind_lastingly(DISK, "vfio-pci", fake.sysfs, run_dir)
    with take(fake, run_dir):
        assert driver(fake) == "vfio-pci"
    assert driver(fake) == "vfio-pci"
    assert restore(DISK, fake.sysfs, run_dir) == "virtio-pci"
    as_before(fake, run_dir)


def test_after_two_lasting_binds_restore_goes_back_before_the_first(fake: FakeSysfs, run_dir: Path) -> None:
    fake.add_driver("uio_pci_generic")
    bind_lastingly(DISK, "vfio-pci", fake.sysfs, run_dir)
    bind_lastingly(DISK, "uio_pci_generic", fake.sysfs, run_dir)
    bind_lastingly(DISK, None, fake.sysfs, run_dir)
    assert driver(fake) is None
    assert restore(DISK, fake.sysfs, run_dir) == "virtio-pci"
    as_before(fake, run_dir)


def test_a_lasting_unbind_leaves_the_function_without_a_driver(fake: FakeSysfs, run_dir: Path) -> None:
    bind_lastingly(DISK, None, fake.sysfs, run_dir)
    assert driver(fake) is None
    assert restore(DISK, fake.sysfs, run_dir) == "virtio-pci"


def test_a_lasting_bind_to_a_driver_that_cannot_be_loaded_changes_nothing(
    fake: FakeSysfs, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise udev.ModuleMissing(f"kernel module {name}: not found")

    monkeypatch.setattr(udev, "load_module", missing)
    with pytest.raises(udev.ModuleMissing):
        bind_lastingly(DISK, "no-such-driver", fake.sysfs, run_dir)
    untouched(fake, run_dir)


def test_restore_without_a_journal_leaves_the_choice_to_the_kernel(fake: FakeSysfs, run_dir: Path) -> None:
    udev.bind_device(fake.sysfs, DISK, "vfio-pci")
    assert restore(DISK, fake.sysfs, run_dir) == "virtio-pci"
    as_before(fake, run_dir)


def test_restore_of_a_function_in_good_order_changes_nothing_that_matters(fake: FakeSysfs, run_dir: Path) -> None:
    fake.add_mount("vda1", "/mnt")
    assert restore(DISK, fake.sysfs, run_dir) == "virtio-pci"
    assert (fake.dev / "vda").exists()
    assert not any("unbind" in path for path, _ in fake.writes)


def test_restore_all_goes_on_after_a_failure(fake: FakeSysfs, run_dir: Path) -> None:
    crash(take(fake, run_dir))
    Journal(run_dir).write(Entry("0000:00:1f.0", "virtio-pci", None))
    outcomes = dict(restore_all(fake.sysfs, run_dir))
    assert outcomes[DISK] == "virtio-pci"
    assert isinstance(outcomes["0000:00:1f.0"], DeviceNotFound)


def test_restore_keeps_the_entry_of_a_device_that_it_could_not_restore(fake: FakeSysfs, run_dir: Path) -> None:
    crash(take(fake, run_dir))
    fake.unbind_hangs = True
    assert isinstance(dict(restore_all(fake.sysfs, run_dir))[DISK], BindTimeout)
    assert Journal(run_dir).addresses() == [DISK]


# --- UIO: no IOMMU, and a node of its own -----------------------------------------------------------------------------


def take_for_uio(fake: FakeSysfs, run_dir: Path) -> Claim:
    return Claim(DISK, UIO_DRIVER, fake.sysfs, run_dir)


@pytest.fixture
def uio(tmp_path: Path) -> FakeSysfs:
    """A machine with one virtio disk and no IOMMU."""
    machine = FakeSysfs(tmp_path / "no-iommu")
    machine.add_driver("uio_pci_generic")
    machine.add_pci(DISK, 0x1AF4, 0x1001, driver="virtio-pci", block="vda")
    return machine


def test_a_function_without_a_group_is_taken_through_uio_and_given_back(uio: FakeSysfs, run_dir: Path) -> None:
    with take_for_uio(uio, run_dir):
        assert driver(uio) == "uio_pci_generic"
        node = udev.uio_node(uio.sysfs, DISK)
        assert node == uio.dev / "uio0"
        assert node.exists()
    as_before(uio, run_dir)


def test_a_neighbour_in_the_group_is_no_matter_for_uio(fake: FakeSysfs, run_dir: Path) -> None:
    fake.add_driver("uio_pci_generic")
    fake.add_pci("0000:00:05.1", 0x8086, 0x100E, driver="e1000", iommu_group=7)
    take_for_uio(fake, run_dir).give_back()
    as_before(fake, run_dir)


def test_the_module_for_uio_is_loaded_by_its_name(
    fake: FakeSysfs, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udev, "load_module", fake.add_driver)
    with take_for_uio(fake, run_dir):
        assert driver(fake) == "uio_pci_generic"


def test_a_uio_node_that_does_not_come_gives_the_function_back(
    uio: FakeSysfs, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_module, "_NODE_SECONDS", 0.02)
    monkeypatch.setattr(uio, "_make_user_node", lambda device, driver: None)
    with pytest.raises(BindTimeout, match="no UIO device after"):
        take_for_uio(uio, run_dir)
    as_before(uio, run_dir)


def test_a_function_whose_uio_node_somebody_has_open_is_refused_and_not_touched(uio: FakeSysfs, run_dir: Path) -> None:
    bind_lastingly(DISK, UIO_DRIVER, uio.sysfs, run_dir)
    uio.add_open_file(4711, uio.dev / "uio0")
    uio.writes.clear()
    for attempt in (
        lambda: take_for_uio(uio, run_dir),
        lambda: bind_lastingly(DISK, None, uio.sysfs, run_dir),
        lambda: restore(DISK, uio.sysfs, run_dir),
    ):
        with pytest.raises(RefusedError, match=r"uio0 is open in process 4711 \(.*it was not touched") as caught:
            attempt()
        assert exit_code_of(caught.value) == 3
        assert uio.writes == []
    assert driver(uio) == "uio_pci_generic"


def test_another_uio_node_that_is_open_does_not_matter(uio: FakeSysfs, run_dir: Path) -> None:
    bind_lastingly(DISK, UIO_DRIVER, uio.sysfs, run_dir)
    uio.add_open_file(4711, uio.dev / "uio7")
    take_for_uio(uio, run_dir).give_back()
    assert driver(uio) == "uio_pci_generic"


def test_restore_without_a_journal_takes_a_function_from_uio(uio: FakeSysfs, run_dir: Path) -> None:
    udev.bind_device(uio.sysfs, DISK, UIO_DRIVER)
    assert restore(DISK, uio.sysfs, run_dir) == "virtio-pci"
    as_before(uio, run_dir)


# --- Nodes of the platform bus, which are bound to nothing ------------------------------------------------------------


NODE = "a003e00.virtio_mmio"


@pytest.fixture
def board(tmp_path: Path) -> FakeSysfs:
    """A machine with one memory-mapped virtio disk."""
    machine = FakeSysfs(tmp_path / "board")
    machine.add_mmio(NODE, driver="virtio-mmio", address=0xA003E00, block="vda", partitions=(4096,))
    return machine


def take_node(board: FakeSysfs, run_dir: Path) -> Claim:
    return Claim(NODE, None, board.sysfs, run_dir, bus="platform")


def node_as_before(board: FakeSysfs, run_dir: Path) -> None:
    assert udev.current_driver(board.sysfs, NODE, bus="platform") == "virtio-mmio"
    assert udev.read_override(board.sysfs, board.sysfs.device(NODE, "platform")) is None
    assert (board.dev / "vda").exists()
    assert list(run_dir.iterdir()) == []


def test_a_node_is_taken_from_its_driver_and_given_back(board: FakeSysfs, run_dir: Path) -> None:
    with take_node(board, run_dir):
        assert udev.current_driver(board.sysfs, NODE, bus="platform") is None
        assert Journal(run_dir).read(NODE) == Entry(NODE, "virtio-mmio", None, pid=os.getpid(), bus="platform")
    node_as_before(board, run_dir)


def test_no_driver_takes_a_node_that_is_ours(board: FakeSysfs, run_dir: Path) -> None:
    with take_node(board, run_dir):
        # What loading the driver's module would do.
        board.sysfs.write(board.sysfs.drivers_probe("platform"), NODE, 1.0)
        assert udev.current_driver(board.sysfs, NODE, bus="platform") is None
    node_as_before(board, run_dir)


def test_a_node_that_no_driver_held_is_held_by_none_again(board: FakeSysfs, run_dir: Path) -> None:
    udev.unbind(board.sysfs, NODE, bus="platform")
    take_node(board, run_dir).give_back()
    assert udev.current_driver(board.sysfs, NODE, bus="platform") is None
    assert udev.read_override(board.sysfs, board.sysfs.device(NODE, "platform")) is None


def test_the_disk_of_a_node_in_use_is_refused_and_not_touched(board: FakeSysfs, run_dir: Path) -> None:
    board.add_mount("vda1", "/mnt")
    for attempt in (
        lambda: take_node(board, run_dir),
        lambda: bind_lastingly(NODE, None, board.sysfs, run_dir, bus="platform"),
    ):
        with pytest.raises(RefusedError, match=f"{NODE} is in use \\(mount@vda1:/mnt"):
            attempt()
    assert board.writes == []


def test_after_a_crash_a_node_goes_back_by_the_bus_in_the_journal(board: FakeSysfs, run_dir: Path) -> None:
    crash(take_node(board, run_dir))
    assert dict(restore_all(board.sysfs, run_dir)) == {NODE: "virtio-mmio"}
    node_as_before(board, run_dir)


def test_a_node_that_was_unbound_lastingly_is_restored(board: FakeSysfs, run_dir: Path) -> None:
    bind_lastingly(NODE, None, board.sysfs, run_dir, bus="platform")
    assert udev.current_driver(board.sysfs, NODE, bus="platform") is None
    with take_node(board, run_dir):
        pass
    assert udev.current_driver(board.sysfs, NODE, bus="platform") is None
    assert restore(NODE, board.sysfs, run_dir, bus="platform") == "virtio-mmio"
    node_as_before(board, run_dir)


def test_a_node_that_was_unbound_lastingly_is_taken_without_a_write(board: FakeSysfs, run_dir: Path) -> None:
    bind_lastingly(NODE, None, board.sysfs, run_dir, bus="platform")
    board.sysfs.write(board.sysfs.drivers_probe("platform"), NODE, 1.0)
    assert udev.current_driver(board.sysfs, NODE, bus="platform") is None, "and stays so when a module is loaded"
    before = list(board.writes)
    with take_node(board, run_dir):
        pass
    assert board.writes == before


def test_a_node_that_is_not_there_is_said_to_be_missing(board: FakeSysfs, run_dir: Path) -> None:
    with pytest.raises(DeviceNotFound, match="platform device LNRO0005:09"):
        Claim("LNRO0005:09", None, board.sysfs, run_dir, bus="platform")
    assert list(run_dir.iterdir()) == []
