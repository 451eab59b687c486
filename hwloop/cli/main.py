"""The command `hwloop`: finds the command to run, and turns every error into a sentence and an exit status."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from hwloop.errors import exit_code_of
from hwloop.signals import Interrupted, unwind_on_signals

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Name -> (module, attribute, one line for the help). The line stands here so that --help imports no command.
COMMANDS = {
    "list": ("hwloop.cli.list", "command", "Show the virtio devices of this machine."),
    "info": ("hwloop.cli.info", "command", "Show one device: capabilities, features, queues, configuration."),
    "features": ("hwloop.cli.features", "command", "Explain feature bits of a device or a number; compare two."),
    "caps": ("hwloop.cli.caps", "command", "Show the PCI capabilities of a device."),
    "regs": ("hwloop.cli.regs", "command", "Show the registers of a device by name."),
    "queues": ("hwloop.cli.queues", "command", "Show the rings of a device, both sides, explained."),
    "doctor": ("hwloop.cli.doctor", "command", "Say what is wrong with a device, and the command that mends it."),
    "read": ("hwloop.cli.read", "command", "Read bytes from a disk."),
    "write": ("hwloop.cli.write", "command", "Write bytes to a disk."),
    "copy": ("hwloop.cli.copy", "command", "Copy a disk, a file or a pipe to another one."),
    "compare": ("hwloop.cli.compare", "command", "Compare two disks, files or pipes."),
    "verify": ("hwloop.cli.verify", "command", "Check that a disk holds a pattern, or write it."),
    "exec": ("hwloop.cli.exec", "command", "Run commands of qemu-io's language on a disk."),
    "flush": ("hwloop.cli.flush", "command", "Make everything written to a disk durable."),
    "zero": ("hwloop.cli.erase", "zero", "Make a range of a disk zeros."),
    "discard": ("hwloop.cli.erase", "discard", "Give up a range of a disk."),
    "secure-erase": ("hwloop.cli.erase", "secure_erase", "Erase a range of a disk for ever."),
    "id": ("hwloop.cli.id", "command", "Print the serial of a disk."),
    "cache": ("hwloop.cli.cache", "command", "Show or switch the write cache of a disk."),
    "lifetime": ("hwloop.cli.lifetime", "command", "Show how worn a disk is."),
    "zones": ("hwloop.cli.zones", "command", "Show the zones of a zoned disk; open, finish, reset one."),
    "bench": ("hwloop.cli.bench", "command", "Measure a disk: IOPS, latencies, costs a request."),
    "serve": ("hwloop.cli.serve", "group", "Serve a disk to other programs, over NBD."),
    "trace": ("hwloop.cli.trace", "group", "Show a trace, or export it for Perfetto."),
    "rng": ("hwloop.cli.rng", "command", "Read random bytes from an entropy device."),
    "console": ("hwloop.cli.console", "command", "Talk to a console device."),
    "bind": ("hwloop.cli.bind", "bind", "Bind a device to a kernel driver, and leave it so."),
    "unbind": ("hwloop.cli.bind", "unbind", "Take a device from its kernel driver, and leave it so."),
    "restore": ("hwloop.cli.bind", "restore", "Give devices back to the driver they had."),
    "testdev": (
        "hwloop.cli.testdev",
        "command",
        "Serve a test disk: zoned, erasable, worn, or faulty.",
    ),
    "vm": ("hwloop.cli.vm", "group", "Build and run the test VM."),
    "completion": ("hwloop.cli.completion", "command", "Print completion for bash, zsh or fish."),
    "man": ("hwloop.cli.man", "command", "Print or write the manual pages."),
    "schema": ("hwloop.cli.schema", "command", "Print the JSON Schema of what --json prints."),
}

# A section of the help begins with each of these.
_SECTIONS = {
    "list": "Look",
    "read": "Read and write disks",
    "flush": "Flush and erase disks",
    "id": "Ask disks",
    "bench": "Measure and serve",
    "rng": "Other devices",
    "bind": "Drivers of the kernel",
    "testdev": "Test devices and machines",
    "completion": "About hwloop",
}


OPENING_NOTHING = frozenset({
    "list", "bind", "unbind", "restore", "testdev", "trace", "vm", "completion", "man", "schema"
})  # fmt: skip
"""The commands that open no device, and so have nothing to trace."""


def _traced(command: click.Command) -> click.Command:
    """The command with the option --trace, whatever else it takes; of a group, each of its commands too."""
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _traced(inner)
    if not any(parameter.name == "trace_file" for parameter in command.params):
        command.params.append(
            click.Option(
                ["--trace", "trace_file"],
                metavar="FILE",
                expose_value=False,
                callback=_start_tracing,
                help="Write what passes between driver and device to FILE; see: hwloop trace --help.",
            )
        )
    return command


def _start_tracing(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    """From now on to the end of the command, each device that is opened is traced."""
    if path is None or ctx.resilient_parsing:
        return
    from hwloop import session
    from hwloop.filter.trace import TraceMaker

    maker = TraceMaker(path)
    session.EVERY_DEVICE.append(maker)
    ctx.call_on_close(lambda: session.EVERY_DEVICE.remove(maker))


class LazyGroup(click.Group):
    """A group that imports a command when it is run, and not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command if cmd_name in OPENING_NOTHING else _traced(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS)
            meant = f" Did you mean {' or '.join(close)}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{meant}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # click would turn it into exit status 1, which other errors have too.
            raise Interrupted(signal.SIGPIPE) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [
            CompletionItem(name, help=line) for name, (_, _, line) in COMMANDS.items() if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: list[tuple[str, list[tuple[str, str]]]] = []
        for name, (_, _, line) in COMMANDS.items():
            if name in _SECTIONS or not sections:
                sections.append((_SECTIONS.get(name, "Commands"), []))
            sections[-1][1].append((name, line))
        width = max(map(len, COMMANDS))
        for title, rows in sections:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, line in rows])


