"""`hwloop bind`, `hwloop unbind`, `hwloop restore`."""

from __future__ import annotations

import click

from hwloop.cli.common import TARGET, json_option, print_json, target_argument


@click.command("bind")
@target_argument
@click.option("--driver", required=True, metavar="NAME", help="The driver, such as vfio-pci.")
@json_option
def bind(target: str, driver: str, as_json: bool) -> None:
    """Bind a device to a kernel driver and leave it so. `hwloop restore` undoes it.

    A disk that is in use is refused.
    """
    _leave(target, driver, as_json)


@click.command("unbind")
@target_argument
@json_option
def unbind(target: str, as_json: bool) -> None:
    """Take a device from its kernel driver and leave it so. `hwloop restore` undoes it.

    A disk that is in use is refused.
    """
    _leave(target, None, as_json)


@click.command("restore")
@click.argument("target", type=TARGET, required=False)
@json_option
def restore(target: str | None, as_json: bool) -> None:
    """Give a device back to the driver it had before hwloop took it; without TARGET, every device that hwloop took.

    Also clears a driver_override that is left over.
    """
    from hwloop import claim, session

    if target is not None:
        place = session.find_in_kernel(target)
        _show({place.address: claim.restore(place.address, bus=place.bus)}, as_json)
        return
    outcomes, failures = list(claim.restore_all()), []
    if not outcomes and not as_json:
        click.echo("There is nothing to restore.", err=True)
    drivers: dict[str, str | None] = {}
    for address, outcome in outcomes:
        if isinstance(outcome, OSError):
            failures.append(outcome)
        else:
            drivers[address] = outcome
    _show(drivers, as_json)
    for failure in failures[1:]:
        click.echo(f"hwloop: {failure.strerror or failure}", err=True)
    if failures:
        raise failures[0]


def _show(drivers: dict[str, str | None], as_json: bool) -> None:
    if as_json:
        print_json({"devices": [{"address": address, "driver": driver} for address, driver in drivers.items()]})
        return
    for address, driver in drivers.items():
        click.echo(f"{address}: {driver or 'no driver'}")


def _leave(target: str, driver: str | None, as_json: bool) -> None:
    from hwloop import claim, session

    place = session.find_in_kernel(target)
    claim.bind_lastingly(place.address, driver, bus=place.bus)
    if as_json:
        _show({place.address: driver}, as_json)
        return
    name = place.address if place.bus == "pci" else place.target
    click.echo(f"{place.address}: {driver or 'no driver'}; put it back with: hwloop restore {name}")
