"""One type over all transports (seed 001)."""

from __future__ import annotations

from hwloop.transport.filter import TransportFilter


class SomeTransport(TransportFilter):
    """A wrapper around an arbitrary VirtIO transport, for code that wants one type and not an interface."""

    @property
    def kind(self) -> str:
        """Which transport it is: a name of `TRANSPORTS`, such as `pci` or `mmio`."""
        name: str = self.inner.name
        return name
