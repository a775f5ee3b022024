"""``config``, ``keys`` and ``token``: what they answer, and what they refuse."""

from __future__ import annotations

import asyncio
import json

import pytest
import yaml
from joserfc import jwt
from joserfc.jwk import KeySet

from bridge.access.settings import AccessSettings
from bridge.access.tokens import TokenVerifier
from bridge.cli.composition import open_keys
from bridge.cli.development import create_issuer, mint, open_issuer
from bridge.cli.main import run
from bridge.config.load import load_settings
from bridge.keys.files import create_key_file, open_key_file
from bridge.keys.ports import KeyPurpose, SignerPurpose
from docs.generate import PAGES
from tests.reference import ROOT
from tests.unit.config.test_settings import MINIMAL
from tests.unit.config.test_sites import SITE

CHECKED = MINIMAL.replace("{adapter: local}", "{adapter: local, path: chain.db, name: north.example/chain}")


@pytest.fixture
def hiebridge(tmp_path, capsys, monkeypatch):
    """Runs a command beside ``bridge.yaml`` with the given text; answers exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def hiebridge(*arguments, text=MINIMAL):
        (tmp_path / "bridge.yaml").write_text(text)
        capsys.readouterr()
        return run(["--config", "bridge.yaml", *arguments]), *capsys.readouterr()

    return hiebridge


def test_check_says_what_is_in_order(hiebridge, tmp_path):
    """A right configuration answers in one line, or in JSON."""
    (tmp_path / "a.yaml").write_text(SITE.format(name="a"))
    text = CHECKED + "sites: [a.yaml]\n"

    code, out, err = hiebridge("config", "check", "--json", text=text)

    assert (code, err) == (0, "")
    assert json.loads(out) == {"file": "bridge.yaml", "mode": "production", "sites": 1, "sources": 0, "listeners": 0}
    assert hiebridge("config", "check", text=text)[:2] == (
        0,
        "bridge.yaml: in order; production, 1 sites, 0 sources, 0 listeners\n",
    )


def test_check_shows_problems_of_adapters_and_sites_together(hiebridge, tmp_path):
    """What loading leaves open is found in one run: adapters' own settings, and site files."""
    (tmp_path / "a.yaml").write_text("site: a\n")
    text = MINIMAL.replace("path: keys.json", "paht: keys.json") + "sites: [a.yaml]\n"

    code, out, err = hiebridge("config", "check", text=text)

    assert (code, out) == (2, "")
    assert "bridge.yaml:8:3: keys.paht: there is no such setting [setting-unknown] Did you mean path?" in err
    assert "a.yaml:1:1: organization: the setting is required and not there [setting-missing]" in err


def test_check_lists_problems_as_json(hiebridge):
    """Editors and pipelines get file, line and column as numbers."""
    code, _, err = hiebridge("config", "check", "--json", text=MINIMAL.replace("consent:", "consnt:"))

    error = json.loads(err)["error"]
    assert code == 2
    assert [(p["code"], p["setting"], p["where"]["line"]) for p in error["problems"]] == [
        ("consent-policy-missing", "consent", 1),
        ("setting-unknown", "consnt", 11),
    ]


def test_no_file_is_a_clear_error(hiebridge, tmp_path):
    """The first thing a newcomer meets says how to name the file."""
    code = run(["--config", str(tmp_path / "none.yaml"), "config", "check"])

    assert code == 2


def test_show_masks_secrets_and_shows_the_rest(hiebridge, monkeypatch):
    """File, environment and defaults as they are in force; references as references; a literal never."""
    monkeypatch.setenv("HIEBRIDGE__API__PORT", "9000")
    text = MINIMAL + (
        "sources:\n  - {name: s, adapter: kafka, site: a, sasl: {password: hunter2}, tls: {key_password: {env: PW}}}\n"
        "access: {clients: [{api_key: hunter2}]}\n"
    )

    code, out, err = hiebridge("config", "show", text=text)
    shown = yaml.safe_load(out)

    assert (code, err) == (0, "")
    assert "hunter2" not in out
    assert shown["api"]["port"] == 9000
    assert shown["mode"] == "production"
    assert shown["keys"] == {"adapter": "file", "path": "keys.json"}
    assert shown["sources"][0]["tls"] == {"key_password": {"env": "PW"}}
    assert json.loads(hiebridge("config", "show", "--json", text=text)[1]) == shown


def test_schema_knows_what_the_file_may_say(hiebridge):
    """The JSON Schema refuses unknown settings at the top and leaves adapters' own settings open."""
    code, out, _ = hiebridge("config", "schema")
    schema = json.loads(out)

    assert code == 0
    assert schema["additionalProperties"] is False
    assert {"deployment", "store", "keys", "chain", "log", "consent"} == set(schema["required"])
    assert schema["$defs"]["Source"]["additionalProperties"] is True
    assert "settings" not in schema["$defs"]["Source"]["properties"]
    assert all(
        field["description"] for model in schema["$defs"].values() for field in model.get("properties", {}).values()
    )


@pytest.mark.parametrize("page", PAGES)
def test_reference_pages_are_what_the_code_says(page):
    """An undocumented setting, command or metric fails here; write the pages anew with ``python docs/generate.py``."""
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == PAGES[page]()


def test_schema_prints_the_reference_page(hiebridge):
    """The page for this installation, third-party adapters included."""
    assert hiebridge("config", "schema", "--markdown")[1] == PAGES["reference/configuration.md"]()


