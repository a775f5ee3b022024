"""The EVM backend: one contract holds heads and consent words; web3 speaks to a node.

State is read at a block's hash (EIP-1898), so that a reorganization between two calls never mixes two chains, and what a
submission wrote counts as final only when the contract's storage at the final block says so: a receipt alone settles nothing.

Limits: state is as true as the node that answers; a block is final by the configured policy. Submissions of one sender
take effect in the order of their nonces, so an unsent earlier one holds up later ones until it is sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

from bridge.config.adapters import AdapterSpec
from bridge.errors import Conflict, Forbidden, Incorrect, NotFound, Unavailable
from bridge.keys.ports import KeyProvider
from bridge.ledger.chain import (
    Anchor,
    AnchoredHead,
    BlockRef,
    Capabilities,
    ChainBackend,
    ChainEvidence,
    ConsentWord,
    ConsentWrite,
    Handle,
    LogId,
    Prepared,
    Root,
    SeenWord,
    Sight,
    SubmissionState,
    SubmissionStatus,
)

from .artifact import artifact
from .calls import head_stands, read_calls, word_stands
from .evidence import head_evidence
from .rpc import Refused, Rpc, at_block, block_ref, unhex
from .sender import Place, Sender, place_of
from .settings import EvmSettings
from .web3_family import Web3

_T = TypeVar("_T")

_POLL_SECONDS: Final = 0.2
_CHECK_SECONDS: Final = 60.0
_ATTEMPTS: Final = 3


def open_evm_chain(settings: EvmSettings, keys: KeyProvider) -> ChainBackend:  # noqa: ARG001 - senders' keys are secp256k1, by reference in the settings
    """Builds the backend; asks the node nothing before the first use.

    Raises:
        Incorrect: ``secret-missing``, ``chain-key-malformed``, ``chain-keys-alike``.
    """
    return EvmChain(settings)


class EvmChain:
    """:class:`bridge.ledger.chain.ChainBackend` and :class:`bridge.ledger.chain.Deployable` over one node."""

    def __init__(self, settings: EvmSettings) -> None:
        self._settings = settings
        self._rpc = Rpc(settings.url, settings.timeout_seconds)
        self._anchors = Sender(settings.anchor_key, settings.chain_id, settings.max_fee_gwei)
        self._consents = Sender(settings.consent_key, settings.chain_id, settings.max_fee_gwei)
        if self._anchors.address == self._consents.address:
            raise Incorrect(
                "chain-keys-alike",
                "anchors and consent words have the same sender",
                remedy="Give consent_key a key of its own, so that a stuck anchor delays no revocation.",
            )
        self._codec = Web3().eth.contract(abi=artifact().abi)
        self._checked: tuple[int, float] | None = None  # losses of the node then, and until when that holds

    def capabilities(self) -> Capabilities:
        """As the port says."""
        finality = {
            "immediate": "every block is final at once",
            "finalized": "a block is final when the chain's finalized tag has passed it",
            "confirmations": f"a block is final under {self._settings.confirmations} later blocks",
        }[self._settings.finality]
        return Capabilities(
            kind="evm",
            chain=f"eip155:{self._settings.chain_id}",
            finality=finality,
            may_reorganize=self._settings.finality != "immediate",
            anchor_writer=self._anchors.address,
            consent_writer=self._consents.address,
            own_chain=False,
        )

    def deploy(self) -> str:
        """As the port says; the anchor key pays. Answers the contract's address."""
        self._check_chain()
        prepared = self._anchors.sign(self._rpc, None, artifact().bytecode, ())
        self.send(prepared)
        deadline = time.monotonic() + self._settings.deploy_timeout_seconds
        while time.monotonic() < deadline:
            receipt = self._rpc.receipt("0x" + prepared.id.hex())
            if receipt is not None and int(receipt["status"], 16):
                return Web3.to_checksum_address(receipt["contractAddress"])
            time.sleep(_POLL_SECONDS)
        raise Unavailable(
            "contract-not-deployed",
            "the chain did not include the contract in time",
            remedy="Look at the sender's transactions before deploying again.",
        )

    def prepare_anchors(self, anchors: Sequence[Anchor], outstanding: Sequence[Prepared]) -> Prepared:
        """As the port says."""
        self._check()
        if not anchors:
            _refuse_empty()
        for anchor in anchors:
            stands = self.read_anchor(anchor.log)
            if stands and (stands.size > anchor.size or (stands.size == anchor.size and stands.root != anchor.root)):
                raise Conflict(
                    "anchor-not-above-head",
                    f"the chain's head of this log is above size {anchor.size}, or beside it",
                    remedy="Read the anchored head: another database may be signing this log.",
                )
        rows = [(anchor.log.value, anchor.size, anchor.root.value) for anchor in anchors]
        data = self._encode("anchor", *rows[0]) if len(rows) == 1 else self._encode("anchorAll", rows)
        return self._anchors.sign(self._rpc, self._contract(), data, outstanding)

    def prepare_consents(self, writes: Sequence[ConsentWrite], outstanding: Sequence[Prepared]) -> Prepared:
        """As the port says."""
        self._check()
        if not writes:
            _refuse_empty()
        data = self._encode("setConsents", [(write.handle.value, write.word.pack()) for write in writes])
        return self._consents.sign(self._rpc, self._contract(), data, outstanding)

    def send(self, prepared: Prepared) -> None:
        """As the port says."""
        self._check_chain()
        try:
            self._rpc.call("eth_sendRawTransaction", "0x" + prepared.raw.hex())
        except Refused:
            if self.status(prepared).state is SubmissionState.UNSEEN:
                raise Unavailable(
                    "chain-refused-submission",
                    "the node did not take a submission",
                    remedy="Check the sender's balance and the node's fee limits; it is sent again.",
                ) from None

    def status(self, prepared: Prepared) -> SubmissionStatus:
        """As the port says."""
        self._check_chain()
        place = place_of(prepared.raw)
        name = "0x" + prepared.id.hex()
        # The count is read first: a submission included in between is then found by its receipt, never taken for lost.
        counted, count = self._seen(Sight.LATEST, partial(self._count, place))
        receipt = self._rpc.receipt(name)
        if receipt is not None:
            block = self._rpc.block(receipt["blockNumber"])
            if block is not None and block["hash"] == receipt["blockHash"]:
                return self._included(place, block_ref(block), succeeded=bool(int(receipt["status"], 16)))
        if self._rpc.call("eth_getTransactionByHash", name) is not None:
            return SubmissionStatus(SubmissionState.PENDING)
        lost = count > place.nonce and self._stands(counted)  # else it was counted on a chain that is undone
        return SubmissionStatus(SubmissionState.LOST if lost else SubmissionState.UNSEEN)

    def _count(self, place: Place, block: dict[str, Any]) -> tuple[dict[str, Any], int]:
        return block, self._rpc.number("eth_getTransactionCount", "0x" + place.sender.hex(), at_block(block))

    def _included(self, place: Place, block: BlockRef, *, succeeded: bool) -> SubmissionStatus:
        if block.number > self.head(Sight.FINAL).number:
            return SubmissionStatus(SubmissionState.INCLUDED, block)
        if not succeeded or place.to != unhex(self._contract()):  # of another contract's: nothing was written to ours
            return SubmissionStatus(SubmissionState.REFUSED, block)
        if not self._seen(Sight.FINAL, partial(self._took_effect, place)):
            raise Unavailable(
                "chain-receipt-unconfirmed",
                "the node has a receipt for a submission, and the contract's storage does not hold what it wrote",
                remedy="Ask another node; nothing is settled until storage says so.",
            )
        return SubmissionStatus(SubmissionState.FINAL, block)

    def _took_effect(self, place: Place, block: dict[str, Any]) -> bool:
        """Whether everything that a submission wrote, or what has since overruled it, stands at ``block``."""
        anchors, writes = read_calls(self._codec, place.data)
        heads = (head_stands(each, *self._head_at(place.sender, each.log, block)) for each in anchors)
        words = (word_stands(each.word, self._word_at(place.sender, each.handle, block)) for each in writes)
        return all(heads) and all(words)

    def head(self, sight: Sight = Sight.LATEST) -> BlockRef:
        """As the port says."""
        self._check_chain()
        return block_ref(self._block(sight))

    def read_anchor(
        self, log: LogId, *, writer: bytes | None = None, sight: Sight = Sight.LATEST
    ) -> AnchoredHead | None:
        """As the port says; a writer is an address of 20 bytes."""
        self._check()
        author = writer or self._anchors.address

        def read(block: dict[str, Any]) -> AnchoredHead | None:
            size, root = self._head_at(author, log, block)
            return AnchoredHead(size, root, block_ref(block)) if size else None

        return self._seen(sight, read)

    def read_consent(self, handle: Handle, *, writer: bytes | None = None, sight: Sight = Sight.LATEST) -> SeenWord:
        """As the port says."""
        self._check()
        author = writer or self._consents.address
        return self._seen(sight, lambda block: SeenWord(self._word_at(author, handle, block), block_ref(block)))

    def evidence(self, log: LogId, *, writer: bytes | None = None, sight: Sight = Sight.FINAL) -> ChainEvidence:
        """As the port says."""
        self._check()
        author = writer or self._anchors.address

        def read(block: dict[str, Any]) -> ChainEvidence:
            size, root = self._head_at(author, log, block)
            if not size:
                number = int(block["number"], 16)
                raise NotFound("anchor-absent", f"nothing of this log is anchored in block {number} yet")
            body = head_evidence(
                self._rpc,
                chain_id=self._settings.chain_id,
                contract=self._contract(),
                writer=author,
                log=log,
                block=block,
            )
            return ChainEvidence("evm", AnchoredHead(size, root, block_ref(block)), body)

        return self._seen(sight, read)

    def close(self) -> None:
        """As the port says; the sessions end with their threads."""

    def _block(self, sight: Sight) -> dict[str, Any]:
        """The newest block of that sight; where nothing is final yet, the first one."""
        block = self._rpc.block("latest")
        if block is not None and sight is Sight.FINAL and self._settings.finality != "immediate":
            if self._settings.finality == "finalized":
                block = self._rpc.block("finalized") or self._rpc.block("earliest")
            else:
                number = int(block["number"], 16) - self._settings.confirmations
                block = self._rpc.block(hex(max(0, number)))
        if block is None:
            raise Unavailable("chain-unreachable", "the chain's node has no such block yet", remedy="Let it catch up.")
        return block

    def _seen(self, sight: Sight, read: Callable[[dict[str, Any]], _T]) -> _T:
        """What ``read`` finds at the newest block of that sight; asked anew if that block is undone meanwhile."""
        for _ in range(_ATTEMPTS):
            block = self._block(sight)
            try:
                return read(block)
            except Refused:
                if self._stands(block):
                    break
        raise Unavailable(
            "chain-state-missing",
            f"the node does not answer for its state at block {int(block['number'], 16)}",
            remedy="Let it catch up, or use a node that keeps state back to the final block.",
        )

    def _stands(self, block: dict[str, Any]) -> bool:
        """Whether the block is still of the node's chain."""
        now = self._rpc.block(block["number"])
        return now is not None and now["hash"] == block["hash"]

    def _head_at(self, writer: bytes, log: LogId, block: dict[str, Any]) -> tuple[int, Root]:
        answer = self._read("heads", writer, log.value, block)
        return int.from_bytes(answer[32:64], "big"), Root(answer[:32])

    def _word_at(self, writer: bytes, handle: Handle, block: dict[str, Any]) -> ConsentWord | None:
        return ConsentWord.unpack(self._read("words", writer, handle.value, block)[:32])

    def _read(self, function: str, writer: bytes, key: bytes, block: dict[str, Any]) -> bytes:
        data = self._encode(function, Web3.to_checksum_address("0x" + writer.hex()), key)
        call = {"to": self._contract(), "data": "0x" + data.hex()}
        answer = self._rpc.data("eth_call", call, at_block(block))
        return answer or bytes(64)  # before the contract was deployed nothing stood anywhere

    def _encode(self, function: str, *arguments: Any) -> bytes:
        return unhex(self._codec.encode_abi(function, args=list(arguments)))

    def _contract(self) -> str:
        if self._settings.contract is None:
            raise Incorrect(
                "contract-not-configured",
                "no contract address is configured for the chain",
                remedy="Deploy the contract and write its address to chain.contract.",
            )
        return Web3.to_checksum_address(self._settings.contract)

    def _check_chain(self) -> None:
        """Whether the node is of the configured chain and the contract is the one that the package ships.

        Asked at first, again whenever the node has failed to answer, since another may answer now, and each minute, since
        an address may change hands without that.
        """
        losses, now = self._rpc.losses, time.monotonic()
        if self._checked is not None and self._checked[0] == losses and now < self._checked[1]:
            return
        self._checked = None
        if self._rpc.number("eth_chainId") != self._settings.chain_id:
            raise Forbidden(
                "chain-mismatch",
                f"the node is not of chain {self._settings.chain_id}",
                remedy="Check chain.url and chain.chain_id.",
            )
        if self._settings.contract is None:
            return
        if self._rpc.data("eth_getCode", self._contract(), "latest") != artifact().runtime:
            raise Forbidden(
                "contract-code-mismatch",
                "the code at the configured address is not this version's contract",
                remedy="Check chain.contract; deploy the contract if the address is empty.",
            )
        self._checked = (losses, now + _CHECK_SECONDS)

    def _check(self) -> None:
        self._contract()
        self._check_chain()


def _refuse_empty() -> NoReturn:
    raise Incorrect("submission-empty", "a submission to a chain has at least one entry")


adapter = AdapterSpec("evm", EvmSettings, open_evm_chain)
