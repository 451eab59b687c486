"""The test VM: a guest of Debian's kernel and Python, built once and kept, that runs one command with this checkout.

`run` starts QEMU, gives back the command's output and exit status, and leaves nothing behind. `hwloop vm run` is the
same for the shell. The guest is emulated (TCG) unless a trial start shows that KVM works, and needs no root.
"""

from hwloop.vm.boot import Result, run
from hwloop.vm.bundle import Guest, build
from hwloop.vm.disk import Disk
from hwloop.vm.errors import BadOption, BuildFailed, GuestFailed, GuestTimeout, MissingFile, MissingTool

__all__ = [
    "BadOption",
    "BuildFailed",
    "Disk",
    "Guest",
    "GuestFailed",
    "GuestTimeout",
    "MissingFile",
    "MissingTool",
    "Result",
    "build",
    "run",
]
