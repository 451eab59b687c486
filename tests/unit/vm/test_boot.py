"""From what is asked to QEMU's command line."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hwloop import vm
from hwloop.vm import boot, tools
from hwloop.vm.bundle import Guest
from hwloop.vm.disk import Disk
from hwloop.vm.errors import BadOption, MissingFile, MissingTool
from hwloop.vm.image import Image
from hwloop.vm.launcher import Qemu
from hwloop.vm.machine import MACHINES, MICROVM, Q35, VIRT, Machine, with_kernel


def guest(machine: Machine = Q35) -> Guest:
    return Guest(machine, Image(Path("/cache/image-1"), machine.arch, "6.1.0", "3.11"), ())


def arguments(setup: boot.Setup, machine: Machine = Q35) -> list[str]:
    with Qemu() as qemu:
        return boot._arguments(guest(machine), setup, qemu, initrd=7, words=8)


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_users_devices_stand_between_the_iommu_and_the_disks(tmp_path: Path) -> None:
    (tmp_path / "d.img").touch()
    disk = Disk(str(tmp_path / "d.img"), {"bus": "rp0"})
    words = arguments(boot.Setup(("true",), disks=(disk,), qemu=("-device", "pcie-root-port,id=rp0")))
    iommu = next(n for n, word in enumerate(words) if word.startswith("intel-iommu"))
    bridge = words.index("pcie-root-port,id=rp0")
    device = next(n for n, word in enumerate(words) if word.startswith("virtio-blk-pci"))
    assert iommu < bridge < device


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_no_virtio_device_is_there_that_was_not_asked_for(machine: Machine) -> None:
    words = arguments(boot.Setup(("true",)), machine)
    assert not [word for word in words if "virtio" in word and not word.startswith("virtio-mmio.force-legacy")]


@pytest.mark.parametrize(
    ("machine", "device"), [(Q35, "virtio-9p-pci"), (MICROVM, "virtio-9p-device"), (VIRT, "virtio-9p-device")]
)
def test_a_share_is_one_device_out_of_the_disks_way(machine: Machine, device: str, tmp_path: Path) -> None:
    shared = arguments(boot.Setup(("true",), share=tmp_path), machine)
    [word] = [word for word in shared if word.startswith("virtio-9p")]
    assert word.startswith(f"{device},")
    assert word.endswith((",addr=1e.0", ",bus=virtio-mmio-bus.1", ",bus=virtio-mmio-bus.31"))


def test_a_machine_whose_kernel_finds_no_device_refuses_a_share(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="--share needs"):
        vm.run(["true"], machine="microvm-noacpi", share=tmp_path)


def test_a_newer_kernel_runs_on_a_processor_that_it_survives() -> None:
    newer = with_kernel(Q35, "6.12")
    words = arguments(boot.Setup(("true",)), newer)
    assert option(words, "-cpu") == "max,-erms,-cx16"
    assert option(arguments(boot.Setup(("true",))), "-cpu") == "max,-erms"
    assert with_kernel(Q35, "6.1") is Q35


@pytest.mark.parametrize(("version", "legacy"), [(None, "false"), (1, "true"), (2, "false")])
def test_the_version_of_virtio_mmio_is_the_one_asked_for(version: int | None, legacy: str) -> None:
    words = arguments(boot.Setup(("true",), mmio_version=version), MICROVM)
    assert option(words, "-global") == f"virtio-mmio.force-legacy={legacy}"


def test_a_kernel_that_cannot_measure_its_clock_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwloop.vm.tsc.frequency_khz", lambda: 2600001)
    assert " tsc_early_khz=2600001 mine" in option(arguments(boot.Setup(("true",), append="mine"), MICROVM), "-append")
    assert "tsc_early_khz" not in option(arguments(boot.Setup(("true",))), "-append")


def test_a_guest_of_another_processor_gets_that_processors_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda program, path=None: None)  # type: ignore[attr-defined]
    with pytest.raises(MissingTool, match="qemu-system-aarch64 is not installed; run: apt install qemu-system-arm"):
        vm.run(["true"], machine="virt")


def test_kvm_for_another_processor_is_refused_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot.platform, "machine", lambda: "x86_64")  # type: ignore[attr-defined]
    with pytest.raises(BadOption, match="virt is aarch64, and KVM here runs guests of x86_64 only"):
        vm.run(["true"], machine="virt", accel="kvm")


def test_words_are_appended_to_the_kernels_command_line() -> None:
    words = arguments(boot.Setup(("true",), append="panic=5 quiet"))
    line = words[words.index("-append") + 1]
    assert line.startswith("console=ttyS0")
    assert line.endswith("panic=5 quiet")


@pytest.mark.parametrize(("accel", "argument"), [("tcg", "tcg,thread=multi"), ("kvm", "kvm")])
def test_the_accelerator_is_the_one_chosen(accel: str, argument: str) -> None:
    words = arguments(boot.Setup(("true",), accel=accel))
    assert words[words.index("-accel") + 1] == argument


def test_the_guest_is_told_the_command_word_for_word() -> None:
    setup = boot.Setup(("sh", "-c", "echo 'a b' $X", "", "\udcff"))
    settings, command = boot._settings(guest(), setup).split(b"\0\0", 1)
    assert settings.split(b"\0") == [b"module=virtio_pci", b"module=virtio_blk", b"folder=/hwloop"]
    assert command == b"sh\0-c\0echo 'a b' $X\0\0\xff\0"


def test_a_guest_of_another_processor_indexes_its_libraries_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot.platform, "machine", lambda: "x86_64")  # type: ignore[attr-defined]
    assert b"libraries=index\0" in boot._settings(guest(VIRT), boot.Setup(("true",)))
    assert b"libraries" not in boot._settings(guest(), boot.Setup(("true",)))


def test_the_guest_mounts_a_share_only_if_there_is_one(tmp_path: Path) -> None:
    setup = boot.Setup(("true",))
    assert b"share" not in boot._settings(guest(), setup)
    assert b"share=/share\0" in boot._settings(guest(), replace(setup, share=tmp_path))


def test_qemu_arguments_are_split_as_a_shell_would(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = boot._check(["true"], [], ["-device 'a,b c'", "-S"], "", None, 1.0, "2G", 2, "tcg")
    assert setup.qemu == ("-device", "a,b c", "-S")


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": "true"},
        {"command": []},
        {"command": [""]},
        {"command": ["a\0b"]},
        {"command": ["true"], "timeout": 0},
        {"command": ["true"], "timeout": float("nan")},
        {"command": ["true"], "timeout": float("inf")},
        {"command": ["true"], "qemu": ["-device 'open"]},
        {"command": ["true"], "disks": [""]},
        {"command": ["true"], "machine": "pdp11"},
        {"command": ["true"], "kernel": "2.6"},
        {"command": ["true"], "accel": "hope"},
        {"command": ["true"], "mmio_version": 2},
        {"command": ["true"], "machine": "microvm", "mmio_version": 3},
    ],
    ids=repr,
)
def test_what_means_nothing_is_refused_before_anything_is_built(wrong: dict[str, object]) -> None:
    with pytest.raises(BadOption) as caught:
        vm.run(**wrong)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


def test_a_disk_that_is_not_there_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        vm.run(["true"], disks=[str(tmp_path / "none.img")])


def test_a_share_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="mkdir -p"):
        vm.run(["true"], share=tmp_path / "none")


def test_a_machine_without_qemu_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda program, path=None: None)  # type: ignore[attr-defined]
    with pytest.raises(MissingTool, match="apt install qemu-system-x86") as caught:
        vm.run(["true"])
    assert caught.value.exit_code == 6


def test_importing_the_package_loads_neither_click_nor_rich() -> None:
    code = "import hwloop.vm, sys; sys.exit(bool({'click', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
