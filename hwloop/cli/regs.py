"""`hwloop regs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hwloop.cli.common import json_option, open_any, print_json, target_argument
from hwloop.cli.table import print_table
from hwloop.spec import DeviceStatus, DeviceType, InterruptStatus, feature_names

if TYPE_CHECKING:
    from hwloop.transport.base import Transport
    from hwloop.transport.register_value import RegisterValue

_HEADERS = ("OF", "REGISTER", "AT", "VALUE", "MEANING")
_NO_VECTOR = 0xFFFF


@click.command("regs")
@target_argument
@click.option("--live", is_flag=True, help="Initialise the device first, and show it at work: features, queues.")
@json_option
def command(target: str, live: bool, as_json: bool) -> None:
    """Show the registers of a device by name, with what is in them.

    The device is taken for a moment and looked at; with --live it is initialised too. What is lost by reading, such as
    the interrupt status, is not read; registers that can only be written are in the JSON alone. A disk that is in use
    is refused.
    """
    from hwloop import session

    if live:
        with open_any(target) as device:
            _show(target, device.transport, True, as_json)
    else:
        with session.find(target).open_transport() as opened:
            _show(target, opened.transport, False, as_json)


def _show(target: str, transport: Transport, live: bool, as_json: bool) -> None:
    from hwloop.transport.register_value import WRITE_ONLY

    values, kind = list(transport.read_registers()), transport.device_type()
    if as_json:
        print_json(
            {
                "target": target, "transport": transport.name, "type": kind.label, "live": live,
                "registers": [_as_json(value, kind) for value in values],
            }
        )  # fmt: skip
        return
    print_table(_HEADERS, [_row(value, kind) for value in values if value.why_not != WRITE_ONLY])


def _as_json(value: RegisterValue, kind: DeviceType) -> dict[str, Any]:
    return {
        "group": value.group,
        "name": value.name,
        "offset": value.offset,
        "width": value.width,
        "value": value.value,
        "meaning": meaning(value, kind) or None,
    }


def _row(value: RegisterValue, kind: DeviceType) -> tuple[str, ...]:
    shown = "-" if value.value is None else f"{value.value:#0{2 + 2 * value.width}x}"
    where = "-" if value.offset is None else f"{value.offset:#04x}"
    return value.group, value.name, where, shown, meaning(value, kind)


def meaning(value: RegisterValue, kind: DeviceType) -> str:
    """What a value stands for, where it is more than a number."""
    number = value.value
    if number is None:
        return value.why_not
    name = value.name.split("[")[0]
    if name == "interrupt_status":
        return str(InterruptStatus(number)) if number else "nothing is pending"
    if "status" in name:
        return str(DeviceStatus(number)) if number else "reset"
    if "feature" in name:
        shift = 32 if value.name.endswith("[1]") else 0
        return " ".join(_short(feature) for feature in feature_names(number << shift, kind)) or "none"
    if "vector" in name:
        return "no vector" if number == _NO_VECTOR else f"MSI-X vector {number}"
    if name == "magic_value":
        return repr(number.to_bytes(4, "little").decode("latin-1"))
    return str(number) if number > 9 and value.width <= 2 else ""


def _short(feature: str) -> str:
    """`VIRTIO_BLK_F_FLUSH` is `FLUSH`: the type is known."""
    return feature.rpartition("_F_")[2] if "_F_" in feature else feature