def test_keys_init_makes_a_usable_key_file_once(hiebridge, tmp_path):
    """The file opens, the public key told is the log's, and a second call changes nothing."""
    code, out, _ = hiebridge("keys", "init", "keys.json", "--json")
    keys = open_key_file(tmp_path / "keys.json")
    before = (tmp_path / "keys.json").read_bytes()

    assert code == 0
    assert json.loads(out)["log_public_key"] == keys.signer(SignerPurpose.LOG, "log").public_key().hex()
    assert hiebridge("keys", "init", "keys.json")[0] == 5
    assert (tmp_path / "keys.json").read_bytes() == before


def test_tokens_are_refused_in_production(hiebridge, tmp_path):
    """Production is the default, and there no token is made and no key left behind."""
    code, out, err = hiebridge("token", "--client", "c")

    assert (code, out) == (3, "")
    assert "development-only" in err
    assert not list(tmp_path.glob("development-issuer*"))


DEVELOPMENT = (
    "mode: development\n"
    + MINIMAL
    + """\
access:
  issuers:
    - issuer: https://development.example
      audience: https://fhir.north.example/fhir
      algorithms: [ES256]
      development: true
      keys: {adapter: jwks-file, path: development-issuer.jwks.json}
"""
)


def test_a_token_says_who_asks_and_why(hiebridge, tmp_path):
    """Signed by the key whose public half lies beside it; with issuer, audience, expiry and only the claims asked for."""
    code, first, _ = hiebridge(
        "token", "--client", "ward", "--purpose", "TREAT", "--lifetime-minutes", "5", text=DEVELOPMENT
    )
    _, second, _ = hiebridge("token", "--client", "app", "--subject", "me", "--patient", "p1", text=DEVELOPMENT)
    keys = json.loads((tmp_path / "development-issuer.jwks.json").read_text())
    token, other = (
        jwt.decode(text.strip(), KeySet.import_key_set(keys), algorithms=["ES256"]) for text in (first, second)
    )

    assert code == 0
    assert token.header["typ"] == "at+jwt"
    assert token.claims.pop("exp") - token.claims.pop("iat") == 300
    assert token.claims.pop("jti") != other.claims["jti"]
    assert token.claims.pop("nbf") <= other.claims["nbf"]
    assert token.claims == {
        "sub": "ward",
        "client_id": "ward",
        "purpose_of_use": "TREAT",
        "aud": "https://fhir.north.example/fhir",
        "iss": "https://development.example",
    }
    assert (other.claims["sub"], other.claims["patient"]) == ("me", "p1")
    assert "purpose_of_use" not in other.claims
    assert all("d" not in key for key in keys["keys"])
    assert (tmp_path / "development-issuer.json").stat().st_mode & 0o777 == 0o600


def test_a_token_wants_a_development_issuer(hiebridge, tmp_path):
    """Without an issuer that the configuration marks so, no token is made and no key left behind."""
    code, _, err = hiebridge("token", "--client", "c", text="mode: development\n" + MINIMAL)

    assert code == 2
    assert "development-issuer-missing" in err
    assert not list(tmp_path.glob("development-issuer*"))


def test_production_refuses_a_development_issuer(hiebridge):
    """An issuer whose tokens prove nothing stops a production configuration, and is named with its place."""
    code, _, err = hiebridge("config", "check", text=DEVELOPMENT.replace("mode: development\n", ""))

    assert code == 3
    assert "bridge.yaml:14:7: access.issuers[0]" in err
    assert "development-issuer" in err


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"kty": "oct", "k": "AAAA"}'])
def test_a_broken_issuer_key_is_refused(hiebridge, tmp_path, content):
    """Whatever stands in the file, the answer is a clear error."""
    (tmp_path / "issuer.json").write_text(content)
    (tmp_path / "issuer.json").chmod(0o600)

    code, _, err = hiebridge("token", "--client", "c", "--key", "issuer.json", text=DEVELOPMENT)

    assert code == 2
    assert "issuer-key-invalid" in err


def test_the_api_takes_a_development_token_for_what_it_says(tmp_path):
    """What the issuer here mints, the access room verifies: client, purpose, caller."""
    create_issuer(tmp_path / "issuer.json", tmp_path / "issuer.jwks.json")
    claims = {"sub": "someone", "client_id": "ward", "purpose_of_use": "TREAT", "fhirUser": "Practitioner/7"}
    minted = mint(open_issuer(tmp_path / "issuer.json"), claims, "https://issuer.example", "https://api.example", 60)
    issuer = {"issuer": "https://issuer.example", "audience": "https://api.example", "algorithms": ["ES256"]}
    client = {"client_id": "ward", "issuer": "https://issuer.example", "organization": "Organization/1"}
    settings = AccessSettings.model_validate(
        {
            "issuers": [issuer | {"keys": {"adapter": "jwks-file"}}],
            "clients": [client | {"role": "clinician", "purposes": ["TREAT"]}],
        }
    )

    class Keys:
        async def keys(self, key_id):
            return json.loads((tmp_path / "issuer.jwks.json").read_text())["keys"]

    principal = asyncio.run(TokenVerifier(settings, {"https://issuer.example": Keys()}).verify(minted))

    assert (principal.client.client_id, principal.purpose) == ("ward", "TREAT")
    assert principal.actor == "Practitioner/7"


def test_the_composition_opens_the_configured_keys(tmp_path):
    """The key provider comes by its entry point, with its path taken from the configuration's folder."""
    (tmp_path / "bridge.yaml").write_text(MINIMAL)
    create_key_file(tmp_path / "keys.json")

    opened = open_keys(load_settings(tmp_path / "bridge.yaml", {}))

    expected = open_key_file(tmp_path / "keys.json").secret_key(KeyPurpose.IDENTITY)
    assert opened.secret_key(KeyPurpose.IDENTITY) == expected
