"""`hwloop schema`."""

from __future__ import annotations

import json

import click


@click.command("schema")
@click.argument("name", metavar="[NAME]", required=False)
def command(name: str | None) -> None:
    """Print the JSON Schema of what a command prints with --json; without NAME, the names that there are.

    Output may gain keys; a key that is in the schema stays, with its meaning, as long as "schema" is the same number.
    """
    from hwloop import schema

    if name is None:
        for known in schema.names():
            click.echo(known)
        return
    click.echo(json.dumps(schema.load(name), indent=2))
