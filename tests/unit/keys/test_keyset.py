"""The key set document: derived keys are stable, and a damaged document is refused without showing a key."""

from __future__ import annotations

import base64
import json

import pytest

from bridge.errors import Incorrect
from bridge.keys.ed25519 import Ed25519Signer
from bridge.keys.keyset import new_key_set, parse_key_set
from bridge.keys.ports import KeyPurpose, SignerPurpose


def counting_bytes(length):
    """Stands in for the random generator: the same key set each time."""
    return bytes(range(length))


TEXT = new_key_set(counting_bytes)
IDENTITY = "8f9e2ab5cf61c4c4ce935c93665c196979e72726173997c8e470e210f5284c0c"
LOCKS = "474e7bdb4a5997c88996fefc86701aa9c1d3230608e62f698a54e3496b45512c"


def test_keys_by_purpose_are_a_published_derivation():
    """The derivation is frozen: another value here would mint other ids for every identifier already stored."""
    keys = parse_key_set(TEXT, "test")

    assert keys.secret_key(KeyPurpose.IDENTITY).reveal().hex() == IDENTITY
    assert keys.secret_key(KeyPurpose.LOCKS).reveal().hex() == LOCKS


def test_no_two_purposes_share_a_key():
    """Purposes are separated: one key given away tells nothing about another."""
    keys = parse_key_set(new_key_set(), "test")
    secrets = {keys.secret_key(purpose).reveal() for purpose in KeyPurpose}
    public = {keys.signer(purpose, "name").public_key() for purpose in SignerPurpose}

    assert len(secrets) == len(KeyPurpose)
    assert len(public) == len(SignerPurpose)


def test_two_key_sets_share_nothing():
    """New key sets come from the random generator."""
    first, second = json.loads(new_key_set()), json.loads(new_key_set())

    assert first["deployment"] != second["deployment"]
    assert first["wrapping"] != second["wrapping"]
    assert not set(first["signers"].values()) & set(second["signers"].values())


def test_signer_agrees_with_rfc_8032():
    """RFC 8032 section 7.1, test 2."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    signer = Ed25519Signer("log.example", seed)

    assert signer.public_key().hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert signer.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert (signer.name, signer.algorithm) == ("log.example", "ed25519")


def without(*path):
    document = json.loads(TEXT)
    holder = document
    for name in path[:-1]:
        holder = holder[name]
    del holder[path[-1]]
    return json.dumps(document)


def changed(value, *path):
    document = json.loads(TEXT)
    holder = document
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        without("format"),
        without("wrapping"),
        without("deployment"),
        without("signers"),
        without("wrapping", "current"),
        changed("hie-bridge-keys/v2", "format"),
        changed([], "wrapping"),
        changed({}, "wrapping", "keys"),
        changed("w-other", "wrapping", "current"),
        changed(["w-other"], "wrapping", "current"),
        changed(None, "deployment"),
        changed("AAAA", "deployment"),
        changed("!" * 44, "deployment"),
        changed({"evm": "AAAA"}, "signers"),
        changed("AAAA", "signers", "log"),
        changed(1, "extra"),
    ],
)
def test_a_damaged_key_set_is_refused_and_shows_no_key(text):
    """Whatever is wrong, the error names the origin and never a byte of a key."""
    with pytest.raises(Incorrect) as caught:
        parse_key_set(text, "/etc/bridge/keys.json")

    assert caught.value.code == "key-set-invalid"
    assert "/etc/bridge/keys.json" in str(caught.value)
    assert base64.b64encode(bytes(range(32))).decode()[:12] not in str(caught.value)


def test_a_missing_signing_key_is_named():
    """A deployment that keeps, say, its witness key elsewhere is told so when it asks here."""
    keys = parse_key_set(without("signers", "witness"), "test")

    with pytest.raises(Incorrect, match=r"signers\.witness") as caught:
        keys.signer(SignerPurpose.WITNESS, "w")

    assert caught.value.code == "signing-key-missing"
