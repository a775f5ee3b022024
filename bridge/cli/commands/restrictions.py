"""``hiebridge restrictions``: patients closed to all but emergency access, by what and since when."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import Any

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.cli.stores import opened_store
from bridge.pipeline.restrictions import lift
from bridge.store import restrictions
from bridge.store.rows import RestrictionRow


@click.group()
def command() -> None:
    """Look at restrictions of patients, or lift them.

    A consent that could not be understood closes its patient to all but emergency access. A restriction that came with a
    dead letter is lifted with that; one of a message that was stored, by hand.

    \b
    Example:
      $ hiebridge restrictions list
    """  # noqa: D301 - click's mark


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, latest first.")
@click.option("--before", type=click.IntRange(min=1), help="Only those with a smaller key, for the next page.")
@json_option
@pass_invocation
def list_command(invocation: Invocation, limit: int, before: int | None) -> None:
    """List open restrictions, the latest first.

    \b
    Example:
      $ hiebridge restrictions list --json
    """  # noqa: D301 - click's mark
    page: dict[str, Any] = {"limit": limit} | ({"before_key": before} if before is not None else {})
    deployment = open_deployment(invocation.settings())
    with opened_store(deployment, read_only=True) as database, database.transaction(read_only=True) as txn:
        found = restrictions.list_open(txn, **page)
    said = [_described(row, fhir_id) for row, fhir_id in found]
    invocation.answer({"restrictions": said}, "\n".join(map(_line, said)) or "none")


@command.command("lift")
@click.argument("keys", nargs=-1, required=True, type=click.IntRange(min=1), metavar="KEY...")
@click.option("--reason", required=True, help="Why; kept with the restriction.")
@click.option("--by", default=getpass.getuser, show_default="the user's name", help="Who; kept with it.")
@json_option
@pass_invocation
def lift_command(invocation: Invocation, keys: tuple[int, ...], reason: str, by: str) -> None:
    """Lift restrictions, once someone has seen to what the consents said.

    One whose dead letter is still open is refused: replay or resolve that.

    \b
    Example:
      $ hiebridge restrictions lift 4 --reason "consent entered by hand, see ticket 4711"
    """  # noqa: D301 - click's mark
    lifted = list(dict.fromkeys(keys))
    with opened_store(open_deployment(invocation.settings())) as database:
        for key in lifted:
            lift(database, key, by=by, reason=reason)
    invocation.answer({"lifted": lifted}, "\n".join(f"{key}: lifted" for key in lifted))


def _described(row: RestrictionRow, fhir_id: str | None) -> dict[str, Any]:
    return {
        "key": row.restriction_key,
        "code": row.code,
        "since": datetime.fromtimestamp(row.created_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "patient": None if fhir_id is None else f"Patient/{fhir_id}",
        "dead_letter": row.dead_key,
    }


def _line(said: dict[str, Any]) -> str:
    patient = said["patient"] or "patient not known yet"
    origin = "stored message" if said["dead_letter"] is None else f"dead letter {said['dead_letter']}"
    return f"{said['key']}  {said['since']}  {said['code']}  {patient}  {origin}"
