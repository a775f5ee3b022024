"""Signed notes: text with Ed25519 signature lines, readable and verifiable by other implementations.

Source: C2SP signed-note (c2sp.org/signed-note), signature type 0x01.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bridge.errors import Forbidden, Incorrect
from bridge.keys.ports import Signer
from bridge.ledger.commitment import check_origin
from bridge.ledger.encoding import base64_decode, base64_encode

ED25519: Final = 0x01
MAX_NOTE_CHARACTERS: Final = 1_000_000
MAX_SIGNATURES: Final = 64
_SIGNATURE_START: Final = "\u2014 "
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_VKEY: Final = re.compile(r"([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key that notes are checked with: ``name`` and 32 bytes of Ed25519."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """SHA-256(name ‖ LF ‖ 0x01 ‖ public key)[:4]."""
        return sha256(self.name.encode() + b"\n" + bytes([ED25519]) + self.public_key).digest()[:4]

    def encode(self) -> str:
        """The text form ``name+hash+key`` that other implementations read."""
        return f"{self.name}+{self.key_id.hex()}+{base64_encode(bytes([ED25519]) + self.public_key)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Reads ``name+hash+key``.

        Raises:
            Incorrect: ``verifier-key-malformed``; also for other signature types, since nothing else is trusted here.
        """
        match = _VKEY.fullmatch(text)
        if match:
            encoded = base64_decode(match[3])
            if encoded is not None and len(encoded) == 33 and encoded[0] == ED25519:
                key = cls(match[1], encoded[1:])
                if key.key_id.hex() == match[2]:
                    return key
        raise Incorrect(
            "verifier-key-malformed",
            "the text is no Ed25519 verifier key of the form name+hash+key",
            remedy="Copy the key again from the operator of the log.",
        )

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` (64 bytes) is this key's over ``message``. RFC 8032."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who, which key, and the signature bytes."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed, not yet verified note. ``text`` ends with a newline; it means nothing before :func:`open_note`."""

    text: str
    signatures: tuple[NoteSignature, ...]


def sign_note(text: str, signer: Signer) -> str:
    """The note ``text`` (ending in a newline) with one signature line by ``signer``.

    Raises:
        Incorrect: ``note-malformed``; the text can't be a note. ``signer-not-ed25519``.
    """
    if not text.endswith("\n") or _CONTROL.search(text):
        raise _malformed("the text does not end in a newline or holds control characters")
    if signer.algorithm != "ed25519":
        raise Incorrect("signer-not-ed25519", f"notes are signed with ed25519, the key is {signer.algorithm}")
    check_origin(signer.name)
    key = VerifierKey(signer.name, signer.public_key())
    signature = signer.sign(text.encode())
    return f"{text}\n{_SIGNATURE_START}{key.name} {base64_encode(key.key_id + signature)}\n"


def parse_note(note: str) -> Note:
    """Splits a note into text and signatures, strictly.

    Raises:
        Incorrect: ``note-malformed``.
    """
    if len(note) > MAX_NOTE_CHARACTERS:
        raise _malformed("it is too long")
    if _CONTROL.search(note):
        raise _malformed("it holds control characters")
    text, separator, lines = note.rpartition("\n\n")
    if not separator or not lines.endswith("\n"):
        raise _malformed("it has no signature lines")
    signatures = tuple(map(_parse_signature, lines[:-1].split("\n")))
    if len(signatures) > MAX_SIGNATURES:
        raise _malformed("it has too many signatures")
    return Note(text + "\n", signatures)


def _parse_signature(line: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
    value = base64_decode(encoded)
    if not line.startswith(_SIGNATURE_START) or not name or "+" in name or value is None or len(value) < 5:
        raise _malformed("a signature line is malformed")
    return NoteSignature(name, value[:4], value[4:])


def open_note(note: str, keys: Iterable[VerifierKey]) -> tuple[str, tuple[VerifierKey, ...]]:
    """The text of a note and the trusted keys that signed it, in the note's order.

    Signatures of unknown keys are ignored; one of a known key that does not verify refuses the whole note.

    Raises:
        Incorrect: ``note-malformed``.
        Forbidden: ``note-signature-invalid``, ``note-not-signed`` (by no key in ``keys``).
    """
    parsed = parse_note(note)
    known = {(key.name, key.key_id): key for key in keys}
    message = parsed.text.encode()
    signed: list[VerifierKey] = []
    for line in parsed.signatures:
        key = known.get((line.name, line.key_id))
        if key is None:
            continue
        if not key.verify(message, line.signature):
            raise Forbidden(
                "note-signature-invalid", "a signature by a trusted key does not verify: the text was altered"
            )
        if key not in signed:
            signed.append(key)
    if not signed:
        raise Forbidden(
            "note-not-signed",
            "no trusted key has signed the note",
            remedy="Check origin and key in the policy against what the operator of the log publishes.",
        )
    return parsed.text, tuple(signed)


def _malformed(why: str) -> Incorrect:
    return Incorrect("note-malformed", f"the signed note is malformed: {why}")
