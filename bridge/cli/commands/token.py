"""``hiebridge token``: an access token of the development issuer."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.development import create_issuer, mint, open_issuer
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.config.settings import Mode
from bridge.errors import Forbidden


@click.command()
@click.option("--client", "client_id", required=True, help="Client id; chooses the client profile.")
@click.option("--subject", help="Who asks; default: the client.")
@click.option("--organization", help="Organisation for which is asked.")
@click.option("--role", help="Role of who asks.")
@click.option("--purpose", help="Purpose of use, e.g. TREAT.")
@click.option("--patient", help="Id of the Patient who asks; makes it a patient's token.")
@click.option("--lifetime-minutes", type=click.IntRange(1, 24 * 60), default=60, show_default=True, help="Valid for.")
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="The issuer's private key, made if absent; default: development-issuer.json beside the configuration.",
)
@json_option
@pass_invocation
def command(
    invocation: Invocation,
    client_id: str,
    subject: str | None,
    organization: str | None,
    role: str | None,
    purpose: str | None,
    patient: str | None,
    lifetime_minutes: int,
    key: Path | None,
) -> None:
    """Make an access token for a demonstration; refused in production mode.

    The issuer's public key goes beside the private one, as FILE.jwks.json, for `access` to name.

    \b
    Example:
      $ hiebridge token --client ward-portal --organization st-olave --role clinician --purpose TREAT
    """  # noqa: D301 - click's mark
    settings = invocation.settings()
    if settings.mode is not Mode.DEVELOPMENT:
        raise Forbidden(
            "development-only",
            "tokens of the development issuer are made in development mode only",
            remedy="Get a token from the issuer that `access` names.",
        )
    private = key or invocation.config.absolute().parent / "development-issuer.json"
    if not private.exists():
        create_issuer(private, private.with_suffix(".jwks.json"))
    given = {"organization": organization, "role": role, "purpose": purpose, "patient": patient}
    claims = {"sub": subject or client_id, "client_id": client_id} | {k: v for k, v in given.items() if v is not None}
    audience = settings.deployment.fhir_base_url
    minted = mint(open_issuer(private), claims, audience=audience, lifetime_seconds=lifetime_minutes * 60)
    invocation.answer({"token": minted, "claims": claims, "audience": audience}, minted)
