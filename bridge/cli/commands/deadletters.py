"""``hiebridge deadletters``: messages that could not be stored, without what they say."""

from __future__ import annotations

import getpass
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.errors import CHECK_FAILED, described
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.cli.stores import opened_store
from bridge.errors import BridgeError, Incorrect
from bridge.pipeline.batch import Verdict
from bridge.pipeline.replay import Replayer, letter, open_letters, paused_sources, resolve, resume
from bridge.store import dead_letters, restrictions
from bridge.store.rows import DeadLetterRow, DeadState, Outcome

_REASON = click.option("--reason", required=True, help="Why; kept with the dead letter.")
_BY = click.option("--by", default=getpass.getuser, show_default="the user's name", help="Who; kept with it.")
_IDS = click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="ID...")


@click.group()
def command() -> None:
    """Look at messages that could not be stored, do them again, or close them.

    What is shown is structure, codes and places; never what a message says.

    \b
    Example:
      $ hiebridge deadletters list
    """  # noqa: D301 - click's mark


@command.command("list")
@click.option(
    "--state",
    type=click.Choice([*map(str, DeadState), "all"]),
    default="open",
    show_default=True,
    help="Which ones to list.",
)
@click.option("--source", help="Only those of this source or listener.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, latest first.")
@click.option("--before", type=click.IntRange(min=1), help="Only those with a smaller id, for the next page.")
@json_option
@pass_invocation
def list_command(invocation: Invocation, state: str, source: str | None, limit: int, before: int | None) -> None:
    """List dead letters, the latest first.

    \b
    Example:
      $ hiebridge deadletters list --source adt --json
    """  # noqa: D301 - click's mark
    wanted = None if state == "all" else DeadState(state)
    page: dict[str, Any] = {"limit": limit} | ({"before_key": before} if before is not None else {})
    deployment = open_deployment(invocation.settings())
    with opened_store(deployment, read_only=True) as database:
        with database.transaction(read_only=True) as txn:
            rows = dead_letters.list_letters(txn, state=wanted, source=source, **page)
        paused = list(paused_sources(database))
    lines = [_line(row) for row in rows] or ["none"]
    lines += [f"intake from {name} waits: a consent that can't be read names no patient" for name in paused]
    said = {"dead_letters": [_described(row) for row in rows], "paused_sources": paused}
    invocation.answer(said, "\n".join(lines))


@command.command()
@click.argument("id_", metavar="ID", type=click.IntRange(min=1))
@json_option
@pass_invocation
def show(invocation: Invocation, id_: int) -> None:
    """Show one dead letter: cause, place, and the message's structure without its values.

    \b
    Example:
      $ hiebridge deadletters show 17
    """  # noqa: D301 - click's mark
    deployment = open_deployment(invocation.settings())
    with opened_store(deployment, read_only=True) as database, database.transaction(read_only=True) as txn:
        row = letter(txn, id_)
        held = restrictions.of_dead_letters(txn, [id_])
    open_restrictions = sum(1 for each in held if each.state == "open")
    said = _described(row) | {"open_restrictions": open_restrictions}
    width = max(map(len, said))
    lines = [f"{name:{width}}  {_text(value)}" for name, value in said.items() if value is not None and value != ""]
    invocation.answer(said, "\n".join(lines))


@command.command()
@_IDS
@click.option("--all", "everything", is_flag=True, help="All open ones, the oldest first.")
@click.option("--source", help="With --all: only those of this source or listener.")
@_REASON
@_BY
@json_option
@pass_invocation
def replay(
    invocation: Invocation, ids: tuple[int, ...], everything: bool, source: str | None, reason: str, by: str
) -> int:
    """Do dead letters again, with the mappings and site files in force now.

    One that succeeds is counted as stored and no longer as dead; a restriction that came with it is lifted. One that
    fails again stays as it is. Exit code 1 if any did.

    \b
    Example:
      $ hiebridge deadletters replay --all --source adt --reason "table 0001 mapped"
    """  # noqa: D301 - click's mark
    if bool(ids) is everything or (source and not everything):
        raise Incorrect("dead-letters-unnamed", "name dead letters by id, or --all", remedy="--source goes with --all.")
    deployment = open_deployment(invocation.settings())
    with opened_store(deployment) as database:
        replayer = Replayer(database, deployment.keys, deployment.preparer(), deployment.batcher(database))
        keys = ids or open_letters(database, source)
        done = [(key, _attempt(replayer, key, by, reason)) for key in keys]
    return _answer_replay(invocation, done)


