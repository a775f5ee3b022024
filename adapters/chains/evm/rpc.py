"""JSON-RPC to one node: answers as the node gives them, failures as our categories."""

from __future__ import annotations

import re
from typing import Any, Final

from requests import RequestException

from bridge.errors import Unavailable
from bridge.ledger.chain import BlockRef

from .web3_family import HTTPProvider, RPCEndpoint, Web3Exception

_HEX: Final = re.compile("0x[0-9a-fA-F]+")


class Refused(Unavailable):
    """The node answered that it will not. Its text is not kept: what it means is read from chain state."""

    def __init__(self, method: str) -> None:
        super().__init__(
            "chain-call-refused",
            f"the chain's node refused {method}",
            remedy="Check that the node serves the eth calls and keeps state back to the final block.",
        )


class Rpc:
    """One node. Thread-safe: the provider keeps a session per thread.

    Attributes:
        losses: how often it gave no answer; whatever answers afterwards may be another node.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.losses = 0
        self._provider = HTTPProvider(
            url, request_kwargs={"timeout": timeout_seconds}, exception_retry_configuration=None
        )

    def call(self, method: str, *parameters: Any) -> Any:
        """The result of one call.

        Raises:
            Refused: the node answered an error.
            Unavailable: ``chain-unreachable``, no answer; ``chain-answer-malformed``, none that is JSON-RPC.
        """
        try:
            response: Any = self._provider.make_request(RPCEndpoint(method), parameters)
        except (RequestException, Web3Exception, ValueError, OSError) as error:
            self.losses += 1
            raise Unavailable(
                "chain-unreachable",
                f"the chain's node did not answer {method}: {type(error).__name__}",
                remedy="Check that the node runs and that chain.url is its JSON-RPC address.",
            ) from None
        if not isinstance(response, dict):
            raise self._malformed(method)
        if response.get("error") is not None:  # some answer null beside a result
            raise Refused(method)
        return response.get("result")

    def number(self, method: str, *parameters: Any) -> int:
        """The result of a call that answers a quantity; raises as :meth:`call`."""
        answer = self.call(method, *parameters)
        if not _is_hex(answer):
            raise self._malformed(method)
        return int(answer, 16)

    def data(self, method: str, *parameters: Any) -> bytes:
        """The result of a call that answers bytes; raises as :meth:`call`."""
        answer = self.call(method, *parameters)
        if answer != "0x" and (not _is_hex(answer) or len(answer) % 2):
            raise self._malformed(method)
        return unhex(answer)

    def block(self, which: str) -> dict[str, Any] | None:
        """A block's header by tag (``latest``), number or hash (both ``0x…``); None when the node has no such block."""
        method = "eth_getBlockByHash" if len(which) == 66 else "eth_getBlockByNumber"
        try:
            found = self.call(method, which, False)
        except Refused:  # some nodes refuse a tag that points nowhere yet
            return None
        return self._members(method, found, "number", "hash", "timestamp")

    def receipt(self, transaction: str) -> dict[str, Any] | None:
        """The receipt of a transaction (``0x…``); None where it stands in no block, as far as the node knows."""
        method = "eth_getTransactionReceipt"
        found = self.call(method, transaction)
        if isinstance(found, dict) and found.get("blockNumber", "") is None:
            return None  # some nodes have one, without a block, for what is not included yet
        return self._members(method, found, "blockNumber", "blockHash", "status")

    def _members(self, method: str, found: Any, *needed: str) -> dict[str, Any] | None:
        if found is None:
            return None
        if not isinstance(found, dict) or not all(_is_hex(found.get(name)) for name in needed):
            raise self._malformed(method)
        return found

    def _malformed(self, method: str) -> Unavailable:
        self.losses += 1
        return Unavailable(
            "chain-answer-malformed",
            f"the chain's node, or what stands before it, answered {method} with something else",
            remedy="Check that chain.url is the JSON-RPC address of a node.",
        )


def _is_hex(answer: Any) -> bool:
    return isinstance(answer, str) and _HEX.fullmatch(answer) is not None


def block_ref(block: dict[str, Any]) -> BlockRef:
    """Number, hash and claimed time of a block."""
    return BlockRef(int(block["number"], 16), unhex(block["hash"]), int(block["timestamp"], 16) * 1_000_000)


def at_block(block: dict[str, Any]) -> dict[str, Any]:
    """A block as the parameter of a question about its state: by hash, and refused once it is undone. Source: EIP-1898."""
    return {"blockHash": block["hash"], "requireCanonical": True}


def unhex(text: str) -> bytes:
    """The bytes of ``0x…``."""
    return bytes.fromhex(text.removeprefix("0x"))
