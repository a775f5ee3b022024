"""Checkpoints: the signed head of a log as a three-line note.

Source: C2SP tlog-checkpoint. The checkpoint has no time of its own; when it existed is said by someone else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bridge.errors import Forbidden, Incorrect
from bridge.keys.ports import Signer
from bridge.ledger.commitment import check_origin
from bridge.ledger.encoding import base64_decode, base64_encode
from bridge.ledger.merkle import HASH_SIZE, MAX_SIZE, TreeHead
from bridge.ledger.note import VerifierKey, open_note, sign_note

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of the log named ``origin``. ``extensions`` are further lines by other logs; ours have none."""

    origin: str
    head: TreeHead
    extensions: tuple[str, ...] = ()

    def encode(self) -> str:
        """The note text: origin, size in decimal, root in base64, extensions; each line ended by a newline.

        Raises:
            Incorrect: ``origin-malformed``.
        """
        check_origin(self.origin)
        return "".join(
            f"{line}\n" for line in (self.origin, self.head.size, base64_encode(self.head.root), *self.extensions)
        )

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Reads the note text of a checkpoint, strictly.

        Raises:
            Incorrect: ``checkpoint-malformed``.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or not all(lines):
            raise _malformed("it has fewer than three lines or an empty one")
        root = base64_decode(lines[2])
        if not _SIZE.fullmatch(lines[1]) or int(lines[1]) > MAX_SIZE:
            raise _malformed("its size is no decimal number")
        if root is None or len(root) != HASH_SIZE:
            raise _malformed("its root is not 32 bytes in base64")
        return cls(lines[0], TreeHead(int(lines[1]), root), tuple(lines[3:]))


def sign_checkpoint(origin: str, head: TreeHead, signer: Signer) -> str:
    """The signed note for ``head``; the signer's name must be the origin.

    Raises:
        Incorrect: ``origin-malformed``, ``signer-not-origin``, ``signer-not-ed25519``.
    """
    if signer.name != origin:
        raise Incorrect("signer-not-origin", "the log key's name is not the origin of the log", remedy="Name it alike.")
    return sign_note(Checkpoint(origin, head).encode(), signer)


def open_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """The checkpoint in a note that ``key``, whose name is the log's origin, has signed.

    Raises:
        Incorrect: ``note-malformed``, ``checkpoint-malformed``.
        Forbidden: ``note-not-signed``, ``note-signature-invalid``, ``checkpoint-of-another-log``.
    """
    text, _ = open_note(note, [key])
    checkpoint = Checkpoint.parse(text)
    if checkpoint.origin != key.name:
        raise Forbidden("checkpoint-of-another-log", "the checkpoint's origin is not the one that the key signs for")
    return checkpoint


def _malformed(why: str) -> Incorrect:
    return Incorrect("checkpoint-malformed", f"the checkpoint is malformed: {why}")
