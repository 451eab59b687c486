"""`hwloop completion`."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import click
from click.shell_completion import BashComplete, CompletionItem, ShellComplete, get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_HWLOOP_COMPLETE"

_WHERE = {
    "bash": "hwloop completion bash > /etc/bash_completion.d/hwloop   (or: source <(hwloop completion bash))",
    "zsh": "hwloop completion zsh > a folder of $fpath, as _hwloop",
    "fish": "hwloop completion fish > ~/.config/fish/completions/hwloop.fish",
}


class ColonBash(BashComplete):
    """Bash cuts words at colons, and a target has some. So the line is taken as it is, and what is offered begins
    behind the last colon."""

    name = "hwloop-bash"
    source_template: ClassVar[str] = """\
%(complete_func)s() {
    local IFS=$'\\n' line value
    line="${COMP_LINE:0:COMP_POINT}"
    COMPREPLY=()
    while read -r value; do
        COMPREPLY+=("$value")
    done < <(env HWLOOP_LINE="$line" HWLOOP_BREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete $1)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[:/] ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    @staticmethod
    def _check_version() -> None:
        """Any bash from 4 on does; click would start one to ask."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("HWLOOP_LINE", "")
        words = line.split()
        incomplete = "" if not words or line[-1].isspace() else words.pop()
        return words[1:], incomplete

    def complete(self) -> str:
        arguments, incomplete = self.get_completion_args()
        cut = incomplete.rfind(":") + 1 if ":" in os.environ.get("HWLOOP_BREAKS", ":") else 0
        found = self.get_completions(arguments, incomplete)
        return "\n".join(item.value[cut:] for item in found)

    def format_completion(self, item: CompletionItem) -> str:
        return str(item.value)


def completer(shell: str, cli: click.Command) -> ShellComplete:
    """What click has for a shell, but for bash."""
    kind: Any = ColonBash if shell == "bash" else get_completion_class(shell)
    assert kind is not None, f"{shell} is one of SHELLS"
    made: ShellComplete = kind(cli, {}, "hwloop", VARIABLE)
    return made


@click.command("completion", epilog="\b\n" + "\n".join(_WHERE.values()))
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print what makes a shell complete hwloop's commands, options and devices."""
    from hwloop.cli.main import main

    click.echo(completer(shell, main).source(), nl=False)
