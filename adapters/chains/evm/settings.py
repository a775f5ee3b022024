"""Settings of the EVM backend."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bridge.config.secrets import SecretRef


class EvmSettings(BaseModel):
    """An Ethereum-class chain (Ethereum, Besu, Quorum, a development node) reached by JSON-RPC over HTTP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        pattern=r"^https?://", description="JSON-RPC address of the node.", examples=["http://127.0.0.1:8545"]
    )
    chain_id: int = Field(gt=0, description="EIP-155 chain id; a node of another chain is refused.", examples=[31337])
    contract: str | None = Field(
        default=None,
        pattern=r"^0x[0-9a-fA-F]{40}$",
        description="Address of the deployed contract; absent only until it is deployed.",
        examples=["0x5FbDB2315678afecb367f032d93F642f64180aa3"],
    )
    anchor_key: SecretRef = Field(description="Private key (64 hex digits) that sends anchors.")
    consent_key: SecretRef = Field(
        description="Private key that sends consent words; one of its own, so that a stuck anchor delays no revocation."
    )
    finality: Literal["immediate", "finalized", "confirmations"] = Field(
        default="finalized",
        description="When a block counts as final: at once, by the node's finalized tag, or under enough later blocks.",
    )
    confirmations: int = Field(default=12, gt=0, description="Later blocks needed where finality is confirmations.")
    max_fee_gwei: int = Field(default=500, gt=0, description="Submissions wait while a unit of gas costs more.")
    timeout_seconds: float = Field(default=10, gt=0, description="Longest wait for one answer of the node.")
    deploy_timeout_seconds: float = Field(default=180, gt=0, description="Longest wait for the contract's deployment.")

    @model_validator(mode="after")
    def _separate_senders(self) -> Self:
        if self.anchor_key == self.consent_key:
            msg = "anchor_key and consent_key must be two keys"
            raise ValueError(msg)
        return self
