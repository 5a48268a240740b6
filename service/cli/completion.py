"""`dljobs completion`."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from dljobs.errors import UnknownName

from .output import print_lines

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", metavar="[bash|zsh|fish]", required=False)
@click.pass_context
def completion(context: click.Context, /, *, shell: str | None) -> None:
    """Print the script that makes a shell complete commands, options and models; by default for the shell in use.

    \b
    Examples:
      dljobs completion bash >> ~/.bashrc
      dljobs completion fish > ~/.config/fish/completions/dljobs.fish
    """
    shell = shell or Path(os.environ.get("SHELL", "bash")).name
    found = get_completion_class(shell) if shell in SHELLS else None
    if found is None:
        raise UnknownName("shell", shell, SHELLS)
    print_lines([found(context.find_root().command, {}, "dljobs", "_DLJOBS_COMPLETE").source().rstrip()])
