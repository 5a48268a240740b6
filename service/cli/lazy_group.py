"""A group of commands, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from dljobs.errors import UnknownName


@dataclass(frozen=True)
class Entry:
    """A command that was not imported: "module:attribute", and the line that the group's help shows for it."""

    target: str
    summary: str


class LazyGroup(click.Group):
    """A click group over entries in sections.

    Args:
        sections: heading to command name to entry.
        package: where the entries' modules stand.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, Entry]], package: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        self.entries = {name: entry for section in sections.values() for name, entry in section.items()}
        self.package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the sections."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name, or None if there is none."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command = getattr(importlib.import_module(f"{self.package}.{module}"), attribute)
        assert isinstance(command, click.Command), entry.target
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but an unknown name is answered with the nearest one."""
        if not ctx.resilient_parsing and args[0] not in self.entries and not args[0].startswith("-"):
            raise UnknownName("command", args[0], self.entries, "`dljobs --help` lists the commands")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, from their entries: no command is imported for it."""
        for heading, entries in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])
