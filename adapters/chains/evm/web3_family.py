"""web3 and its relatives, imported without what they do to the process.

One of them raises the interpreter's recursion limit to 100,000 when imported, for a curve that is not used here. With that
limit, deeply nested input overflows the C stack and kills the process where a RecursionError was expected, so the limit is
put back. Modules of this adapter import these names from here only.
"""

from __future__ import annotations

import sys

_limit = sys.getrecursionlimit()

import rlp  # type: ignore[import-untyped]  # noqa: E402 - ships no types; the limit must be read first
from eth_account import Account  # noqa: E402
from eth_account.signers.local import LocalAccount  # noqa: E402
from eth_utils.crypto import keccak  # noqa: E402
from web3 import HTTPProvider, Web3  # noqa: E402
from web3.exceptions import Web3Exception  # noqa: E402
from web3.types import RPCEndpoint  # noqa: E402

sys.setrecursionlimit(_limit)

__all__ = ["Account", "HTTPProvider", "LocalAccount", "RPCEndpoint", "Web3", "Web3Exception", "keccak", "rlp"]
