"""The way into VFIO through a container and a group, with an IOMMU or without one."""

from __future__ import annotations

import errno
import os

from hwloop.errors import AlreadyUsed, SetupError
from hwloop.hal import vfio_ioctl as vfio
from hwloop.hal.vfio_function import open_node


def open_container(dev: str) -> int:
    """A container of VFIO, without groups yet. Raises SetupError."""
    container = open_node(f"{dev}/vfio/vfio", missing="modprobe vfio-pci")
    try:
        if vfio.api_version(container) != vfio.API_VERSION:
            raise SetupError(f"this kernel's VFIO is not version {vfio.API_VERSION}")
    except BaseException:
        os.close(container)
        raise
    return container


def open_group(path: str, name: str) -> int:
    """The descriptor of a group, which one process has at a time. Raises SetupError, AlreadyUsed."""
    try:
        return open_node(
            path, missing="bind the device to vfio-pci first; a kernel without groups of VFIO needs hal=iommufd"
        )
    except SetupError as error:
        if error.errno != errno.EBUSY:
            raise
        raise AlreadyUsed(f"{name} is in use by another process", remedy=f"find it with: fuser -v {path}") from error


def open_device(group_fd: int, address: str) -> int:
    """The descriptor of a device in a group that has a container. Raises SetupError."""
    try:
        return vfio.device_fd(group_fd, address)
    except OSError as error:
        remedy = f"bind it first: hwloop bind {address} --driver vfio-pci"
        raise SetupError.refused(f"VFIO does not give out {address}", error, remedy=remedy) from error
