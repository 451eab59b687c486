"""`python -m tests.fuzz.planted [NAME]`: can the fuzzer find anything? It has to find a check that was taken out.

A copy of `cython_ring` is built without one of its checks, and fuzzed until that shows, for `--seconds` at most. Ends
with status 1 when it does not show; with `nothing` no check is missing, and nothing may show. The build takes a minute
or two.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

PLANTED = {
    "not-outstanding": (
        "ring.pxd",
        "if s.heads[id].count == 0 or s.heads[id].sequence >= s.published:",
        "if s.heads[id].sequence >= s.published and s.published == 0:",
    ),
    "too-long": ("ring.pxd", "if length > s.heads[id].writable:", "if s.size == 0:"),
}
"""The file, the check, and what stands there instead."""
NOTHING = "nothing"
"""The same build with all of its checks, in which nothing is to be found."""

BUILD = """
from Cython.Build import cythonize
from pathlib import Path
from setuptools import Extension, setup
sources = sorted(Path("cython_ring").glob("*.pyx"))
setup(
    packages=[],
    ext_modules=cythonize(
        [Extension(f"cython_ring.{path.stem}", [str(path)], extra_compile_args=["-O0"]) for path in sources],
        language_level=3,
    ),
)
"""


def plant(folder: Path, name: str) -> None:
    """A build in `folder` that lacks the check."""
    ignore = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(ROOT / "cython_ring", folder / "cython_ring", ignore=ignore)
    shutil.copytree(ROOT / "tests" / "fuzz", folder / "tests" / "fuzz", ignore=ignore)
    if name != NOTHING:
        take_out(folder, *PLANTED[name])
    (folder / "setup.py").write_text(BUILD)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--parallel", str(os.cpu_count() or 1)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def take_out(folder: Path, file: str, check: str, instead: str) -> None:
    path = folder / "cython_ring" / file
    text = path.read_text()
    assert text.count(check) == 1, f"{check} is not in {file} any more"
    path.write_text(text.replace(check, instead))


def fuzz(folder: Path, seconds: float, seed: int) -> str:
    """How the input failed that the fuzzer found; "" when it found none. Its corpus is the copy's."""
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(seconds), "--seed", str(seed)]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return "; ".join(done.stderr.strip().splitlines()[-2:]) if done.returncode else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.planted", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("name", nargs="?", choices=[*PLANTED, NOTHING], default=next(iter(PLANTED)))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hwloop-planted-") as folder:
        plant(Path(folder), chosen.name)
        began = time.monotonic()
        said = fuzz(Path(folder), chosen.seconds, chosen.seed)
        took = time.monotonic() - began
    text = f"found after {took:.1f} s: {said[:160]}" if said else f"nothing found in {took:.0f} s"
    if bool(said) == (chosen.name == NOTHING):
        sys.exit(f"{chosen.name}: {text}")
    print(f"{chosen.name}: {text}")


if __name__ == "__main__":
    main()
