"""`make demo`: the main job, shown in a guest and confirmed on the host."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from hwloop import vm
from hwloop.vm.cache import cache_dir

IMAGE_BYTES = 64 << 20
OFFSET = 1 << 20
PATTERN = b"driven from user space by hwloop"

# Each line is printed before it runs, as a shell would show it.
_SCRIPT = f"""
set -e
say() {{ printf '\\n# %s\\n' "$*"; "$@"; }}
say hwloop list
say hwloop info 0000:00:05.0
printf '\\n# printf "{PATTERN.decode()}" | hwloop write 0000:00:05.0 1M\\n'
printf '{PATTERN.decode()}' | hwloop write 0000:00:05.0 1M 2>&1
say hwloop read 0000:00:05.0 1M 32 --hexdump
say hwloop flush vda
say hwloop id vda
say hwloop list
"""


def main() -> int:
    """Returns the exit status: 0 when the host found in the image what the guest wrote."""
    with tempfile.TemporaryDirectory(prefix="hwloop-demo-") as folder:
        image = Path(folder) / "disk.img"
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        _say(f"building the guest's image (the first time takes a few minutes), cached in {cache_dir()}")
        vm.build(progress=_say)
        _say("booting a guest with one virtio-blk disk, and driving it there:")
        began = time.monotonic()
        command = ["sh", "-c", _SCRIPT]
        result = vm.run(command, disks=[f"{image},serial=DEMO0"], stdout=sys.stdout.buffer, stderr=sys.stderr.buffer)
        if result.returncode:
            return result.returncode
        return _confirm(image, time.monotonic() - began)


def _confirm(image: Path, seconds: float) -> int:
    with open(image, "rb") as file:
        file.seek(OFFSET)
        found = file.read(len(PATTERN))
    if found != PATTERN:
        _say(f"the image has {found!r} at 1 MiB and not {PATTERN!r}: the demo failed")
        return 1
    _say(f"on the host, the image has {found.decode()!r} at 1 MiB: confirmed ({seconds:.0f} s in the guest)")
    return 0


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
