"""`hwloop features`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from hwloop.cli.common import TARGET, json_option, print_json
from hwloop.cli.table import print_table
from hwloop.errors import InvalidParam, RefusedError
from hwloop.spec import DeviceType, bit_numbers, feature_name

_LABELS = sorted(kind.label for kind in DeviceType)
_HEADERS = ("BIT", "FEATURE", "MEANING")


@dataclass(frozen=True)
class _Offer:
    """What somebody offers: `name` as the user wrote it; the type is None for a bare number without --type."""

    name: str
    bits: int
    kind: DeviceType | None


@click.command("features")
@click.argument("what", metavar="TARGET|NUMBER", type=TARGET)
@click.argument("other", metavar="[TARGET|NUMBER]", type=TARGET, required=False)
@click.option(
    "--type", "label", type=click.Choice(_LABELS), metavar="TYPE", default="block", show_default=True,
    help="The type of device that a number is of: block, network, console, ...",
)  # fmt: skip
@json_option
def command(what: str, other: str | None, label: str, as_json: bool) -> int:
    """Explain feature bits: of a device, or of a number such as 0x10330007e54. With two of them, show how they differ.

    Exit status 1 when the two differ.
    """
    kind = next(kind for kind in DeviceType if kind.label == label)
    first = _offer(what, kind)
    if other is None:
        _show(first, as_json)
        return 0
    second = _offer(other, kind)
    _show_difference(first, second, as_json)
    return 0 if first.bits == second.bits else 1


def _offer(word: str, kind: DeviceType) -> _Offer:
    if word[:1].isdecimal() and ":" not in word:
        try:
            bits = int(word, 0)
        except ValueError:
            raise InvalidParam(f"{word!r} is not a number", remedy="write it as 0x10330007e54") from None
        return _Offer(word, bits, kind)
    from hwloop.describe import describe

    description = describe(word)
    if description.registers is None:
        raise RefusedError(f"the features of {word} were not read: {description.why_not}")
    return _Offer(word, description.registers.features, description.type)


def _entry(bit: int, kind: DeviceType | None) -> dict[str, Any]:
    from hwloop.feature_text import meaning_of

    return {"bit": bit, "name": feature_name(bit, kind), "meaning": meaning_of(bit, kind) or None}


def _show(offer: _Offer, as_json: bool) -> None:
    entries = [_entry(bit, offer.kind) for bit in bit_numbers(offer.bits)]
    if as_json:
        print_json(
            {
                "target": offer.name, "type": offer.kind.label if offer.kind else None, "features": f"{offer.bits:#x}",
                "bits": entries,
            }
        )  # fmt: skip
    elif entries:
        print_table(_HEADERS, [(str(entry["bit"]), entry["name"], entry["meaning"] or "") for entry in entries])
    else:
        click.echo(f"{offer.name} has no features")


def _show_difference(first: _Offer, second: _Offer, as_json: bool) -> None:
    only_first, only_second = first.bits & ~second.bits, second.bits & ~first.bits
    if as_json:
        print_json(
            {
                "first": first.name, "second": second.name, "equal": first.bits == second.bits,
                "only_first": [_entry(bit, first.kind) for bit in bit_numbers(only_first)],
                "only_second": [_entry(bit, second.kind) for bit in bit_numbers(only_second)],
                "both": [_entry(bit, first.kind) for bit in bit_numbers(first.bits & second.bits)],
            }
        )  # fmt: skip
        return
    if first.bits == second.bits:
        click.echo(f"{first.name} and {second.name} have the same {first.bits.bit_count()} features")
        return
    for offer, bits in ((first, only_first), (second, only_second)):
        click.echo(f"only {offer.name}:")
        for entry in (_entry(bit, offer.kind) for bit in bit_numbers(bits)):
            click.echo(f"  {entry['bit']:2}  {entry['name']}{': ' + entry['meaning'] if entry['meaning'] else ''}")
        if not bits:
            click.echo("  nothing")
    click.echo(f"both: {(first.bits & second.bits).bit_count()} features")
