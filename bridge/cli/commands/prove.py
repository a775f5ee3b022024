"""``hiebridge prove``: a proof bundle of one version of a resource."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.deployment import open_deployment
from bridge.cli.files import write_text
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.cli.stores import opened_store
from bridge.errors import Incorrect
from bridge.fhir.references import parse_reference
from bridge.pipeline.proving import prove


@click.command()
@click.argument("resource")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write; - = print it.")
@click.option("--version", type=click.IntRange(min=1), help="Version to prove; default: the current one.")
@click.option("--without-chain", is_flag=True, help="Leave the chain's evidence out, and do not ask the chain.")
@json_option
@pass_invocation
def command(invocation: Invocation, resource: str, output: Path, version: int | None, without_chain: bool) -> None:
    """Write the proof that one version of a resource was logged and has not changed.

    RESOURCE is its type and id, such as Patient/ID. The bundle holds the resource's content: hand it only to those who
    may see that. It is checked with `hiebridge verify` against a policy that the checker did not get from here.

    \b
    Example:
      $ hiebridge prove Patient/9b2d7c1e-5a0f-8c3d-9e4b-1f2a3b4c5d6e -o proof.json
    """  # noqa: D301 - click's mark
    target = parse_reference(resource)
    if target is None:
        raise Incorrect("resource-name", "the resource is not named as TYPE/ID", remedy="E.g. Patient/123.")
    deployment = open_deployment(invocation.settings())
    log_key = deployment.log_key()
    chain = None if without_chain else deployment.chain()
    try:
        with opened_store(deployment, read_only=True) as database:
            proved = prove(database, deployment.keys, log_key, chain, (target.type, target.id), version)
    finally:
        if chain is not None:
            chain.close()
    if str(output) == "-":
        click.echo(proved.bundle.encode(), nl=False)
        return
    write_text(output, proved.bundle.encode())
    name = f"{target.type}/{target.id}"
    said = {"path": str(output), "resource": name, "version": proved.version, "anchored": bool(proved.bundle.anchors)}
    lines = [f"{output}: proof of {name} version {proved.version}", *_indented(proved.verdict.lines())]
    if not proved.bundle.anchors and chain is not None:
        lines.append("  not anchored yet: no head on the chain covers it; prove it again later for the chain's word")
    invocation.answer(said | {"verdict": proved.verdict.to_json()}, "\n".join(lines))


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
