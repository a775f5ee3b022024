"""What a submission's call data asks the contract to write, and whether storage shows that it did."""

from __future__ import annotations

from typing import Any

from bridge.errors import Incorrect
from bridge.ledger.chain import Anchor, ConsentStatus, ConsentWord, ConsentWrite, Handle, LogId, Root


def read_calls(codec: Any, data: bytes) -> tuple[list[Anchor], list[ConsentWrite]]:
    """The heads and words that the call data of a submission writes.

    Args:
        codec: the contract's ABI, as web3's contract class.
        data: function selector and arguments.

    Raises:
        Incorrect: ``submission-malformed``.
    """
    try:
        function, given = codec.decode_function_input(data)
        if function.fn_name == "setConsents":
            return [], [_write(row) for row in given["writes"]]
        rows = given["anchors"] if function.fn_name == "anchorAll" else [given]
        return [Anchor(LogId(row["log"]), row["size"], Root(row["root"])) for row in rows], []
    except Exception as error:  # noqa: BLE001 - the decoders raise many kinds; all mean the same here
        raise Incorrect(
            "submission-malformed", f"the persisted bytes call nothing of the contract: {type(error).__name__}"
        ) from None


def head_stands(anchor: Anchor, size: int, root: Root) -> bool:
    """Whether a log's head in storage is the anchored one, or a later one: sizes never fall."""
    return size > anchor.size or (size == anchor.size and root == anchor.root)


def word_stands(word: ConsentWord, stored: ConsentWord | None) -> bool:
    """Whether a slot holds the word, or one that overrules it: a revocation, or for a grant one that is not older."""
    if stored is None:
        return False
    if stored.status is ConsentStatus.REVOKED or stored == word:
        return True
    return word.status is ConsentStatus.GRANTED and stored.version >= word.version


def _write(row: dict[str, bytes]) -> ConsentWrite:
    word = ConsentWord.unpack(row["word"])
    if word is None:
        raise ValueError(row["handle"])
    return ConsentWrite(Handle(row["handle"]), word)
