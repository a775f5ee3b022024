"""``hiebridge keys``: make the keys of a deployment."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.keys.files import create_key_file, open_key_file
from bridge.keys.ports import SignerPurpose


@click.group()
def command() -> None:
    """Make the keys of a deployment.

    \b
    Example:
      $ hiebridge keys init keys.json
    """  # noqa: D301 - click's mark


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@pass_invocation
def init(invocation: Invocation, path: Path) -> None:
    """Make a key file with mode 0600. Back it up apart from the database: what it seals opens with nothing else.

    \b
    Example:
      $ hiebridge keys init /etc/hie-bridge/keys.json
    """  # noqa: D301 - click's mark
    create_key_file(path)
    public = open_key_file(path).signer(SignerPurpose.LOG, "log").public_key().hex()
    invocation.answer({"path": str(path), "log_public_key": public}, f"{path}: made; public key of the log: {public}")
