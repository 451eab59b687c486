"""What a device was before we took it: written and synced before anything is changed, so that it can be put back.

One JSON file a device in /run/hwloop. It outlives any death of the process; `hwloop restore` replays it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from hwloop.errors import SetupError
from hwloop.lock import RUN_DIR, file_name, make_run_dir

SCHEMA = 1
BUSES = ("pci", "platform")


@dataclass(frozen=True)
class Entry:
    """The state to go back to: `driver` (None: none) and `override` (None: none). `lasting` marks a change that the
    user asked for with `hwloop bind`: only `hwloop restore` undoes it. `bus` is `pci` or `platform`."""

    address: str
    driver: str | None
    override: str | None
    lasting: bool = False
    pid: int = 0
    bus: str = "pci"


class Journal:
    """The entries of all devices."""

    def __init__(self, run_dir: Path = RUN_DIR) -> None:
        self._dir = run_dir

    def write(self, entry: Entry) -> None:
        """Returns when the entry would survive a crash. Raises SetupError."""
        path = self._path(entry.address)
        make_run_dir(self._dir)
        temporary = path.with_suffix(".new")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump({"schema": SCHEMA, **asdict(entry)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise SetupError.refused(f"cannot write {path}", error) from error

    def read(self, address: str) -> Entry | None:
        """The entry of a device, or None. Raises SetupError for a file that cannot be understood."""
        path = self._path(address)
        try:
            return _parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SetupError(
                f"cannot read {path}: {error}", remedy=f"remove it, then: hwloop restore {address}"
            ) from error

    def addresses(self) -> list[str]:
        """Every device that has an entry."""
        return sorted(path.name.removesuffix(".json") for path in self._dir.glob("*.json"))

    def remove(self, address: str) -> None:
        """Idempotent."""
        self._path(address).unlink(missing_ok=True)

    def _path(self, address: str) -> Path:
        return self._dir / f"{file_name(address)}.json"


def _parse(text: str) -> Entry:
    """Raises ValueError, KeyError or TypeError for what `Journal.write` did not write."""
    data = json.loads(text)
    if data["schema"] != SCHEMA:
        raise ValueError(f"its schema is {data['schema']!r}, not {SCHEMA}")
    # Older versions knew no other bus, and did not write it down.
    bus = data.get("bus", "pci")
    if bus not in BUSES:
        raise ValueError(f"its bus is {bus!r}")
    entry = Entry(data["address"], data["driver"], data["override"], data["lasting"], data["pid"], bus)
    for name in (entry.driver, entry.override):
        if not isinstance(name, str | None):
            raise TypeError(f"{name!r} names no driver")
    return entry
