"""Run a command in a guest: `run` is what the command line, the tests and the pytest plugin call."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from hwloop.deadline import Deadline
from hwloop.vm import bundle, disk, kvm, tools
from hwloop.vm.bundle import Guest
from hwloop.vm.cache import Cache, Progress, quiet
from hwloop.vm.disk import Disk
from hwloop.vm.errors import BadOption, GuestFailed, GuestTimeout, MissingFile
from hwloop.vm.launcher import Conversation, FileSink, Qemu, Sink
from hwloop.vm.machine import OWN_KERNEL, Machine, common_arguments, with_kernel
from hwloop.vm.machine import machine as machine_of

SHARE = "/share"
"""Where `--share` is in the guest."""

MAX_TIMEOUT = 86400 * 20
"""Seconds; what poll(2) can wait for in one go is a little more."""

ACCELERATORS = ("auto", "kvm", "tcg")


@dataclass(frozen=True)
class Result:
    """How a command ended. `stdout` and `stderr` are empty where they were passed on instead of captured.

    `returncode` is the exit status, or 128 + the signal that ended it; `seconds` the whole run, boot included;
    `console` the end of the kernel's console; `qemu` what QEMU itself said, such as a device model's complaints.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float
    console: str = ""
    qemu: str = ""


@dataclass(frozen=True)
class Setup:
    """What is asked of one guest, checked."""

    command: tuple[str, ...]
    disks: tuple[Disk, ...] = ()
    qemu: tuple[str, ...] = ()
    append: str = ""
    share: Path | None = None
    timeout: float = 600.0
    memory: str = "2G"
    smp: int = 2
    accel: str = "tcg"
    mmio_version: int | None = None


def run(
    command: Sequence[str],
    *,
    disks: Sequence[str | Disk] = (),
    qemu: Sequence[str] = (),
    append: str = "",
    share: str | os.PathLike[str] | None = None,
    timeout: float = 600.0,
    machine: str = "q35",
    kernel: str = OWN_KERNEL,
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
    console: BinaryIO | None = None,
    memory: str = "2G",
    smp: int = 2,
    accel: str = "auto",
    mmio_version: int | None = None,
    layers: Sequence[Path] = (),
    progress: Progress = quiet,
) -> Result:
    """Start a guest, run `command` in it as root with this checkout, and end the guest, whatever happens.

    `disks` are as for `--disk` and `qemu` as for `--qemu`. Output goes to `stdout` and `stderr` as it comes, and into
    the result for the one that is None; `console` gets the kernel's console. `timeout` in seconds is for boot and
    command, not for building what the cache lacks. The command has no standard input. `kernel` is one of
    `machine.KERNELS`, or Debian 12's own. `mmio_version` is 1 or 2, for a machine whose disks are virtio-mmio; None is
    2. `layers` are archives of files that the guest has besides its own (`cpio.Writer`), a later one over an earlier
    one.

    Raises BadOption, MissingFile, MissingTool, BuildFailed, GuestTimeout, GuestFailed.
    """
    kind = with_kernel(machine_of(machine), kernel)
    setup = _check(command, disks, qemu, append, share, timeout, memory, smp, accel)
    setup = replace(setup, mmio_version=mmio_version)
    _check_accelerator(accel, kind)
    program = tools.find(kind.arch.qemu)
    _devices(kind, setup)  # a disk that is not there is found before a long build
    cache = Cache(progress=progress)
    built = bundle.obtain(kind, cache)
    setup = replace(setup, accel=_choose(setup.accel, built, program, cache))
    built = replace(built, layers=(*built.layers, *layers))
    return _run(built, setup, program, stdout, stderr, console)


def _check(
    command: Sequence[str],
    disks: Sequence[str | Disk],
    qemu: Sequence[str],
    append: str,
    share: str | os.PathLike[str] | None,
    timeout: float,
    memory: str,
    smp: int,
    accel: str,
) -> Setup:
    """Raises BadOption, MissingFile."""
    if isinstance(command, str) or not command or not all(word and "\0" not in word for word in command[:1]):
        raise BadOption(f"command {command!r} is not a list of words", remedy="name a program to run in the guest")
    if not 0 < timeout <= MAX_TIMEOUT:
        raise BadOption(f"timeout {timeout:g} is not a number of seconds above 0 and up to {MAX_TIMEOUT}")
    if accel not in ACCELERATORS:
        raise BadOption(f"accelerator {accel!r} is unknown", remedy=f"known are: {', '.join(ACCELERATORS)}")
    parsed = tuple(disk.parse(one) if isinstance(one, str) else one for one in disks)
    words = tuple(word for text in qemu for word in _words(text))
    return Setup(tuple(command), parsed, words, append, _folder(share), timeout, memory, smp, accel)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BadOption(f"QEMU arguments {text!r} cannot be split: {error}") from None


