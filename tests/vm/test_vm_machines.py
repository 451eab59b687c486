"""The machines without PCI disks, from the host: what goes in and what comes out. A boot each, and one panic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwloop import vm
from tests.vm.guest import MIB, image

EVERY_BYTE = bytes(range(256)) * 400

# Run in the guest with Python: writes what is expected, and notes what it sees.
IN_THE_GUEST = """
import importlib, json, os, platform, sys
from pathlib import Path

every = bytes(range(256)) * 400
sys.stdout.buffer.write(every)
sys.stdout.flush()
sys.stderr.buffer.write(every[::-1])
sys.stderr.flush()
names = [f"{path.parent.name}.{path.name.partition('.')[0]}" for path in Path().glob("*/*.so")]
blocks = {path.name: path.resolve().parts for path in Path("/sys/block").iterdir()}
memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
seen = {
    "processor": platform.machine(),
    "arguments": sys.argv[1:],
    "extensions": len([importlib.import_module(name) for name in names]),
    "blocks": {name: parts[parts.index("platform") + 1] for name, parts in blocks.items()},
    "serial": Path("/sys/block/vda/serial").read_text(),
    "pages": int(memory["HugePages_Total"]),
    "word": "my.word=1" in Path("/proc/cmdline").read_text(),
}
with open("/dev/vda", "r+b") as disk:
    disk.seek(4096)
    disk.write(b"written in the guest")
    disk.flush()
    os.fsync(disk.fileno())
Path("/share/from-guest").write_text(json.dumps(seen))
sys.exit(42)
"""


@pytest.mark.parametrize(
    ("machine", "processor", "nodes"),
    [
        ("microvm", "x86_64", {"vda": "LNRO0005:00", "vdb": "LNRO0005:01"}),
        ("virt", "aarch64", {"vda": "a000000.virtio_mmio", "vdb": "a000200.virtio_mmio"}),
    ],
)
def test_a_machine_of_virtio_mmio_runs_a_command_as_the_usual_one_does(
    machine: str, processor: str, nodes: dict[str, str], tmp_path: Path
) -> None:
    disk, other = image(tmp_path, "a.img", MIB), image(tmp_path, "b.img", MIB)
    share = tmp_path / "share"
    share.mkdir()
    result = vm.run(
        ["python3", "-c", IN_THE_GUEST, "two words", ""],
        machine=machine,
        mmio_version=1,
        disks=[f"{disk},serial=FIRST", f"{other},read-only"],
        share=share,
        append="my.word=1",
        timeout=300,
    )
    assert result.returncode == 42, result.stderr[-3000:].decode(errors="replace")
    assert (result.stdout, result.stderr) == (EVERY_BYTE, EVERY_BYTE[::-1])
    seen = json.loads((share / "from-guest").read_text())
    assert seen.pop("extensions") == len(list(Path(__file__).parents[2].glob("*/*.pyx")))
    assert seen == {
        "processor": processor,
        "arguments": ["two words", ""],
        "blocks": nodes,
        "serial": "FIRST",
        "pages": 16,
        "word": True,
    }
    assert disk.read_bytes()[4096:4116] == b"written in the guest"


def test_a_panic_on_arm_is_an_error_with_the_kernels_words() -> None:
    with pytest.raises(vm.GuestFailed, match="sysrq triggered crash"):
        vm.run(["sh", "-c", "echo c > /proc/sysrq-trigger"], machine="virt", timeout=300)
