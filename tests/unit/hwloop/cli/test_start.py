"""What a program that uses hwloop pays before anything happens: modules, since seconds depend on the machine."""

from __future__ import annotations

import subprocess
import sys

SLOW = {
    "rich",
    "click",
    "asyncio",
    "socket",
    "subprocess",
    "ctypes",
    "pyudev",
    "random",
    "statistics",
    "json",
    "inspect",
}


def loaded_by(statement: str) -> set[str]:
    """Modules that a fresh interpreter has after it, and not before; `site` is left out, and what it brings."""
    script = f"import sys; before = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_hwloop_loads_next_to_nothing() -> None:
    loaded = loaded_by("import hwloop")
    assert not loaded & SLOW
    assert len(loaded) < 45, sorted(loaded)


def test_the_help_loads_no_driver_and_nothing_that_draws() -> None:
    loaded = loaded_by(
        "sys.argv = ['hwloop', '--help']\n"
        "from hwloop.cli import main\n"
        "try:\n"
        "    main.entry()\n"
        "except SystemExit as end:\n"
        "    assert not end.code"
    )
    assert not loaded & (SLOW - {"click", "inspect", "socket"}), sorted(loaded)
    assert not {name for name in loaded if name.startswith(("hwloop.device", "hwloop.hal", "hwloop.vm", "cython_ring"))}
    assert len(loaded) < 110, sorted(loaded)
