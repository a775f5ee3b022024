"""How the contract suite reaches each registered chain backend."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapters.chains.evm.backend import EvmChain
from adapters.chains.evm.settings import EvmSettings
from adapters.chains.local import LocalChain
from bridge.keys.ed25519 import Ed25519Signer
from bridge.ledger.chain import ChainBackend
from tests.services.anvil import Anvil

LOCAL_SIGNER = Ed25519Signer("example.org/chain", bytes(range(32)))


@dataclass
class Harness:
    """A chain for one test.

    Attributes:
        open: another instance on the same chain, as another process would have it.
        settle: waits until what was sent is final.
    """

    open: Callable[[], ChainBackend]
    settle: Callable[[], None]


def local_harness(folder: Path) -> Harness:
    """A chain file of the test's own."""
    return Harness(lambda: LocalChain(folder / "chain.sqlite", LOCAL_SIGNER), lambda: None)


def evm_settings(node: Anvil, folder: Path, **changes: object) -> EvmSettings:
    """Settings with two fresh, funded senders."""
    keys = {}
    for name in ("anchor", "consent"):
        secret = secrets.token_bytes(32)
        (folder / f"{name}.key").write_text(secret.hex(), "ascii")
        keys[f"{name}_key"] = {"file": str(folder / f"{name}.key")}
    settings = EvmSettings.model_validate({"url": node.url, "chain_id": node.chain_id, **keys} | changes)
    for sender in (EvmChain(settings).capabilities().anchor_writer, EvmChain(settings).capabilities().consent_writer):
        node.call("anvil_setBalance", "0x" + sender.hex(), hex(10**20))
    return settings


def deploy(node: Anvil, folder: Path) -> str:
    """A contract on the node; answers its address."""
    folder.mkdir(exist_ok=True)
    return EvmChain(evm_settings(node, folder)).deploy()


def evm_harness(node: Anvil, folder: Path, contract: str, **changes: object) -> Harness:
    """The node, with senders of the test's own, so that tests don't see one another's heads and words."""
    settings = evm_settings(node, folder, contract=contract, **changes)
    return Harness(lambda: EvmChain(settings), lambda: node.call("anvil_mine", "0x5"))
