"""What every key provider promises; runs against each registered adapter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bridge.config.adapters import KEYS, adapter_names, load_adapter
from bridge.errors import Incorrect, Unavailable
from bridge.keys.envelope import open_envelope, seal
from bridge.keys.files import create_key_file
from bridge.keys.ports import KeyPurpose, SignerPurpose, WrappedKey


def file_settings(folder: Path, monkeypatch):
    create_key_file(folder / "keys.json")
    return {"path": folder / "keys.json"}


def environment_settings(folder: Path, monkeypatch):
    create_key_file(folder / "keys.json")
    monkeypatch.setenv("BRIDGE_TEST_KEYS", (folder / "keys.json").read_text())
    return {"variable": "BRIDGE_TEST_KEYS"}


SETTINGS = {"file": file_settings, "environment": environment_settings}


@pytest.fixture(params=adapter_names(KEYS))
def opened(request, tmp_path, monkeypatch):
    """Opens the provider anew at each call, over the same keys."""
    spec = load_adapter(KEYS, request.param)
    settings = spec.settings.model_validate(SETTINGS[request.param](tmp_path, monkeypatch))
    return lambda: spec.build(settings)


def test_secrets_outlive_the_process(opened):
    """Every purpose's key is 32 bytes, the same after a restart, and differs from the others."""
    first, second = opened(), opened()
    keys = [first.secret_key(purpose).reveal() for purpose in KeyPurpose]

    assert keys == [second.secret_key(purpose).reveal() for purpose in KeyPurpose]
    assert {len(key) for key in keys} == {32}
    assert len(set(keys)) == len(keys)


def test_what_was_sealed_before_a_restart_opens_after_it(opened):
    """Envelopes outlive the process that sealed them."""
    envelope = seal(b"message", b"place", opened())

    assert open_envelope(envelope, b"place", opened()) == b"message"


def test_unwrapping_answers_the_wrapped_key(opened):
    """unwrap is the inverse of wrap, and the wrapped form does not show the key."""
    provider, data_key = opened(), os.urandom(32)
    wrapped = provider.wrap(data_key)

    assert provider.unwrap(wrapped) == data_key
    assert data_key not in wrapped.wrapped


def test_an_altered_wrapped_key_is_incorrect(opened):
    """Altered bytes are refused as data that will never be right."""
    provider = opened()
    wrapped = provider.wrap(bytes(32))
    altered = bytes([wrapped.wrapped[0] ^ 1]) + wrapped.wrapped[1:]

    with pytest.raises(Incorrect) as caught:
        provider.unwrap(WrappedKey(wrapped.key_id, altered))

    assert caught.value.code == "wrapped-key-not-authentic"


def test_an_unknown_wrapping_key_is_unavailable(opened):
    """A key id from elsewhere is a matter of restoring keys, not of bad data: no message may be given up for it."""
    with pytest.raises(Unavailable) as caught:
        opened().unwrap(WrappedKey("w-elsewhere", bytes(40)))

    assert caught.value.code == "wrapping-key-unknown"


def test_signatures_verify_and_carry_the_given_name(opened):
    """Each purpose's signer signs with the key that it shows, under the name it was asked for."""
    for purpose in SignerPurpose:
        signer = opened().signer(purpose, "exchange.example/log")

        Ed25519PublicKey.from_public_bytes(signer.public_key()).verify(signer.sign(b"note"), b"note")
        assert (signer.name, signer.algorithm) == ("exchange.example/log", "ed25519")
        assert signer.public_key() == opened().signer(purpose, "other").public_key()


def test_nothing_about_a_provider_prints_a_key(opened):
    """repr of provider, secrets and signers shows no key, raw, in hex or in base64."""
    provider = opened()
    secret = provider.secret_key(KeyPurpose.IDENTITY)
    shown = repr((provider, secret, provider.signer(SignerPurpose.LOG, "log"), vars(provider).get("_secret_keys")))

    assert secret.reveal().hex() not in shown
    assert repr(secret.reveal()) not in shown
