"""The svirtb device as a process of its own: `python -m hwloop.device.svirtb_server --fd N --image FILE`.

It answers QEMU's `x-pci-proxy-dev` on the socket that it inherited as descriptor N, and ends when that is closed. What
the driver does wrong, and why the device asked for a reset, are lines on its standard error.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys

from hwloop.device.svirtb_memory import FileBacking, GuestRam
from hwloop.device.svirtb_model import SimpleVirtIoBlockDev
from hwloop.device.svirtb_protocol import Interpretation
from hwloop.errors import HwloopError
from hwloop.qtest.proxy import ProxyServer, Ram
from hwloop.spec import SECTOR_SIZE
from mmio import Region

VENDOR_ID, DEVICE_ID = 0x1AF4, 0xCAFE
"""What the PCI function says that it is; nobody else has this number."""

BAR_BYTES = 0x1_0000
"""The largest BAR that can start at 0xcafe0000."""


class SvirtbFunction:
    """The model behind BAR 0 of a PCI function."""

    vendor_id, device_id, bar_size = VENDOR_ID, DEVICE_ID, BAR_BYTES

    def __init__(self, model: SimpleVirtIoBlockDev, memory: GuestRam) -> None:
        self._model = model
        self._memory = memory

    @property
    def registers(self) -> Region:
        return self._model.registers

    def memory_changed(self, ram: list[Ram]) -> None:
        self._memory.blocks = ram

    def reset(self) -> None:
        self._model.reset()


def serve(sock: socket.socket, image: str, interpretation: Interpretation) -> list[str]:
    """Be the device until QEMU closes the link; returns what was wrong with the driver or the device, a line each.

    Raises SetupError, RefusedError or InvalidParam for the image, ProxyError.
    """
    memory = GuestRam()
    model = SimpleVirtIoBlockDev(FileBacking(image), memory, interpretation=interpretation, strict=False)
    with model, ProxyServer(sock, SvirtbFunction(model, memory)) as server:
        model.start()
        server.run()
    return model.errors


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hwloop.device.svirtb_server", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket")
    parser.add_argument("--image", required=True, help="the disk image")
    parser.add_argument("--sector-size", type=int, default=SECTOR_SIZE, help="bytes")
    options = parser.parse_args(arguments)
    # Ctrl-C is for whoever started us; the end of the link is our end, after the request that is being served.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sock = socket.socket(fileno=options.fd)
        lines = serve(sock, options.image, Interpretation(sector_size=options.sector_size))
    except HwloopError as error:
        print(f"svirtb: {error}", file=sys.stderr)
        return error.exit_code
    for line in lines:
        print(f"svirtb: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
