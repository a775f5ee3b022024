"""JSON-RPC to one node: answers as the node gives them, failures as our categories."""

from __future__ import annotations

from typing import Any

from requests import RequestException

from bridge.errors import Unavailable
from bridge.ledger.chain import BlockRef

from .web3_family import HTTPProvider, RPCEndpoint, Web3Exception


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
            Unavailable: ``chain-unreachable``; no answer, or none that is JSON-RPC.
        """
        try:
            response = self._provider.make_request(RPCEndpoint(method), parameters)
        except (RequestException, Web3Exception, ValueError, OSError) as error:
            self.losses += 1
            raise Unavailable(
                "chain-unreachable",
                f"the chain's node did not answer {method}: {type(error).__name__}",
                remedy="Check that the node runs and that chain.url is its JSON-RPC address.",
            ) from None
        if "error" in response:
            raise Refused(method)
        return response.get("result")

    def number(self, method: str, *parameters: Any) -> int:
        """The result of a call that answers a quantity; raises as :meth:`call`."""
        return int(self.call(method, *parameters), 16)

    def block(self, which: str) -> dict[str, Any] | None:
        """A block's header by tag (``latest``), number or hash (both ``0x…``); None when the node has no such block."""
        method = "eth_getBlockByHash" if len(which) == 66 else "eth_getBlockByNumber"
        try:
            found: dict[str, Any] | None = self.call(method, which, False)
        except Refused:  # some nodes refuse a tag that points nowhere yet
            return None
        return found


def block_ref(block: dict[str, Any]) -> BlockRef:
    """Number, hash and claimed time of a block."""
    return BlockRef(int(block["number"], 16), unhex(block["hash"]), int(block["timestamp"], 16) * 1_000_000)


def at_block(block: dict[str, Any]) -> dict[str, Any]:
    """A block as the parameter of a question about its state: by hash, and refused once it is undone. Source: EIP-1898."""
    return {"blockHash": block["hash"], "requireCanonical": True}


def unhex(text: str) -> bytes:
    """The bytes of ``0x…``."""
    return bytes.fromhex(text.removeprefix("0x"))
