"""`hwloop bind`, `hwloop unbind`, `hwloop restore`."""

from __future__ import annotations

import click

from hwloop.cli.common import target_argument


@click.command("bind")
@target_argument
@click.option("--driver", required=True, metavar="NAME", help="The driver, such as vfio-pci.")
def bind(target: str, driver: str) -> None:
    """Bind a device to a kernel driver and leave it so. `hwloop restore` undoes it.

    A disk that is in use is refused.
    """
    _leave(target, driver)


@click.command("unbind")
@target_argument
def unbind(target: str) -> None:
    """Take a device from its kernel driver and leave it so. `hwloop restore` undoes it.

    A disk that is in use is refused.
    """
    _leave(target, None)


@click.command("restore")
@click.argument("target", required=False)
def restore(target: str | None) -> None:
    """Give a device back to the driver it had before hwloop took it; without TARGET, every device that hwloop took.

    Also clears a driver_override that is left over.
    """
    from hwloop import claim, session

    if target is not None:
        place = session.find_in_kernel(target)
        click.echo(f"{place.address}: {claim.restore(place.address, bus=place.bus) or 'no driver'}")
        return
    outcomes, failures = list(claim.restore_all()), []
    if not outcomes:
        click.echo("There is nothing to restore.", err=True)
    for address, outcome in outcomes:
        if isinstance(outcome, OSError):
            failures.append(outcome)
        else:
            click.echo(f"{address}: {outcome or 'no driver'}")
    for failure in failures[1:]:
        click.echo(f"hwloop: {failure.strerror or failure}", err=True)
    if failures:
        raise failures[0]


def _leave(target: str, driver: str | None) -> None:
    from hwloop import claim, session

    place = session.find_in_kernel(target)
    claim.bind_lastingly(place.address, driver, bus=place.bus)
    name = place.address if place.bus == "pci" else place.target
    click.echo(f"{place.address}: {driver or 'no driver'}; put it back with: hwloop restore {name}")
