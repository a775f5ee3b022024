"""Envelope encryption: what is sealed opens only whole, only in its place, only with its key."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Incorrect, Unavailable
from bridge.keys.envelope import AesKeyWrapper, Envelope, open_envelope, seal
from bridge.keys.ports import WrappedKey

WRAPPER = AesKeyWrapper({"w-1": bytes(range(32))}, "w-1")


@given(plaintext=st.binary(max_size=2000), aad=st.binary(max_size=64))
def test_opens_to_what_was_sealed(plaintext, aad):
    """Opening is the inverse of sealing, whatever the message and its place."""
    assert open_envelope(seal(plaintext, aad, WRAPPER), aad, WRAPPER) == plaintext


@given(aad=st.binary(max_size=64), other=st.binary(max_size=64))
def test_does_not_open_elsewhere(aad, other):
    """An envelope that was moved to another row does not open there."""
    if aad == other:
        return
    envelope = seal(b"message", aad, WRAPPER)

    with pytest.raises(Incorrect) as caught:
        open_envelope(envelope, other, WRAPPER)

    assert caught.value.code == "envelope-not-authentic"


@pytest.mark.parametrize("field", ["wrapped_key", "nonce", "ciphertext"])
def test_any_altered_part_is_found(field):
    """One flipped bit in any part refuses to open."""
    envelope = seal(b"message", b"place", WRAPPER)
    parts = {name: getattr(envelope, name) for name in ("key_id", "wrapped_key", "nonce", "ciphertext")}
    for position in range(len(parts[field])):
        altered = bytearray(parts[field])
        altered[position] ^= 1

        with pytest.raises(Incorrect, match="not-authentic"):
            open_envelope(Envelope(**{**parts, field: bytes(altered)}), b"place", WRAPPER)


@pytest.mark.parametrize("length", [0, 7, 8, 11, 39, 41])
def test_cut_parts_are_refused_and_not_a_fault(length):
    """A part of the wrong length is refused like an altered one."""
    envelope = seal(b"", b"", WRAPPER)
    junk = os.urandom(length)

    with pytest.raises(Incorrect):
        open_envelope(Envelope("w-1", junk, envelope.nonce, envelope.ciphertext), b"", WRAPPER)
    with pytest.raises(Incorrect):
        open_envelope(Envelope("w-1", envelope.wrapped_key, junk[:7], envelope.ciphertext), b"", WRAPPER)
    with pytest.raises(Incorrect):
        open_envelope(Envelope("w-1", envelope.wrapped_key, envelope.nonce, junk), b"", WRAPPER)


def test_equal_messages_look_different():
    """Nothing repeats between two envelopes of the same message: key, nonce, ciphertext."""
    first, second = seal(b"message", b"", WRAPPER), seal(b"message", b"", WRAPPER)

    assert first.wrapped_key != second.wrapped_key
    assert first.nonce != second.nonce
    assert first.ciphertext != second.ciphertext


def test_after_rotation_new_messages_take_the_new_key_and_old_ones_still_open():
    """Rotation adds a key; what the old one sealed stays readable as long as it is kept."""
    old_key, new_key = os.urandom(32), os.urandom(32)
    old = seal(b"old", b"", AesKeyWrapper({"w-1": old_key}, "w-1"))
    rotated = AesKeyWrapper({"w-1": old_key, "w-2": new_key}, "w-2")

    assert seal(b"new", b"", rotated).key_id == "w-2"
    assert open_envelope(old, b"", rotated) == b"old"


def test_a_destroyed_wrapping_key_leaves_nothing_to_open():
    """Without the wrapping key the envelope stays shut, and the error says which key is wanted (it may be restored)."""
    envelope = seal(b"message", b"", WRAPPER)

    with pytest.raises(Unavailable, match="w-1") as caught:
        open_envelope(envelope, b"", AesKeyWrapper({"w-2": bytes(32)}, "w-2"))

    assert caught.value.code == "wrapping-key-unknown"


def test_nothing_of_an_envelope_prints():
    """Neither keys nor ciphertext reach a log by way of repr."""
    envelope = seal(b"message", b"", WRAPPER)

    assert repr(envelope) == "Envelope(key_id='w-1')"
    assert repr(WrappedKey("w-1", envelope.wrapped_key)) == "WrappedKey(key_id='w-1')"


def test_key_wrap_agrees_with_rfc_3394():
    """RFC 3394 section 4.6: 256 bits of key data with a 256-bit key encryption key."""
    wrapping_key = bytes.fromhex("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F")
    data_key = bytes.fromhex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F")

    wrapped = AesKeyWrapper({"w": wrapping_key}, "w").wrap(data_key).wrapped

    assert wrapped.hex().upper() == "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"


@pytest.mark.parametrize(("keys", "current"), [({"w": bytes(31)}, "w"), ({"w": bytes(32)}, "v"), ({}, "w")])
def test_unusable_wrapping_keys_are_refused_at_once(keys, current):
    """A wrapper that could not wrap is not built."""
    with pytest.raises(Incorrect) as caught:
        AesKeyWrapper(keys, current)

    assert caught.value.code == "key-set-invalid"
