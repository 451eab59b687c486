"""`hwloop list` and `hwloop info` say what lspci says, wherever the disk sits."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from tests.guest.machine import hwloop

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def lspci(*arguments: str) -> str:
    return subprocess.run(["lspci", "-D", *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def virtio_addresses() -> list[str]:
    return [line.split()[0] for line in lspci("-n", "-d", "1af4:").splitlines()]


def listed() -> list[dict[str, Any]]:
    content = json.loads(hwloop("list", "--json").stdout)
    assert content["schema"] == 1
    devices: list[dict[str, Any]] = content["devices"]
    return devices


def described(address: str) -> dict[str, Any]:
    result = hwloop("info", address, "--json")
    assert result.returncode == 0, result.stderr
    content: dict[str, Any] = json.loads(result.stdout)
    assert content["schema"] == 1
    return content


def regions(text: str) -> dict[int, tuple[str, int, int]]:
    """Index -> (kind, address, size)."""
    pattern = r"Region (\d): (Memory|I/O ports) at ([0-9a-f]+).*\[size=(\d+)([KMG]?)\]"
    return {
        int(index): ("memory" if kind == "Memory" else "io", int(address, 16), int(size) * _UNITS[unit])
        for index, kind, address, size, unit in re.findall(pattern, text)
    }


def virtio_structures(text: str) -> list[tuple[str, int, int, int]]:
    """(structure, BAR, offset, length) of each capability that lspci decodes."""
    pattern = r"VirtIO: (\w+)\s+BAR=(\d+) offset=([0-9a-f]+) size=([0-9a-f]+)"
    return [(name, int(bar), int(offset, 16), int(size, 16)) for name, bar, offset, size in re.findall(pattern, text)]


def test_the_same_functions_are_listed() -> None:
    assert [device["address"] for device in listed()] == virtio_addresses()
    assert len(listed()) == 4


def test_other_devices_are_there_and_not_listed() -> None:
    everything = lspci("-n")
    assert "8086:100e" in everything, "the e1000 is there"
    assert all(device["vendor_id"] == "1af4" for device in listed())


@pytest.mark.parametrize("position", range(4))
def test_ids_driver_and_group_agree(position: int) -> None:
    device = listed()[position]
    text = lspci("-vv", "-nn", "-s", device["address"])
    assert f"[{device['vendor_id']}:{device['device_id']}]" in text.splitlines()[0]
    assert re.search(r"Kernel driver in use: (\S+)", text)[1] == device["driver"]  # type: ignore[index]
    group = re.search(r"IOMMU group: (\d+)", text)
    assert (int(group[1]) if group else None) == device["iommu_group"]
    assert device["type"] == "block"


@pytest.mark.parametrize("position", range(4))
def test_bars_agree(position: int) -> None:
    address = virtio_addresses()[position]
    ours = {bar["index"]: (bar["kind"], bar["address"], bar["size"]) for bar in described(address)["bars"]}
    assert ours == regions(lspci("-vv", "-s", address))


@pytest.mark.parametrize("position", range(4))
def test_capabilities_agree(position: int) -> None:
    address = virtio_addresses()[position]
    text, content = lspci("-vv", "-s", address), described(address)
    offsets = [int(offset, 16) for offset in re.findall(r"Capabilities: \[([0-9a-f]+)[ \]]", text)]
    ours = [entry["offset"] for entry in content["capabilities"] + content["extended_capabilities"]]
    assert ours == offsets
    vectors = re.search(r"MSI-X: Enable[+-] Count=(\d+)", text)
    assert content["msix_vectors"] == int(vectors[1])  # type: ignore[index]
    names = {"CommonCfg": "COMMON_CFG", "Notify": "NOTIFY_CFG", "ISR": "ISR_CFG", "DeviceCfg": "DEVICE_CFG"}
    theirs = [(names[name], *place) for name, *place in virtio_structures(text) if name in names]
    virtio = [entry["virtio"] for entry in content["capabilities"] if "virtio" in entry]
    assert sorted(theirs) == sorted(
        (entry["structure"], entry["bar"], entry["offset"], entry["length"])
        for entry in virtio
        if entry["structure"] in names.values()
    )


@pytest.mark.parametrize("position", range(4))
def test_registers_are_read_and_the_disk_works(position: int) -> None:
    address = virtio_addresses()[position]
    content = described(address)
    assert content["registers_read"], content["why_not"]
    assert "VIRTIO_F_VERSION_1" in content["features"]["names"]
    assert "VIRTIO_F_ACCESS_PLATFORM" in content["features"]["names"]
    assert content["config"]["capacity_bytes"] == 16 << 20
    assert content["queues"][0]["max_size"] >= 128
    pattern = address.encode().ljust(512, b".")
    assert hwloop("write", address, "4k", stdin=pattern).returncode == 0
    assert hwloop("read", address, "4k", "512").stdout == pattern
    assert listed()[position]["driver"] == "virtio-pci"
