"""Checks the blocks of an operator's own chain, one by one; see :mod:`adapters.chains.local` for their form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

from bridge.ledger.chain import BlockRef, ChainFault

DOMAIN: Final = b"hie-bridge/local-block/v1\x00"

Entries = dict[str, dict[bytes, tuple[Any, ...]]]


def audit_block(block: BlockRef, body: bytes, previous: BlockRef | None, *, genuine: bool) -> Iterator[ChainFault]:
    """What is wrong with one block.

    Args:
        block: the columns beside its bytes.
        body: its bytes.
        previous: the block before; None for the first.
        genuine: whether its signature is that of the chain's key.
    """
    place = f"block {block.number}"
    number = previous.number + 1 if previous else 0
    if block.number != number:
        yield ChainFault("block-missing", f"blocks {number} to {block.number - 1} are not there", place)
    if not genuine:
        yield ChainFault("block-not-signed", "its signature is not that of the chain's key", place)
    if sha256(DOMAIN + body).digest() != block.hash:
        yield ChainFault("block-hash-differs", "the stored hash is not that of its bytes", place)
    try:
        said = json.loads(body)
        columns = (said["number"], said["time_us"])
        linked = bytes.fromhex(said["previous"]) == (previous.hash if previous else bytes(32))
        written_by(body)
    except (ValueError, KeyError, TypeError, AttributeError):
        yield ChainFault("block-malformed", "its bytes are no block", place)
        return
    if columns != (block.number, block.time_us):
        yield ChainFault("block-differs", "number or time is not that of its bytes", place)
    if not linked:
        yield ChainFault("block-not-linked", "it does not name the hash of the block before it", place)
    if previous is not None and block.time_us < previous.time_us:
        yield ChainFault("block-earlier", "it is older than the block before it", place)


def written_by(body: bytes) -> Entries:
    """What a block wrote to the state: by table, by log or handle, the values; of two the later. Empty if it is no block."""
    found: Entries = {"anchored": {}, "consent": {}}
    try:
        for entry in json.loads(body)["entries"]:
            if "anchor" in entry:
                value = entry["anchor"]
                found["anchored"][bytes.fromhex(value["log"])] = (value["size"], bytes.fromhex(value["root"]))
            else:
                value = entry["consent"]
                found["consent"][bytes.fromhex(value["handle"])] = (bytes.fromhex(value["word"]),)
    except (ValueError, KeyError, TypeError):
        return {"anchored": {}, "consent": {}}
    return found
