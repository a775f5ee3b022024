"""``hiebridge fsck``: the whole store against its log, and the log against what is held outside."""

from __future__ import annotations

from itertools import islice

import click

from bridge.access.journal import record_bytes
from bridge.cli.deployment import Deployment, open_deployment
from bridge.cli.errors import CHECK_FAILED
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.cli.stores import opened_store
from bridge.keys.ports import KeyPurpose
from bridge.ledger.watermark import FileWatermark
from bridge.pipeline.findings import Finding, Tally
from bridge.pipeline.fsck import Fsck


@click.command()
@click.option("--without-chain", is_flag=True, help="Do not ask the chain for the head that it holds.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Findings shown; all are counted."
)
@click.option(
    "--messages-one-in",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of so many kept messages one is decrypted, others at each run; for large stores.",
)
@json_option
@pass_invocation
def command(invocation: Invocation, without_chain: bool, limit: int, messages_one_in: int) -> int:
    """Check the whole store: derive everything again, from the stored bytes to the head on the chain.

    Every version, link, consent state and access record is held against its leaf, every leaf against its row, the leaves
    against roots, signed checkpoints, anchors, the signer's watermark and the chain, every block of the operator's own
    chain against the one before, search rows, names and units' states against the stored bytes, kept messages against
    their keys, and the totals of all sources against what is kept. A finding names table, resource and version, and never content. Reads only; runs beside a
    working bridge. Exit code 1 if anything is found.

    \b
    Example:
      $ hiebridge fsck --json
    """  # noqa: D301 - click's mark
    deployment = open_deployment(invocation.settings())
    origin = deployment.origin
    chain = None if without_chain else deployment.chain()
    try:
        with opened_store(deployment, read_only=True) as database:
            check = Fsck(
                database,
                deployment.keys,
                deployment.log_key(),
                record_bytes,
                identity_key=deployment.keys.secret_key(KeyPurpose.IDENTITY).reveal(),
                event_ahead_us=deployment.event_ahead_us,
                messages_one_in=messages_one_in,
                chain=chain,
                watermark=FileWatermark(deployment.settings.log.watermark, origin).read(),
            )
            findings = check.run()
            shown = list(islice(findings, limit))
            more = sum(1 for _ in findings)
    finally:
        if chain is not None:
            chain.close()
    _answer(invocation, deployment, shown, more, check.tally)
    return CHECK_FAILED if shown else 0


def _answer(invocation: Invocation, deployment: Deployment, shown: list[Finding], more: int, tally: Tally) -> None:
    checked = dict(sorted(tally.checked.items()))
    said = {
        "in_order": not shown,
        "origin": deployment.origin,
        "findings": [finding.to_json() for finding in shown],
        "finding_count": len(shown) + more,
        "checked": checked,
    }
    lines = [str(finding) for finding in shown]
    if more:
        lines.append(f"and {more} more {_findings(more)}")
    lines.append("checked: " + ", ".join(f"{number} {kind}" for kind, number in checked.items()))
    number = len(shown) + more
    lines.append(f"{number} {_findings(number)}" if shown else "in order")
    invocation.answer(said, "\n".join(lines))


def _findings(number: int) -> str:
    return "finding" if number == 1 else "findings"
