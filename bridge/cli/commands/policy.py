"""``hiebridge policy``: what this deployment says that its auditors would have to trust."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.files import write_text
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.ledger.policy import policy_json
from bridge.pipeline.proving import template_policy

_NOTICE = """\
A template from this deployment's own configuration, and no reason to believe in it. Whoever checks proofs gets each key
by another way than the proofs (published, on paper, by telephone) and compares it with this file."""
_BLOCKS = """\
The chain's blocks are not in it: add the hash of block {number} or a later one under `blocks`, as a node that the checker
trusts reports it. This deployment's node says {hash}."""


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write; default: print it.")
@json_option
@pass_invocation
def command(invocation: Invocation, output: Path | None) -> None:
    """Write a template of a trust policy, from this deployment's own configuration.

    A policy says whom a checker of proofs believes, so it must come from elsewhere than the proofs. This is a start: each
    key in it is to be compared with what the checker knows independently.

    \b
    Example:
      $ hiebridge policy -o policy.json
    """  # noqa: D301 - click's mark
    deployment = open_deployment(invocation.settings())
    chain = deployment.chain()
    try:
        policy, evidence = template_policy(deployment.log_key(), chain)
    finally:
        chain.close()
    document = policy_json(policy)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if output is not None:
        write_text(output, text + "\n")
        invocation.answer({"path": str(output), "policy": document}, f"{output}: written")
    else:
        click.echo(text)
    click.echo(_NOTICE, err=True)
    if evidence is not None and evidence.kind == "evm":
        click.echo(_BLOCKS.format(number=evidence.block.number, hash=f"0x{evidence.block.hash.hex()}"), err=True)
