"""The registers of a `FakeDevice`, called directly: the shortest transport there can be."""

from __future__ import annotations

from hwloop.deadline import RESET_SECONDS, wait_until
from hwloop.errors import ConfigSpaceMissing, ConfigSpaceTooSmall, DeviceLost
from hwloop.spec import DeviceStatus, DeviceType, Feature, InterruptStatus, PhysAddr
from hwloop.transport.base import Transport
from hwloop.transport.fake_device import FakeDevice


class FakeTransport(Transport):
    """Drives a `FakeDevice`."""

    name = "fake"

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self.device = device
        self.closed = False

    def device_type(self) -> DeviceType:
        return self.device.device_type

    def read_device_features(self) -> int:
        return self.device.offered

    def write_driver_features(self, driver_features: int) -> None:
        self.device.write_features(driver_features)

    def max_queue_size(self, queue: int) -> int:
        return self.device.queues[queue].max_size if queue < len(self.device.queues) else 0

    def notify(self, queue: int, data: int | None = None) -> None:
        self.device.notify(queue, data)

    def get_status(self) -> DeviceStatus:
        status = self.device.read_status()
        if status == 0xFF:
            raise DeviceLost("the fake device was unplugged")
        return DeviceStatus(status)

    def set_status(self, status: DeviceStatus) -> None:
        self.device.write_status(int(status))

    def prepare_dma(self) -> None:
        self.device.bus_master = True

    def stop_dma(self) -> None:
        self.device.bus_master = False

    def set_guest_page_size(self, guest_page_size: int) -> None:
        """A modern device has no such register."""

    def requires_legacy_layout(self) -> bool:
        return False

    def queue_set(
        self, queue: int, size: int, descriptors: PhysAddr, driver_area: PhysAddr, device_area: PhysAddr
    ) -> None:
        state = self.device.queues[queue]
        state.size, state.desc, state.driver, state.device = size, descriptors, driver_area, device_area
        state.vector = self.queue_vectors.get(queue)
        self.device.enable(queue)

    def queue_unset(self, queue: int) -> None:
        """Resets the queue where RING_RESET was negotiated; otherwise only a device reset stops it."""
        if not self.negotiated & Feature.RING_RESET:
            return
        self.device.reset_queue(queue)
        wait_until(
            lambda: not self.device.queue_is_stopping(queue), f"queue {queue} to finish its reset", RESET_SECONDS
        )

    def queue_used(self, queue: int) -> bool:
        return self.device.queues[queue].enabled

    def ack_interrupt(self) -> InterruptStatus:
        """Reading acknowledges, as on PCI."""
        causes = self.device.interrupt_status
        self.device.acknowledge(causes)
        return causes

    def takes_vector(self, queue: int | None, vector: int) -> bool:
        return self.device.takes_vector(vector)

    def set_config_vector(self) -> None:
        self.device.config_vector = self.config_vector

    def read_config_generation(self) -> int:
        return self.device.read_generation()

    def read_config_space(self, offset: int, width: int) -> int:
        self._check_config(offset, width)
        return self.device.read_config(offset, width)

    def write_config_space(self, offset: int, width: int, value: int) -> None:
        self._check_config(offset, width)
        self.device.write_config(offset, width, value)

    def close(self) -> None:
        self.closed = True

    def _check_config(self, offset: int, width: int) -> None:
        if not self.device.config:
            raise ConfigSpaceMissing("the device has no configuration space of its own")
        if offset + width > len(self.device.config):
            raise ConfigSpaceTooSmall(f"{width} bytes at {offset:#x} are behind the end of the configuration space")
