"""``hiebridge token``: an access token of the development issuer."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.composition import access_settings
from bridge.cli.development import ALGORITHM, create_issuer, mint, open_issuer
from bridge.cli.invocation import Invocation, json_option, pass_invocation
from bridge.config.settings import Mode
from bridge.errors import Forbidden, Incorrect


@click.command()
@click.option("--client", "client_id", required=True, help="Client id; its profile says organisation and role.")
@click.option("--subject", help="Who asks; default: the client.")
@click.option("--user", help="The person who asks, as `fhirUser`, e.g. Practitioner/7; roles of persons need one.")
@click.option("--purpose", help="Purpose of use, a code of v3-ActReason, e.g. TREAT.")
@click.option("--patient", help="Id of the Patient for whom a patient or proxy asks.")
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
    user: str | None,
    purpose: str | None,
    patient: str | None,
    lifetime_minutes: int,
    key: Path | None,
) -> None:
    """Make an access token for a demonstration; refused in production mode.

    Issuer and audience are those of the first issuer marked `development` under `access.issuers`. Its public key goes
    beside the private one, as FILE.jwks.json, for that issuer's `keys` to name.

    \b
    Example:
      $ hiebridge token --client ward-portal --user Practitioner/7 --purpose TREAT
    """  # noqa: D301 - click's mark
    settings = invocation.settings()
    if settings.mode is not Mode.DEVELOPMENT:
        raise Forbidden(
            "development-only",
            "tokens of the development issuer are made in development mode only",
            remedy="Get a token from the issuer that `access` names.",
        )
    issuer = next((issuer for issuer in access_settings(settings).issuers if issuer.development), None)
    if issuer is None or ALGORITHM not in issuer.algorithms:
        raise Incorrect(
            "development-issuer-missing",
            f"access.issuers names no issuer with development: true and the algorithm {ALGORITHM}",
            remedy="Add one; `hiebridge demo` shows how.",
        )
    private = key or invocation.config.absolute().parent / "development-issuer.json"
    if not private.exists():
        create_issuer(private, private.with_suffix(".jwks.json"))
    claims = {"sub": subject or client_id, "client_id": client_id}
    claims |= {"fhirUser": user} if user else {}
    claims |= {"purpose_of_use": purpose} if purpose else {}
    claims |= {"patient": patient} if patient else {}
    lifetime_seconds = lifetime_minutes * 60
    minted = mint(open_issuer(private), claims, issuer.issuer, issuer.audience, lifetime_seconds)
    invocation.answer({"token": minted, "claims": claims, "expires_in": lifetime_seconds}, minted)
