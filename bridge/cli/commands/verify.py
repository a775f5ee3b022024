"""``hiebridge verify``: a proof against a trust policy, offline."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.errors import CHECK_FAILED, described
from bridge.cli.files import read_bytes, write_bytes
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.errors import BridgeError
from bridge.ledger.policy import load_policy
from bridge.ledger.proof import parse_bundle
from bridge.ledger.verify import Verdict, verify


@click.command()
@click.argument("proof", type=click.Path(path_type=Path))
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    required=True,
    help="Trust policy of your own: keys and blocks that you know from elsewhere than the proof.",
)
@click.option("--content", type=click.Path(path_type=Path), help="Write the proved bytes to this file.")
@json_option
@pass_invocation
def command(invocation: Invocation, proof: Path, policy: Path, content: Path | None) -> int:
    """Check a proof against a trust policy, without network, configuration or store.

    Each level that holds is said on a line of its own: logged, opened, what the chain says, and since when by whose word.
    Exit code 0 only if everything in the proof holds; 1 if anything does not; 2 if a file can't be read or the policy is
    malformed.

    \b
    Example:
      $ hiebridge verify proof.json --policy policy.json
    """  # noqa: D301 - click's mark
    trusted = load_policy(read_bytes(policy))
    raw = read_bytes(proof)
    try:
        verdict = verify(parse_bundle(raw), trusted)
    except BridgeError as error:
        refused = {"verified": False, "error": described(error)}
        invocation.answer(refused, f"not verified: {error}")
        return CHECK_FAILED
    if content is not None and verdict.opening is not None:
        write_bytes(content, verdict.opening.content)
    invocation.answer({"verified": True, **verdict.to_json()}, _shown(verdict))
    return 0


def _shown(verdict: Verdict) -> str:
    return "\n".join(["verified", *verdict.lines()])