def _folder(share: str | os.PathLike[str] | None) -> Path | None:
    if share is None:
        return None
    path = Path(share)
    if not path.is_dir():
        raise MissingFile(f"shared folder {path} does not exist", remedy=f"run: mkdir -p {path}")
    return path.absolute()


def _check_accelerator(accel: str, kind: Machine) -> None:
    """Raises BadOption for KVM with another processor's guest; QEMU would only say that there is no such thing."""
    if accel == "kvm" and platform.machine() != kind.arch.machine:
        raise BadOption(
            f"machine {kind.name} is {kind.arch.machine}, and KVM here runs guests of {platform.machine()} only",
            remedy="leave --accel out",
        )


def _choose(accel: str, built: Guest, program: str, cache: Cache) -> str:
    if accel != "auto":
        return accel
    trial = Setup(("true",), timeout=kvm.TRIAL_SECONDS, accel="kvm")

    def works() -> object:
        return _run(built, trial, program, None, None, None)

    usable = kvm.usable(cache.folder, built.image.key, program, built.machine.arch.machine, works)
    return "kvm" if usable else "tcg"


def _run(
    built: Guest,
    setup: Setup,
    program: str,
    stdout: BinaryIO | None,
    stderr: BinaryIO | None,
    console: BinaryIO | None,
) -> Result:
    begun = time.monotonic()
    deadline = Deadline(setup.timeout)
    captured = bytearray(), bytearray()
    sinks = [_sink(file, kept, deadline) for file, kept in zip((stdout, stderr), captured, strict=True)]
    with Qemu() as qemu, built.initrd() as initrd, _memory_file(_settings(built, setup)) as words:
        arguments = _arguments(built, setup, qemu, initrd.fileno(), words.fileno())
        qemu.start([program, *arguments], [initrd.fileno(), words.fileno()])
        show = FileSink(console, deadline) if console else None
        conversation = Conversation(qemu, sinks[0], sinks[1], show, deadline)
        try:
            status = conversation.run()
        except (GuestTimeout, GuestFailed) as error:
            error.stdout, error.stderr = bytes(captured[0]), bytes(captured[1])
            raise
    seconds = time.monotonic() - begun
    said = conversation.console.text, conversation.errors.text
    return Result(status, bytes(captured[0]), bytes(captured[1]), seconds, *said)


def _sink(file: BinaryIO | None, kept: bytearray, deadline: Deadline) -> Sink:
    return kept.extend if file is None else FileSink(file, deadline)


def _arguments(built: Guest, setup: Setup, qemu: Qemu, initrd: int, words: int) -> list[str]:
    """QEMU's command line. What the user gives stands before the disks, so that these can name a bus it adds."""
    kind = built.machine
    return [
        *common_arguments(setup.memory, setup.smp, setup.accel),
        *kind.arguments,
        *kind.channel(qemu.frames_end.fileno(), qemu.console_end.fileno()),
        *("-kernel", str(built.image.kernel), "-initrd", f"/proc/self/fd/{initrd}"),
        *("-append", kind.command_line(setup.append)),
        *("-fw_cfg", f"name=opt/hwloop/command,file=/proc/self/fd/{words}"),
        *_devices(kind, setup),
    ]


def _devices(kind: Machine, setup: Setup) -> list[str]:
    """Raises BadOption, MissingFile."""
    return [
        *kind.bus.arguments(setup.mmio_version),
        *setup.qemu,
        *disk.arguments(setup.disks, kind.bus),
        *(kind.share(str(setup.share)) if setup.share else ()),
    ]


def _settings(built: Guest, setup: Setup) -> bytes:
    """What guest/agent.c reads: settings, an empty string, the command."""
    modules = [*built.machine.modules, *(["9pnet_virtio"] if setup.share else [])]
    settings = [f"module={name}" for name in modules]
    settings += [f"share={SHARE}"] if setup.share else []
    # At the image's build the host's ldconfig passes over libraries of another processor.
    settings += ["libraries=index"] if built.machine.arch.machine != platform.machine() else []
    words = [*settings, f"folder={bundle.FOLDER}", "", *setup.command]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _memory_file(data: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("hwloop-command"), "w+b")
    file.write(data)
    file.flush()
    return file