_EPILOG = """\b
TARGET names a device, with options behind a question mark:
  0000:00:05.0, vda   a PCI function; ?hal=vfio|uio|iommufd|vfio-noiommu, ?mode=modern|legacy, ?wait=poll|irq|adaptive
  mmio:0xADDRESS      registers in memory, through /dev/mem; ?unbind=on
  qemu:DISK.img       QEMU's own virtio-blk, with no guest and no root; ?machine=q35|microvm|virt
  qtest:SOCKET        a QEMU that you started with a qtest server
  vhost-user:SOCKET   a device that is a process, such as qemu-storage-daemon's
  vhost-vdpa:NODE     a vDPA device behind /dev/vhost-vdpa-N
  fake:16M            a disk in this process; ?io-error=1 and every other way of misbehaving
  replay:FILE         a device that ?filter=record:FILE has recorded
  svirtb:DISK.img     a "Simple VirtIO Block" device; ?trapped=on

\b
Each takes ?filter=NAME,...: trace:FILE, record:FILE, delay:5ms, fault:gone-after=3.

\b
Exit status: 0 ok, 1 not equal, 2 wrong arguments, 3 refused because a device is in use, 4 the
device reported an error, 5 the device is gone or timed out, 6 the machine lacks something,
130/143 interrupted.
"""


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"hwloop {version('hwloop')}")
        except PackageNotFoundError:
            click.echo("hwloop (from a checkout)")
        ctx.exit()


@click.group(
    cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
def main() -> None:
    """Drive virtio devices from user space, with no kernel driver in between.

    A device is taken from the kernel for the length of a command, and given back at its end.
    """


def entry(arguments: list[str] | None = None) -> None:
    """The console script. Ends the process with the exit status."""
    from udev import helper

    unwind_on_signals()
    helper.start_by_fork()
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit status; errors are printed to standard error."""
    if "_HWLOOP_COMPLETE" in os.environ:
        return _complete(os.environ["_HWLOOP_COMPLETE"])
    try:
        result = main.main(args=arguments, prog_name="hwloop", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        return _stop_writing(Interrupted(signal.SIGPIPE))
    except Interrupted as ending:
        if ending.signum == signal.SIGTERM and (lost := _removal()) is not None:
            _report(lost)
            return exit_code_of(lost)
        return _stop_writing(ending) if ending.signum == signal.SIGPIPE else _interrupted(ending)
    except (KeyboardInterrupt, click.Abort) as ending:
        return _interrupted(Interrupted(signal.SIGINT), ending)
    except OSError as error:
        _report(error)
        return exit_code_of(error)


def _removal() -> OSError | None:
    """Why a device was given back in the middle of the command, when that has ended it."""
    removal = sys.modules.get("hwloop.removal")
    return removal.lost if removal is not None else None


def _complete(instruction: str) -> int:
    """A shell asks what a word may become: `bash_complete`, or `bash_source`."""
    from click.shell_completion import shell_complete

    from hwloop.cli.completion import SHELLS, VARIABLE, completer

    shell, _, what = instruction.partition("_")
    if shell != "bash" or what != "complete":
        return shell_complete(main, {}, "hwloop", VARIABLE, instruction) if shell in SHELLS else 2
    click.echo(completer(shell, main).complete())
    return 0


def _interrupted(ending: Interrupted, cause: BaseException | None = None) -> int:
    _say(str(ending))
    _print_notes(cause or ending)
    return ending.exit_code


def _stop_writing(ending: Interrupted) -> int:
    """Whoever read our output has gone. Keep the interpreter from complaining about it at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ending.exit_code


def _report(error: OSError) -> None:
    _say(_sentence(error))
    _print_notes(error)


def _print_notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", []):
        for line in note.splitlines():
            click.echo(f"  {line}", err=True)


def _sentence(error: OSError) -> str:
    """The text without Python's `[Errno 2]`, but with the file that it is about."""
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename is not None else text


def _say(text: str) -> None:
    click.echo(f"hwloop: {text}", err=True)
