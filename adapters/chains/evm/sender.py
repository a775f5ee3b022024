"""Accounts that sign transactions, and what a signed transaction says about itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from bridge.config.secrets import SecretRef
from bridge.errors import Busy, Incorrect, Unavailable
from bridge.ledger.chain import Prepared

from .rpc import Refused, Rpc
from .web3_family import Account, LocalAccount, keccak, rlp

GWEI: Final = 1_000_000_000
_LEAST_GAS: Final = 21_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a transaction stands in its sender's order, and what it calls: an account has one transaction per nonce."""

    sender: bytes
    nonce: int
    to: bytes
    data: bytes


def place_of(raw: bytes) -> Place:
    """What signed transaction bytes say. Source: EIP-1559; for others EIP-155.

    Raises:
        Incorrect: ``submission-malformed``.
    """
    try:
        if raw[0] == 2:
            _chain, nonce, _tip, _fee, _gas, to, _value, data, *_ = rlp.decode(raw[1:])
        else:
            nonce, _price, _gas, to, _value, data, *_ = rlp.decode(raw)
        sender = bytes.fromhex(Account.recover_transaction(raw).removeprefix("0x"))
    except Exception as error:  # noqa: BLE001 - the decoders raise many kinds; all mean the same here
        raise Incorrect(
            "submission-malformed", f"the persisted bytes are no signed transaction: {type(error).__name__}"
        ) from None
    return Place(sender, int.from_bytes(nonce, "big"), to, data)


class Sender:
    """Signs calls with one key; stateless beside it, so that what is persisted stays the only memory."""

    def __init__(self, key: SecretRef, chain_id: int, max_fee_gwei: int) -> None:
        self._account = _account(key)
        self._chain_id = chain_id
        self._max_fee = max_fee_gwei * GWEI
        self.address = bytes.fromhex(self._account.address.removeprefix("0x"))

    def sign(self, rpc: Rpc, to: str | None, data: bytes, outstanding: Iterable[Prepared]) -> Prepared:
        """A signed transaction at the lowest nonce that neither the chain nor ``outstanding`` has taken.

        Raises:
            Busy: ``chain-fee-above-limit``.
            Unavailable: ``chain-unreachable``, ``chain-balance-low``, ``chain-estimate-refused``.
        """
        call: dict[str, Any] = {"from": self._account.address, "data": "0x" + data.hex()}
        if to is not None:
            call["to"] = to
        fees, most = self._fees(rpc)
        try:
            estimate = rpc.number("eth_estimateGas", call)
        except Refused:
            self._check_balance(rpc, most * _LEAST_GAS)
            raise Unavailable(
                "chain-estimate-refused",
                "the node could not estimate the submission",
                remedy="Compare the chain's state with what is being written, then retry.",
            ) from None
        gas = estimate * 5 // 4 + 10_000  # state may change before inclusion: a first write costs more than a later one
        self._check_balance(rpc, most * gas)
        transaction: dict[str, Any] = {
            "chainId": self._chain_id,
            "nonce": self._nonce(rpc, outstanding),
            "gas": gas,
            "value": 0,
            "data": data,
            **fees,
        }
        if to is not None:
            transaction["to"] = to
        raw = bytes(self._account.sign_transaction(transaction).raw_transaction)
        return Prepared(keccak(raw), raw)

    def _nonce(self, rpc: Rpc, outstanding: Iterable[Prepared]) -> int:
        places = [place_of(prepared.raw) for prepared in outstanding]
        taken = {place.nonce for place in places if place.sender == self.address}
        nonce = rpc.number("eth_getTransactionCount", self._account.address, "latest")
        while nonce in taken:
            nonce += 1
        return nonce

    def _fees(self, rpc: Rpc) -> tuple[dict[str, int], int]:
        """The transaction's fee fields, and the most that a unit of gas can cost under them, in wei."""
        block = rpc.block("latest")
        if block is None:
            raise Unavailable(
                "chain-unreachable", "the chain's node has no latest block yet", remedy="Let it catch up."
            )
        if block.get("baseFeePerGas") is not None:
            try:
                tip = rpc.number("eth_maxPriorityFeePerGas")
            except Refused:
                tip = GWEI
            most = 2 * int(block["baseFeePerGas"], 16) + tip  # holds through six full blocks of rising base fee
            fees = {"type": 2, "maxFeePerGas": most, "maxPriorityFeePerGas": tip}
        else:
            most = rpc.number("eth_gasPrice")
            fees = {"gasPrice": most}
        if most > self._max_fee:
            raise Busy(
                "chain-fee-above-limit",
                f"gas costs up to {most // GWEI} gwei, above the configured limit",
                remedy="Wait, or raise chain.max_fee_gwei.",
            )
        return fees, most

    def _check_balance(self, rpc: Rpc, cost: int) -> None:
        if rpc.number("eth_getBalance", self._account.address, "latest") < cost:
            raise Unavailable(
                "chain-balance-low",
                f"the sender {self._account.address} can't pay for its next submission",
                remedy="Send it funds.",
            )


def _account(key: SecretRef) -> LocalAccount:
    secret = key.resolve().strip().removeprefix("0x")
    try:
        account: LocalAccount = Account.from_key(bytes.fromhex(secret))
    except Exception:  # noqa: BLE001 - whatever the library says could quote the key
        raise Incorrect(
            "chain-key-malformed",
            "a chain key is no private key of 64 hex digits",
            remedy="Check what anchor_key and consent_key refer to.",
        ) from None
    return account
