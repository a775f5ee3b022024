"""``hiebridge synth``: the feed of a synthetic hospital region."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from bridge.cli.destinations import Printed, Router, make_folder
from bridge.cli.files import write_text
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.config.load import mappings_root
from bridge.errors import Incorrect
from bridge.synth.region import Region
from bridge.synth.tables import tables

TRUTH = "truth.json"
_PERCENT = click.FloatRange(0, 50)


@click.command()
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="The same seed, the same feed.")
@click.option("--patients", type=click.IntRange(min=1), default=500, show_default=True, help="People of the region.")
@click.option("--messages", type=click.IntRange(min=0), default=5000, show_default=True, help="Messages in all.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Messages a second; default: as fast as taken."
)
@click.option("--uncovered", type=_PERCENT, default=0.0, help="Percent of events that no mapping knows.")
@click.option("--malformed", type=_PERCENT, default=0.0, help="Percent of messages that can't be read.")
@click.option("--duplicates", type=_PERCENT, default=0.0, help="Percent of messages sent twice.")
@click.option(
    "--to",
    "routes",
    multiple=True,
    metavar="[SITE=]ADDRESS",
    help="kafka://HOST:PORT/TOPIC (the topic exists), mllp://HOST:PORT, or a folder; may be repeated with a SITE each. "
    "Default: standard output.",
)
@click.option(
    "--truth", type=click.Path(path_type=Path), help="File for the truth; default: truth.json in the folder, or here."
)
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    seed: int,
    patients: int,
    messages: int,
    rate: float | None,
    uncovered: float,
    malformed: float,
    duplicates: float,
    routes: tuple[str, ...],
    truth: Path | None,
) -> None:
    """Send the feed of a synthetic hospital region, and write the truth about it: who is who, and what becomes of what.

    The sites of the region have site files among the built-in mappings, named in the truth. One source or listener is one
    site, so give each site an address of its own; messages of a site without one are left out. On standard output no
    truth is written unless asked for.

    \b
    Example:
      $ hiebridge synth --seed 1 --patients 500 --messages 5000 --to feed/
      $ hiebridge synth --rate 100 --to st-olave=mllp://127.0.0.1:2575 --to queensbridge=kafka://127.0.0.1:9092/adt
    """  # noqa: D301 - click's mark
    region = Region(seed, patients, messages, uncovered, malformed, duplicates)
    router = Router(routes, Printed())
    unknown = sorted(router.sites - set(tables().facilities))
    if unknown:
        known = ", ".join(sorted(tables().facilities))
        raise Incorrect("site-unknown", f"the region has no site {unknown[0]}", remedy=f"It has: {known}.")
    asyncio.run(_send(router, region, rate))
    place = truth or _truth_place(routes)
    if place is not None:
        make_folder(place.absolute().parent)
        write_text(place, json.dumps(_truth(region), ensure_ascii=False, indent=1) + "\n")
    delivery = router.delivery
    said = {
        "sent": delivery.sent,
        "refused": delivery.refused,
        "left_out": delivery.left_out,
        "truth": str(place) if place is not None else None,
        "sites": _site_files(),
    }
    text = ", ".join(f"{number} {site}" for site, number in sorted(delivery.sent.items())) or "nothing"
    text += f"; {delivery.refused} refused" if delivery.refused else ""
    text += f"; {delivery.left_out} left out, their sites have no address" if delivery.left_out else ""
    text += f"\ntruth: {place}" if place is not None else ""
    text += f"\nsite files: {', '.join(_site_files().values())} in {mappings_root()}"
    if routes:
        invocation.answer(said, f"sent: {text}")
    else:
        click.echo(json.dumps(said) if invocation.as_json else f"sent: {text}", err=True)


async def _send(router: Router, region: Region, rate: float | None) -> None:
    async with router:
        await router.send(region, rate)


def _truth_place(routes: tuple[str, ...]) -> Path | None:
    if not routes:
        return None
    only = routes[0] if len(routes) == 1 else ""
    return Path(only) / TRUTH if only and "://" not in only and "=" not in only else Path(TRUTH)


def _truth(region: Region) -> dict[str, Any]:
    made = {"seed": region.seed, "patients": region.patients, "messages": region.messages}
    return {"region": made, "sites": _site_files(), **region.truth().as_json()}


def _site_files() -> dict[str, str]:
    """Which files of the mappings describe the sites of the region."""
    return {site: f"sites/{site}.yaml" for site in sorted(tables().facilities)}
