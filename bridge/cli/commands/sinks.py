"""``hiebridge sinks``: what waits for the sinks, and what they refused."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import Any

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.cli.stores import opened_store
from bridge.errors import Incorrect
from bridge.pipeline import delivery
from bridge.store import outbox

_SINK = click.argument("sink")


@click.group()
def command() -> None:
    """Look at what waits for the sinks, and deal with what they refused.

    A delivery that a sink refuses for good is set aside; it holds what comes after it of the same patient, and nothing
    else, until it is tried again or discarded.

    \b
    Example:
      $ hiebridge sinks list
    """  # noqa: D301 - click's mark


@command.command("list")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Of each sink, how many.")
@json_option
@pass_invocation
def list_command(invocation: Invocation, limit: int) -> None:
    """List how much waits for each sink, and what was set aside and why.

    \b
    Example:
      $ hiebridge sinks list --json
    """  # noqa: D301 - click's mark
    deployment = open_deployment(invocation.settings())
    said: list[dict[str, Any]] = []
    lines: list[str] = []
    with opened_store(deployment, read_only=True) as database, database.transaction(read_only=True) as txn:
        for route in deployment.routes:
            standing = outbox.standing(txn, route.destination)
            aside = [_described(each) for each in delivery.set_aside(txn, route, limit)]
            said.append({"sink": route.sink, "waiting": standing.number - standing.aside, "set_aside": aside})
            lines.append(f"{route.sink}: {standing.number - standing.aside} wait, {standing.aside} set aside")
            lines += [
                f"  {a['number']}  {a['since']}  {a['what']}  {a['code']}  {a['attempts']} attempts" for a in aside
            ]
    invocation.answer({"sinks": said}, "\n".join(lines) or "none")


@command.command()
@_SINK
@click.argument("numbers", nargs=-1, type=click.IntRange(min=1), metavar="NUMBER...")
@click.option("--all", "everything", is_flag=True, help="All that the sink has refused.")
@json_option
@pass_invocation
def retry(invocation: Invocation, sink: str, numbers: tuple[int, ...], everything: bool) -> None:
    """Have deliveries tried again that were set aside, once their cause is mended.

    \b
    Example:
      $ hiebridge sinks retry ehr --all
    """  # noqa: D301 - click's mark
    if bool(numbers) is everything:
        raise Incorrect("deliveries-unnamed", "name deliveries by number, or --all", remedy="List them first.")
    deployment = open_deployment(invocation.settings())
    with opened_store(deployment) as database:
        done = delivery.retry(database, deployment.route(sink), None if everything else list(dict.fromkeys(numbers)))
    invocation.answer({"sink": sink, "retried": done}, f"{sink}: {done} to be tried again")


@command.command()
@_SINK
@click.argument("numbers", nargs=-1, required=True, type=click.IntRange(min=1), metavar="NUMBER...")
@click.option("--reason", required=True, help="Why; kept with the alarm.")
@click.option("--by", default=getpass.getuser, show_default="the user's name", help="Who; kept with it.")
@json_option
@pass_invocation
def discard(invocation: Invocation, sink: str, numbers: tuple[int, ...], reason: str, by: str) -> None:
    """Forget deliveries that were set aside, so that what they hold goes on. The sink never gets them.

    \b
    Example:
      $ hiebridge sinks discard ehr 4711 --reason "the server takes no such code; ticket 12"
    """  # noqa: D301 - click's mark
    deployment = open_deployment(invocation.settings())
    discarded = list(dict.fromkeys(numbers))
    with opened_store(deployment) as database:
        for number in discarded:
            delivery.discard(database, deployment.route(sink), number, by=by, reason=reason)
    invocation.answer({"sink": sink, "discarded": discarded}, "\n".join(f"{n}: discarded" for n in discarded))


@command.command()
@_SINK
@json_option
@pass_invocation
def refill(invocation: Invocation, sink: str) -> None:
    """Queue the current version of everything stored, for a sink that is new or has lost what it was given.

    \b
    Example:
      $ hiebridge sinks refill ehr
    """  # noqa: D301 - click's mark
    deployment = open_deployment(invocation.settings())
    with opened_store(deployment) as database:
        queued = delivery.refill(database, deployment.route(sink))
    invocation.answer({"sink": sink, "queued": queued}, f"{sink}: {queued} queued")


def _described(each: delivery.SetAside) -> dict[str, Any]:
    return {
        "number": each.number,
        "since": datetime.fromtimestamp(each.since_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "what": each.what,
        "code": each.code,
        "attempts": each.attempts,
    }