@command.command("resolve")
@_IDS
@_REASON
@_BY
@json_option
@pass_invocation
def resolve_command(invocation: Invocation, ids: tuple[int, ...], reason: str, by: str) -> None:
    """Close dead letters without doing them, and lift the restrictions of patients that came with them.

    A consent that could not be understood keeps its patient closed to all but emergency access until this is done: do it
    only once someone has seen to what the consent said.

    \b
    Example:
      $ hiebridge deadletters resolve 17 --reason "consent entered by hand, see ticket 4711"
    """  # noqa: D301 - click's mark
    if not ids:
        raise Incorrect("dead-letters-unnamed", "name the dead letters to close", remedy="List them first.")
    with opened_store(open_deployment(invocation.settings())) as database:
        lifted = {key: resolve(database, key, by=by, reason=reason) for key in dict.fromkeys(ids)}
    said = [{"id": key, "restrictions_lifted": number} for key, number in lifted.items()]
    lines = [f"{key}: resolved; {number} restrictions lifted" for key, number in lifted.items()]
    invocation.answer({"resolved": said}, "\n".join(lines))


@command.command("resume")
@click.argument("source")
@_REASON
@json_option
@pass_invocation
def resume_command(invocation: Invocation, source: str, reason: str) -> None:
    """Let a source go on whose intake waits because a consent that can't be read names no patient.

    \b
    Example:
      $ hiebridge deadletters resume adt --reason "patient found and restricted by hand"
    """  # noqa: D301 - click's mark
    with opened_store(open_deployment(invocation.settings())) as database:
        resume(database, source, reason)
    invocation.answer({"resumed": source}, f"{source}: goes on")


def _attempt(replayer: Replayer, key: int, by: str, reason: str) -> Verdict | BridgeError:
    try:
        return replayer.replay(key, by=by, reason=reason)
    except BridgeError as error:
        if error.transient and error.code != "dead-letter-closed":
            raise
        return error


def _answer_replay(invocation: Invocation, done: Sequence[tuple[int, Verdict | BridgeError]]) -> int:
    said: list[dict[str, Any]] = []
    lines: list[str] = []
    stored = 0
    for key, result in done:
        error = result if isinstance(result, BridgeError) else result.error
        if isinstance(result, Verdict) and result.outcome in {Outcome.STORED, Outcome.SUPERSEDED}:
            stored += 1
            said.append({"id": key, "outcome": str(result.outcome)})
            lines.append(f"{key}: {result.outcome}")
        elif error is not None:
            said.append({"id": key, "outcome": "dead", "error": described(error)})
            lines.append(f"{key}: still dead: {error}")
        else:
            said.append({"id": key, "outcome": "filtered"})
            lines.append(f"{key}: the site's file leaves its event out now; resolve it")
    lines.append(f"{stored} of {len(done)} done")
    invocation.answer({"replayed": said, "done": stored, "of": len(done)}, "\n".join(lines))
    return 0 if stored == len(done) else CHECK_FAILED


def _described(row: DeadLetterRow) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": row.dead_key,
        "state": row.state,
        "created": _instant(row.created_us),
        "source": row.source,
        "site": row.site,
        "place": _place(row),
        "event": row.event,
        "stage": row.stage,
        "category": row.category,
        "code": row.code,
        "message": row.message,
        "structure": json.loads(row.structure),
    }
    if row.closed_us is not None:
        said |= {"closed": _instant(row.closed_us), "closed_by": row.closed_by, "reason": row.reason}
    return said


def _line(row: DeadLetterRow) -> str:
    event = row.event or "unknown event"
    return (
        f"{row.dead_key}  {_instant(row.created_us)}  {row.source}  {_place(row)}  {event}  {row.stage}"
        f"  {row.category}/{row.code}  {row.state}"
    )


def _place(row: DeadLetterRow) -> str:
    return "queue" if row.offset is None else f"{row.partition}@{row.offset}"


def _instant(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
