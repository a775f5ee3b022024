"""The proof bundle: one file that shows, to whoever holds a trust policy, that something was logged and not changed.

Format: ``docs/reference/proof-bundle.md``. It carries a C2SP tlog-proof, so foreign tools check its first half.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.errors import BridgeError, Incorrect
from bridge.ledger.chain import ChainEvidence
from bridge.ledger.checkpoint import Checkpoint
from bridge.ledger.commitment import Context
from bridge.ledger.encoding import base64_decode, base64_encode
from bridge.ledger.merkle import HASH_SIZE, TreeHead, TreeReader
from bridge.ledger.note import parse_note
from bridge.ledger.strict_json import StrictObject, parse_json

FORMAT: Final = "hie-bridge-proof/v1"
_TLOG_PROOF: Final = "c2sp.org/tlog-proof@v1"
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,18})", re.ASCII)
_MAX_PATH: Final = 63


@dataclass(frozen=True, slots=True)
class Opening:
    """What a leaf commits to: the stored ``content`` bytes, their context, and the salt (32 bytes).

    It confirms the content to whoever sees it; the keys that the salt was derived from are not part of it.
    """

    content: bytes = field(repr=False)
    context: Context
    salt: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogProof:
    """A leaf's inclusion under a signed checkpoint: C2SP tlog-proof."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: str

    def encode(self) -> str:
        """The text form."""
        lines = [_TLOG_PROOF, f"index {self.index}", *map(base64_encode, self.path), "", self.checkpoint]
        return "\n".join(lines)

    @classmethod
    def parse(cls, text: str) -> LogProof:
        """Reads the text form; extra data is refused, since nothing would check it.

        Raises:
            Incorrect: ``tlog-proof-malformed``.
        """
        head, separator, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        match = _INDEX.fullmatch(lines[1]) if len(lines) > 1 else None
        path = [base64_decode(line) for line in lines[2:]]
        hashes = tuple(value for value in path if value is not None and len(value) == HASH_SIZE)
        if (
            not separator
            or lines[0] != _TLOG_PROOF
            or match is None
            or len(hashes) != len(path)
            or len(path) > _MAX_PATH
        ):
            raise Incorrect("tlog-proof-malformed", "the inclusion proof is no C2SP tlog-proof")
        return cls(int(match[1]), hashes, checkpoint)


@dataclass(frozen=True, slots=True)
class AnchorProof:
    """That a chain countersigned a head of the same log.

    Attributes:
        head: the anchored head.
        consistency: RFC 6962 proof between it and the checkpoint's head, from the smaller to the larger.
        kind: which check of chain evidence applies.
        evidence: what that check reads.
    """

    head: TreeHead
    consistency: tuple[bytes, ...]
    kind: str
    evidence: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProofBundle:
    """A parsed, not yet verified proof. ``leaf`` is the leaf data (33 bytes); without opening the proof is closed."""

    leaf: bytes
    log_proof: LogProof
    opening: Opening | None = None
    anchors: tuple[AnchorProof, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document as :func:`parse_bundle` reads it."""
        document: dict[str, Any] = {"format": FORMAT, "leaf": base64_encode(self.leaf)}
        if self.opening is not None:
            document["opening"] = {
                "content": base64_encode(self.opening.content),
                "context": self.opening.context.to_json(),
                "salt": base64_encode(self.opening.salt),
            }
        document["tlog_proof"] = self.log_proof.encode()
        document["anchors"] = [
            {
                "size": anchor.head.size,
                "root": base64_encode(anchor.head.root),
                "consistency": list(map(base64_encode, anchor.consistency)),
                "kind": anchor.kind,
                "evidence": dict(anchor.evidence),
            }
            for anchor in self.anchors
        ]
        return document

    def encode(self) -> str:
        """The file's content."""
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"


def build_bundle(
    reader: TreeReader,
    *,
    leaf: bytes,
    index: int,
    checkpoint: str,
    opening: Opening | None,
    anchored: Sequence[tuple[TreeHead, ChainEvidence]] = (),
) -> ProofBundle:
    """Makes the proof of leaf number ``index`` (leaf data ``leaf``) under a signed checkpoint.

    Anchored heads that do not cover the leaf are left out. ``reader`` must reach the largest head that is named.

    Raises:
        Incorrect: ``log-range``; the checkpoint does not cover the leaf yet. ``note-malformed``,
            ``checkpoint-malformed``.
    """
    size = Checkpoint.parse(parse_note(checkpoint).text).head.size
    proof = LogProof(index, tuple(reader.inclusion(index, size)), checkpoint)
    anchors = tuple(
        AnchorProof(
            head,
            tuple(reader.consistency(min(head.size, size), max(head.size, size))),
            evidence.kind,
            evidence.body,
        )
        for head, evidence in anchored
        if head.size > index
    )
    return ProofBundle(leaf, proof, opening, anchors)


def parse_bundle(text: str | bytes) -> ProofBundle:
    """Reads a proof file, strictly: nothing in it is left unread.

    Raises:
        Incorrect: ``proof-malformed``, with the place in the document.
    """
    try:
        top = StrictObject.of(parse_json(text), "proof")
        if top.text("format") != FORMAT:
            raise _malformed(f"format is not {FORMAT}; a newer version of this program may read it")
        leaf = top.base64("leaf")
        opening = _opening(top.object("opening")) if top.has("opening") else None
        log_proof = LogProof.parse(top.text("tlog_proof"))
        anchors = tuple(
            _anchor(StrictObject.of(item, f"anchors[{at}]")) for at, item in enumerate(top.array("anchors", 16))
        )
        top.finish()
    except BridgeError as error:
        if error.code == "proof-malformed":
            raise
        raise _malformed(error.message) from None
    return ProofBundle(leaf, log_proof, opening, anchors)


def _opening(item: StrictObject) -> Opening:
    opening = Opening(item.base64("content"), Context.from_json(item.raw("context")), item.base64("salt"))
    item.finish()
    return opening


def _anchor(item: StrictObject) -> AnchorProof:
    head = TreeHead(item.integer("size"), item.base64("root"))
    anchor = AnchorProof(
        head, tuple(item.base64_array("consistency", 2 * _MAX_PATH)), item.text("kind"), item.raw("evidence")
    )
    item.finish()
    return anchor


def _malformed(why: str) -> Incorrect:
    return Incorrect("proof-malformed", f"the proof is malformed: {why}", remedy="Ask for the proof again.")
