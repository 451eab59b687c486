"""`hwloop doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hwloop.cli.common import json_option, print_json

if TYPE_CHECKING:
    from hwloop.doctor import Finding


@click.command("doctor")
@click.argument("target", required=False)
@click.option("--look-only", is_flag=True, help="Do not take the device to try it.")
@json_option
def command(target: str | None, look_only: bool, as_json: bool) -> None:
    """Say what is wrong with a device, how sure that is, and the command that mends it.

    Without TARGET: the machine, and every virtio device of it from outside. A target that nothing speaks against is
    taken for a moment, one sector is read, and it is given back; a disk in use is not touched.

    Exit status: 0 when nothing is wrong (hints do not count), else that of the first problem, as other commands have
    it: 3 in use, 4 the device, 5 gone or stuck, 6 the machine.
    """
    from hwloop.doctor.session import diagnose, worst

    reports = diagnose(target, touch=not look_only)
    status = worst(reports)
    if as_json:
        print_json({
            "healthy": status == 0,
            "subjects": [
                {"name": name, "findings": [finding.as_json() for finding in findings]} for name, findings in reports
            ],
        })  # fmt: skip
    else:
        _print(reports)
    sys.stdout.flush()
    click.get_current_context().exit(status)


def _print(reports: list[tuple[str, list[Finding]]]) -> None:
    for name, findings in reports:
        if not findings:
            click.echo(f"{name}: nothing is wrong")
        for finding in findings:
            click.echo(f"{name}: {finding.severity}: {finding.saw}")
            click.echo(f"    {finding.sure}: {finding.means}")
            click.echo(f"    mend it: {finding.remedy}")
