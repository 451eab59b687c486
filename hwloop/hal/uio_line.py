"""The interrupt of a device on no bus, as uio_pdrv_genirq passes it on (Linux, drivers/uio/uio_pdrv_genirq.c)."""

from __future__ import annotations

import os
from pathlib import Path

from hwloop.errors import SetupError
from hwloop.hal.uio_count import UioCount


class UioLine(UioCount):
    """The line of the UIO device `node`, such as /dev/uio0. Raises SetupError where there is no node, or no line."""

    kind = "mmio"

    def __init__(self, node: Path) -> None:
        try:
            fd = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SetupError.refused(f"cannot open {node}", error) from error
        try:
            super().__init__(fd, str(node))
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)

    def _turn(self, on: bool) -> None:
        """Write 1 or 0, as 32 bits."""
        os.write(self._fd, int(on).to_bytes(4, "little"))
