"""The compiled contract that the package ships."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Artifact:
    """ABI, creation bytecode, and the code that stands at the address afterwards."""

    abi: list[dict[str, Any]]
    bytecode: bytes
    runtime: bytes


@cache
def artifact() -> Artifact:
    """Reads ``artifacts/HieBridgeLedger.json``, built by ``contracts/build.mjs``."""
    text = files(__package__).joinpath("artifacts", "HieBridgeLedger.json").read_text("utf-8")
    value = json.loads(text)
    return Artifact(value["abi"], bytes.fromhex(value["bytecode"]), bytes.fromhex(value["runtime"]))
