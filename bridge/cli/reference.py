"""The reference page of the commands: their help, word for word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from bridge.cli.main import hiebridge

_HEAD: Final = """\
# Command reference

Generated from the commands' own help; do not edit.
"""


def commands(
    command: click.Command = hiebridge, name: str = "hiebridge", parent: click.Context | None = None
) -> Iterator[tuple[str, click.Command, str]]:
    """Full name, command and help text of every command, groups before their members; imports them all."""
    settings = {
        "terminal_width": 100,
        **command.context_settings,
    }  # as a call has them: click keeps the first help option
    with click.Context(command, info_name=name.rpartition(" ")[2], parent=parent, **settings) as context:
        yield name, command, command.get_help(context)
        if isinstance(command, click.Group):
            for member in command.list_commands(context):
                found = command.get_command(context, member)
                assert found is not None
                yield from commands(found, f"{name} {member}", context)


def commands_page() -> str:
    """``docs/reference/commands.md``."""
    parts = [f"## `{name}`\n\n```text\n{text}\n```\n" for name, _, text in commands()]
    return "\n".join([_HEAD, *parts])
