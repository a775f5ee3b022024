"""Section ``access``: what is refused before anything starts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bridge.access.settings import AccessSettings, Client
from tests.unit.api.exchange import BASE, CLIENTS, ISSUER, access_settings

ISSUER_SETTINGS = {"issuer": ISSUER, "audience": BASE, "algorithms": ["ES256"], "keys": {"adapter": "jwks-file"}}
CLIENT = {**CLIENTS[0], "issuer": ISSUER}

OFFICER = {**CLIENT, "role": "consent-officer", "custodians": ["Organization/a"]}


def test_the_settings_of_the_tests_hold():
    """A whole section is taken."""
    assert len(access_settings().clients) == len(CLIENTS)


@pytest.mark.parametrize(
    "section",
    [
        {"issuers": [{**ISSUER_SETTINGS, "shoe": 1}]},
        {"issuers": [{**ISSUER_SETTINGS, "algorithms": ["HS256"]}]},
        {"issuers": [{**ISSUER_SETTINGS, "algorithms": ["none"]}]},
        {"issuers": [{**ISSUER_SETTINGS, "algorithms": []}]},
        {"issuers": [ISSUER_SETTINGS, ISSUER_SETTINGS]},
        {"clients": [CLIENT]},
        {"issuers": [ISSUER_SETTINGS], "clients": [CLIENT, CLIENT]},
        {"issuers": [ISSUER_SETTINGS], "clients": [{**CLIENT, "purposes": []}]},
        {"issuers": [ISSUER_SETTINGS], "clients": [{**CLIENT, "role": "king"}]},
        {"issuers": [ISSUER_SETTINGS], "clients": [{**CLIENT, "custodians": ["Organization/a"]}]},
        {"issuers": [ISSUER_SETTINGS], "clients": [{**CLIENT, "role": "consent-officer"}]},
        {"issuers": [ISSUER_SETTINGS], "clients": [OFFICER]},
        {
            "issuers": [ISSUER_SETTINGS],
            "clients": [OFFICER],
            "custodians": [{"names": ["Organization/b"], "sites": ["b"]}],
        },
        {"custodians": [{"names": ["Organization/b"], "sites": []}]},
        {"custodians": [{"names": ["Organization/b", "Organization/b"], "sites": ["b"]}]},
    ],
)
def test_mistakes_are_refused(section):
    """Unknown keys, symmetric or missing algorithms, strangers, doubles, officers of nobody or of a custodian without sites."""
    with pytest.raises(ValidationError):
        AccessSettings.model_validate(section)


@pytest.mark.parametrize(
    ("role", "user", "required"),
    [
        ("clinician", None, True),
        ("clinician", "optional", False),
        ("consent-officer", None, True),
        ("system", None, False),
        ("system", "required", True),
        ("patient", None, False),
    ],
)
def test_persons_are_named_unless_the_profile_says_that_there_is_none(role, user, required):
    """The role decides where the profile is silent."""
    custodians = ["Organization/a"] if role == "consent-officer" else []
    client = Client.model_validate({**CLIENT, "role": role, "user": user, "custodians": custodians})

    assert client.user_required is required
