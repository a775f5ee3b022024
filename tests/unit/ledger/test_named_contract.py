"""What EVM evidence is about, as the start of a policy: named, and not yet trusted."""

from __future__ import annotations

import pytest

from bridge.errors import Incorrect
from bridge.ledger.chain_evidence import ChainLevel, named_contract
from bridge.ledger.policy import Policy
from bridge.ledger.verify import verify
from tests.unit.ledger import example


def test_evidence_names_its_contract_writer_and_code():
    """The same values that the recording noted, and no block."""
    assert named_contract(dict(example.evm_evidence().body)) == example.evm_policy()


def test_what_evidence_says_of_itself_authenticates_no_chain():
    """A policy made from the evidence holds it, and says that it is only consistent."""
    found = named_contract(dict(example.evm_evidence().body))

    verdict = verify(example.bundle(chains="evm"), Policy({example.ORIGIN: example.KEY}, (), (found,)))

    assert [claim.level for claim in verdict.claims] == [ChainLevel.CONSISTENT]
    assert verdict.attested is None


@pytest.mark.parametrize("member", ["contract", "headers", "account", "chain_id", "writer"])
def test_evidence_without_a_member_names_nothing(member):
    """It is malformed, as for whoever checks it."""
    body = {name: value for name, value in example.evm_evidence().body.items() if name != member}

    with pytest.raises(Incorrect):
        named_contract(body)
