"""A real EVM node (anvil) and the Solidity compiler, from npm packages pinned by hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.services.process import (
    INSTALL,
    Server,
    ServiceUnavailable,
    cache,
    free_port,
    install_once,
    program,
    run,
    scratch,
)

CHAIN_ID = 31337
# anvil's accounts come from this published phrase; they hold test ether on this node only
PHRASE = "test test test test test test test test test test test junk"


class Anvil(Server):
    """A running node. ``url`` is its JSON-RPC address over HTTP, ``websocket_url`` over websockets."""

    def __init__(self, binary: Path, directory: Path, block_seconds: float | None, chain_id: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.websocket_url = f"ws://127.0.0.1:{self.port}"
        self.chain_id = chain_id
        # state is written every second too, so that kill -9 loses at most that: as a chain that reorganized
        state = ["--state", str(directory / "state.json"), "--state-interval", "1", "--preserve-historical-states"]
        mining = ["--block-time", str(block_seconds)] if block_seconds else []
        options = ["--silent", "--chain-id", str(chain_id), "--slots-in-an-epoch", "1", "--mnemonic", PHRASE]
        super().__init__(
            [str(binary), "--port", str(self.port), *options, *mining, *state],
            directory,
            lambda _: _serves(self.port),
        )

    def call(self, method: str, *parameters: object) -> object:
        """One JSON-RPC call (``anvil_reorg``, ``evm_mine`` and the like); answers its result.

        Raises:
            RuntimeError: the node answered an error.
        """
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = json.load(answer)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    def private_key(self, index: int = 0) -> str:
        """The private key (0x and 64 hex digits) of the node's funded account ``index``, 0 to 9."""
        from eth_account import Account

        Account.enable_unaudited_hdwallet_features()
        return Account.from_mnemonic(PHRASE, account_path=f"m/44'/60'/0'/0/{index}").key.to_0x_hex()


def ensure() -> Path:
    """Installs node and compiler into the cache once; answers the ``node_modules`` folder (``anvil``, ``solc``).

    Raises:
        ServiceUnavailable: npm is missing or the packages can't be fetched.
    """
    what = hashlib.sha256((INSTALL / "package-lock.json").read_bytes()).hexdigest()[:12]
    return install_once(cache() / f"evm-{what}", _install) / "node_modules"


@contextlib.contextmanager
def start(*, block_seconds: float | None = 1, chain_id: int = CHAIN_ID) -> Iterator[Anvil]:
    """A fresh chain for the length of the ``with``.

    Args:
        block_seconds: time between blocks; None mines a block for each transaction at once.
        chain_id: EIP-155 chain id.

    Raises:
        ServiceUnavailable: it can't be installed or does not start.
    """
    binaries = sorted(ensure().glob("@foundry-rs/anvil-*/bin/anvil"))
    if not binaries:
        raise ServiceUnavailable("the npm packages hold no anvil for this machine")
    with scratch("anvil") as directory:
        node = Anvil(binaries[0], directory, block_seconds, chain_id)
        try:
            node.start()
            yield node
        finally:
            node.stop()


def _install(fresh: Path) -> None:
    npm = program("npm", "Node.js installs the EVM node")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(INSTALL / name, fresh / name)
    run([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=fresh)


def _serves(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
