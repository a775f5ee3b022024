"""What only a real EVM node can show: reorganizations, dropped and replaced transactions, gas, foreign nodes, proofs."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.chains.evm.artifact import artifact
from adapters.chains.evm.backend import EvmChain
from adapters.chains.evm.evidence import head_slots
from adapters.chains.evm.sender import place_of
from adapters.chains.evm.settings import EvmSettings
from bridge.errors import Busy, Conflict, Forbidden, Incorrect, NotFound, Unavailable
from bridge.ledger import chain_evidence
from bridge.ledger.chain import (
    Anchor,
    ConsentWord,
    ConsentWrite,
    Deployable,
    Handle,
    LogId,
    PolicyTag,
    Root,
    Sight,
    SubmissionState,
)
from bridge.ledger.chain_evidence import ChainLevel
from bridge.ledger.patricia import keccak256
from bridge.ledger.policy import EvmChainPolicy, Policy
from bridge.ledger.proof import build_bundle
from bridge.ledger.submission import settle, submit
from bridge.ledger.verify import verify
from tests.contract.chain_harness import deploy, evm_harness, evm_settings
from tests.contract.test_chain_backend import MemoryOutbox
from tests.reference import ROOT
from tests.services import anvil as anvil_service
from tests.unit.ledger import example

pytestmark = pytest.mark.ci
STATES = SubmissionState


@pytest.fixture(scope="module")
def contract(anvil, tmp_path_factory):
    return deploy(anvil, tmp_path_factory.mktemp("deployer"))


@pytest.fixture
def chain(anvil, tmp_path, contract):
    return evm_harness(anvil, tmp_path, contract).open()


@pytest.fixture
def no_mining(anvil):
    """Blocks are mined only when the test says so."""

    @contextlib.contextmanager
    def paused():
        anvil.call("evm_setIntervalMining", 0)
        try:
            yield
        finally:
            anvil.call("evm_setIntervalMining", 1)

    with paused():
        yield


def an_anchor(size: int = 5) -> Anchor:
    return Anchor(LogId.of_origin("example.org/log"), size, Root(bytes([size]) * 32))


def a_grant() -> ConsentWrite:
    return ConsentWrite(Handle.random(), ConsentWord.granted(1, None, PolicyTag(secrets.token_bytes(16))))


@pytest.mark.usefixtures("no_mining")
def test_states_follow_the_chain(anvil, chain) -> None:
    """Unseen, pending, included, final: each as the node's state says, by the finalized tag."""
    prepared = chain.prepare_anchors([an_anchor()], [])
    seen = [chain.status(prepared).state]
    chain.send(prepared)
    seen.append(chain.status(prepared).state)
    anvil.call("evm_mine")
    seen.append(chain.status(prepared).state)
    assert chain.read_anchor(an_anchor().log).size == 5
    assert chain.read_anchor(an_anchor().log, sight=Sight.FINAL) is None
    anvil.call("anvil_mine", "0x4")
    seen.append(chain.status(prepared).state)

    assert seen == [STATES.UNSEEN, STATES.PENDING, STATES.INCLUDED, STATES.FINAL]
    assert chain.read_anchor(an_anchor().log, sight=Sight.FINAL).size == 5


@pytest.mark.usefixtures("no_mining")
def test_a_reorganization_undoes_and_the_same_bytes_arrive_again(anvil, tmp_path, contract) -> None:
    """An included anchor is undone by a reorganization, is no longer read, is sent again, and becomes final."""
    chain = evm_harness(anvil, tmp_path, contract, finality="confirmations", confirmations=6).open()
    outbox = MemoryOutbox()
    anvil.call("anvil_mine", "0x4")
    prepared = submit(chain, outbox, [an_anchor()])
    anvil.call("anvil_mine", "0x2")
    before = chain.status(prepared)
    reorganize(anvil, 4)
    undone = chain.status(prepared)
    assert (before.state, undone.state) == (STATES.INCLUDED, STATES.UNSEEN)
    assert chain.read_anchor(an_anchor().log) is None

    settle(chain, outbox)
    anvil.call("anvil_mine", "0x8")
    settle(chain, outbox)
    assert outbox.settled == {prepared.id: STATES.FINAL}
    assert chain.read_anchor(an_anchor().log, sight=Sight.FINAL).size == 5


@pytest.mark.usefixtures("no_mining")
def test_a_dropped_submission_is_sent_again(anvil, chain) -> None:
    """A node that forgot its pending transactions gets the same bytes once more; both outstanding ones arrive."""
    outbox = MemoryOutbox()
    first, second = submit(chain, outbox, [an_anchor(1)]), submit(chain, outbox, [an_anchor(2)])
    anvil.call("anvil_dropAllTransactions")
    assert [chain.status(item).state for item in (first, second)] == [STATES.UNSEEN] * 2

    settle(chain, outbox)
    anvil.call("anvil_mine", "0x6")
    settle(chain, outbox)
    assert outbox.settled == {first.id: STATES.FINAL, second.id: STATES.FINAL}


@pytest.mark.usefixtures("no_mining")
def test_a_nonce_taken_by_another_is_lost_and_left_no_gap(anvil, chain, tmp_path) -> None:
    """Someone else with the same key took the place: the submission is lost, and a new one takes the next place."""
    outbox = MemoryOutbox()
    prepared = chain.prepare_anchors([an_anchor()], [])
    outbox.persist(prepared)
    key = (tmp_path / "anchor.key").read_text()
    stranger = {
        "to": "0x" + "11" * 20,
        "value": 1,
        "gas": 21_000,
        "gasPrice": 10**11,
        "nonce": 0,
        "chainId": anvil.chain_id,
    }
    raw = Account.sign_transaction(stranger, key).raw_transaction
    anvil.call("eth_sendRawTransaction", "0x" + raw.hex().removeprefix("0x"))
    anvil.call("anvil_mine", "0x4")
    settle(chain, outbox)
    assert outbox.settled == {prepared.id: STATES.LOST}
    with pytest.raises(Unavailable, match="chain-refused-submission"):
        chain.send(replace(prepared, id=keccak256(raw[:-1]), raw=_resign(prepared.raw, key)))

    again = submit(chain, outbox, [an_anchor()])
    anvil.call("anvil_mine", "0x4")
    assert (place_of(again.raw).nonce, chain.status(again).state) == (1, STATES.FINAL)


def _resign(raw: bytes, key: str) -> bytes:
    """A transaction far in the future of its sender that can't be paid for: refused by any node."""
    call = {"to": "0x" + "11" * 20, "value": 10**30, "gas": 21_000, "gasPrice": 10**11, "nonce": 9, "chainId": 31337}
    return bytes(Account.sign_transaction(call, key).raw_transaction)


@pytest.mark.usefixtures("no_mining")
def test_the_lowest_free_place_is_taken(chain) -> None:
    """A gap that a reorganization left is filled first; other senders' places don't count."""
    first = chain.prepare_anchors([an_anchor(1)], [])
    second = chain.prepare_anchors([an_anchor(2)], [first])
    consent = chain.prepare_consents([a_grant()], [first, second])

    assert [place_of(item.raw).nonce for item in (first, second, consent)] == [0, 1, 0]
    assert place_of(chain.prepare_anchors([an_anchor(3)], [second]).raw).nonce == 0
    assert place_of(consent.raw).sender == chain.capabilities().consent_writer != place_of(first.raw).sender


@pytest.mark.usefixtures("no_mining")
def test_a_stuck_anchor_delays_no_revocation(anvil, chain) -> None:
    """Anchors and consent words have senders of their own: an anchor that is never sent holds up no word."""
    stuck = chain.prepare_anchors([an_anchor()], [])
    handle = Handle.random()
    revocation = ConsentWrite(handle, ConsentWord.revoked(1, PolicyTag(bytes(16))))
    chain.send(chain.prepare_consents([revocation], [stuck]))
    anvil.call("evm_mine")

    assert chain.read_consent(handle).word == revocation.word


def test_gas_stays_within_its_figures(anvil, chain) -> None:
    """Later anchors ≤ 35,000, a grant ≤ 50,000, a revocation ≤ 33,000, fifty at once ≤ 30,000 each."""
    handle, tag = Handle.random(), PolicyTag(b"\xff" * 16)

    def gas(prepared) -> int:
        chain.send(prepared)
        anvil.call("anvil_mine", "0x4")
        return int(anvil.call("eth_getTransactionReceipt", "0x" + prepared.id.hex())["gasUsed"], 16)

    root = Root(b"\xee" * 32)
    gas(chain.prepare_anchors([Anchor(LogId(b"\xdd" * 32), 1_000_000, root)], []))
    anchor = gas(chain.prepare_anchors([Anchor(LogId(b"\xdd" * 32), 2_000_000, root)], []))
    grant = gas(chain.prepare_consents([ConsentWrite(handle, ConsentWord.granted(2**31, 10**15, tag))], []))
    revoke = gas(chain.prepare_consents([ConsentWrite(handle, ConsentWord.revoked(2**31, tag))], []))
    many = gas(chain.prepare_consents([a_grant() for _ in range(50)], []))

    assert (anchor <= 35_000, grant <= 50_000, revoke <= 33_000, many / 50 <= 30_000) == (True,) * 4, (
        anchor,
        grant,
        revoke,
        many / 50,
    )


def test_a_proof_verifies_offline_against_the_anchors_block(anvil, chain, contract) -> None:
    """The road's last step: evidence from a real node, a bundle, and a policy that holds the block's hash."""
    chain.send(chain.prepare_anchors([example.anchor(example.ANCHORED)], []))
    anvil.call("anvil_mine", "0x5")
    found = chain.evidence(example.LOG)
    bundle = build_bundle(
        example.READER,
        leaf=example.LEAVES[3],
        index=3,
        checkpoint=example.checkpoint(example.SIZE),
        opening=example.OPENINGS[3],
        anchored=[(example.head(example.ANCHORED), found)],
    )
    policy = EvmChainPolicy(
        anvil.chain_id,
        bytes.fromhex(contract[2:]),
        chain.capabilities().anchor_writer,
        keccak256(artifact().runtime),
        {found.block.hash: True},
        None,
    )
    verdict = verify(bundle, Policy({example.ORIGIN: example.KEY}, (), (policy,)))

    assert verdict.claims[0].level is ChainLevel.FINAL
    assert verdict.attested.time_us == found.block.time_us


@pytest.mark.usefixtures("no_mining")
def test_evidence_needs_an_anchor_at_that_sight(anvil, chain) -> None:
    """An anchor that is not final yet has no final evidence; what there is names the head that it is about."""
    chain.send(chain.prepare_anchors([an_anchor()], []))
    anvil.call("evm_mine")
    with pytest.raises(NotFound, match="anchor-absent"):
        chain.evidence(an_anchor().log)
    found = chain.evidence(an_anchor().log, sight=Sight.LATEST)
    assert found.body["headers"]
    assert found.head == chain.read_anchor(an_anchor().log)


def meddle(monkeypatch, chain: EvmChain, method: str, act: Callable[[Callable[[], Any]], Any]) -> None:
    """From now on ``act`` stands between the backend and the node's answers to ``method``."""
    call = chain._rpc.call

    def between(name: str, *parameters: Any) -> Any:
        return act(lambda: call(name, *parameters)) if name == method else call(name, *parameters)

    monkeypatch.setattr(chain._rpc, "call", between)


def reorganize(node, depth: int) -> None:
    """Other blocks for certain: within one second, and with the same transactions, they would be the same blocks."""
    node.call("anvil_setCoinbase", "0x" + secrets.token_hex(20))
    node.call("anvil_reorg", depth, [])
    node.call("anvil_dropAllTransactions")


@pytest.mark.usefixtures("no_mining")
def test_a_reorganization_between_two_calls_mixes_no_chains(anvil, chain, monkeypatch) -> None:
    """State is that of the block it is said to be of: what an undone block held is not claimed of the block that took its place."""
    anvil.call("anvil_mine", "0x4")
    write = a_grant()
    chain.send(chain.prepare_consents([write], []))
    anvil.call("evm_mine")
    undone = chain.read_consent(write.handle).seen
    meddled = iter([True])

    def reorganize_first(answer):
        if next(meddled, False):
            reorganize(anvil, 2)
        return answer()

    meddle(monkeypatch, chain, "eth_call", reorganize_first)
    found = chain.read_consent(write.handle)

    assert (found.word is not None) == (found.seen.hash == undone.hash)
    assert chain.read_consent(write.handle).word is None


@pytest.mark.usefixtures("no_mining")
def test_a_receipt_alone_settles_nothing(anvil, chain, monkeypatch) -> None:
    """A node that calls a reverted anchor a success is not believed, for the contract's storage says otherwise."""
    outbox = MemoryOutbox()
    early = chain.prepare_anchors([an_anchor(5)], [])
    late = chain.prepare_anchors([replace(an_anchor(5), root=Root(bytes(32)))], [early])
    for prepared in (early, late):
        outbox.persist(prepared)
        chain.send(prepared)
    anvil.call("anvil_mine", "0x4")
    assert [chain.status(prepared).state for prepared in (early, late)] == [STATES.FINAL, STATES.REFUSED]

    meddle(monkeypatch, chain, "eth_getTransactionReceipt", lambda answer: {**answer(), "status": "0x1"})
    with pytest.raises(Unavailable, match="chain-receipt-unconfirmed"):
        settle(chain, outbox)
    assert outbox.settled == {early.id: STATES.FINAL}


@pytest.mark.usefixtures("no_mining")
def test_words_are_final_only_by_storage(anvil, chain, monkeypatch) -> None:
    """A batch of words whose receipt is there, and whose last word is not, is not settled; overruled words are."""
    first, barred = a_grant(), a_grant()
    revocation = ConsentWrite(barred.handle, ConsentWord.revoked(2, barred.word.tag))
    prepared = chain.prepare_consents([first, barred], [])
    overruling = chain.prepare_consents([revocation], [prepared])
    for each in (prepared, overruling):
        chain.send(each)
    anvil.call("anvil_mine", "0x4")
    assert [chain.status(each).state for each in (prepared, overruling)] == [STATES.FINAL] * 2

    answers = iter(range(2))
    meddle(
        monkeypatch, chain, "eth_call", lambda answer: answer() if next(answers, None) == 0 else "0x" + bytes(32).hex()
    )
    with pytest.raises(Unavailable, match="chain-receipt-unconfirmed"):
        chain.status(prepared)


@pytest.mark.usefixtures("no_mining")
def test_what_an_undone_block_counted_loses_no_submission(anvil, chain, monkeypatch) -> None:
    """A submission that a reorganization throws out while its status is asked can still be taken: it is unseen, not lost."""
    anvil.call("anvil_mine", "0x4")
    prepared = chain.prepare_anchors([an_anchor()], [])
    chain.send(prepared)
    anvil.call("evm_mine")
    meddled = iter([True])

    def reorganize_first(answer):
        if next(meddled, False):
            reorganize(anvil, 2)
        return answer()

    meddle(monkeypatch, chain, "eth_getTransactionReceipt", reorganize_first)

    assert chain.status(prepared).state is STATES.UNSEEN


def test_a_submission_to_another_contract_wrote_nothing_here(anvil, tmp_path, contract) -> None:
    """After the contract was exchanged, what had been sent to the old one is prepared anew, not taken for done."""
    old = evm_settings(anvil, tmp_path, contract=deploy(anvil, tmp_path / "deployer"))
    prepared = EvmChain(old).prepare_anchors([an_anchor()], [])
    EvmChain(old).send(prepared)
    anvil.call("anvil_mine", "0x4")

    assert EvmChain(old).status(prepared).state is STATES.FINAL
    assert EvmChain(old.model_copy(update={"contract": contract})).status(prepared).state is STATES.REFUSED


def test_another_node_behind_the_address_is_noticed(anvil, chain, monkeypatch) -> None:
    """Chain and contract are asked for again after the node failed to answer, and each minute, and not at every call."""
    asked = []

    def elsewhere(answer):
        asked.append(answer())
        return "0x5"

    chain.head()
    meddle(monkeypatch, chain, "eth_chainId", elsewhere)
    chain.head()
    assert not asked
    chain._rpc.losses += 1
    for _ in range(2):
        with pytest.raises(Forbidden, match="chain-mismatch"):
            chain.head()
    assert len(asked) == 2


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=20, max_size=20), st.binary(min_size=32, max_size=32))
def test_prover_and_verifier_agree_on_slots(writer, log) -> None:
    """The storage keys that the backend asks for are those that the verifier, written apart, computes."""
    assert head_slots(writer, LogId(log)) == chain_evidence.head_slots(writer, LogId(log))


def test_another_chain_or_contract_is_refused(anvil, tmp_path, contract) -> None:
    """A node of another chain, an empty address and foreign code are named before anything is sent or believed."""
    for changes, code in (
        ({"chain_id": 5, "contract": contract}, "chain-mismatch"),
        ({"contract": "0x" + "22" * 20}, "contract-code-mismatch"),
    ):
        chain = EvmChain(evm_settings(anvil, tmp_path, **changes))
        for call in (
            lambda chain=chain: chain.prepare_anchors([an_anchor()], []),
            lambda chain=chain: chain.read_consent(Handle.random()),
            lambda chain=chain: chain.head(),
        ):
            with pytest.raises(Forbidden, match=code):
                call()


def test_a_missing_contract_is_named(anvil, tmp_path) -> None:
    """Before deployment the backend says what to do; it can deploy."""
    chain = EvmChain(evm_settings(anvil, tmp_path))

    assert isinstance(chain, Deployable)
    with pytest.raises(Incorrect, match="contract-not-configured"):
        chain.prepare_consents([a_grant()], [])


@pytest.mark.usefixtures("no_mining")
def test_fees_above_the_limit_wait(anvil, tmp_path, contract) -> None:
    """A submission is not prepared while gas costs more than allowed."""
    anvil.call("anvil_setNextBlockBaseFeePerGas", hex(900 * 10**9))
    anvil.call("anvil_mine", "0x1")
    try:
        chain = EvmChain(evm_settings(anvil, tmp_path, contract=contract, max_fee_gwei=100))
        with pytest.raises(Busy, match="chain-fee-above-limit"):
            chain.prepare_consents([a_grant()], [])
    finally:
        anvil.call("anvil_setNextBlockBaseFeePerGas", hex(10**9))
        anvil.call("anvil_mine", "0x1")


def test_an_empty_sender_is_named(anvil, tmp_path, contract) -> None:
    """A sender without funds is told apart from other refusals, by its balance."""
    chain = EvmChain(evm_settings(anvil, tmp_path, contract=contract))
    anvil.call("anvil_setBalance", "0x" + chain.capabilities().consent_writer.hex(), "0x0")
    with pytest.raises(Unavailable, match="chain-balance-low"):
        chain.prepare_consents([a_grant()], [])


ODD = [None, [], "x", 7, {}, {"result": None}, {"result": "?"}, {"result": []}, {"result": {"number": None}}]


@pytest.mark.parametrize("answer", ODD, ids=repr)
@pytest.mark.parametrize(
    ("method", "ask"),
    [
        ("eth_chainId", lambda chain, _: chain.head()),
        ("eth_getCode", lambda chain, _: chain.head()),
        ("eth_getBlockByNumber", lambda chain, _: chain.head()),
        ("eth_call", lambda chain, _: chain.read_anchor(an_anchor().log)),
        ("eth_getTransactionCount", lambda chain, prepared: chain.status(prepared)),
    ],
)
def test_whatever_answers_in_the_nodes_place_ends_nothing(chain, monkeypatch, method, ask, answer) -> None:
    """A proxy's or a starting node's answer is a chain that is away, for anchoring to wait for; no fault of ours."""
    prepared = chain.prepare_anchors([an_anchor()], [])
    replaced = EvmChain(chain._settings)
    provider = replaced._rpc._provider
    make_request = provider.make_request
    monkeypatch.setattr(
        provider, "make_request", lambda name, given: answer if name == method else make_request(name, given)
    )

    with pytest.raises(Unavailable):
        ask(replaced, prepared)


@pytest.mark.parametrize("receipt", [7, {}, {"status": "0x1"}], ids=repr)
def test_a_receipt_that_is_none_settles_nothing(chain, monkeypatch, receipt) -> None:
    """What is missing in it is not made up."""
    prepared = chain.prepare_anchors([an_anchor()], [])
    meddle(monkeypatch, chain, "eth_getTransactionReceipt", lambda _: receipt)

    with pytest.raises(Unavailable):
        chain.status(prepared)


def test_a_receipt_without_a_block_says_nothing_yet(chain, monkeypatch) -> None:
    """Some nodes have one for what they have not included."""
    prepared = chain.prepare_anchors([an_anchor()], [])
    meddle(monkeypatch, chain, "eth_getTransactionReceipt", lambda _: {"blockNumber": None, "blockHash": None})

    assert chain.status(prepared).state is STATES.UNSEEN


def test_an_error_of_null_is_none(chain, monkeypatch) -> None:
    """Some nodes write both members."""
    ask = chain._rpc._provider.make_request
    monkeypatch.setattr(chain._rpc._provider, "make_request", lambda name, given: {**ask(name, given), "error": None})

    assert chain.head().number >= 0


def test_a_node_that_is_gone_is_unavailable_and_nothing_is_lost(tmp_path) -> None:
    """While the node is down nothing but Unavailable is raised; when it is back the persisted bytes arrive."""
    with anvil_service.start(block_seconds=None) as node:
        contract = deploy(node, tmp_path / "deployer")
        chain = evm_harness(node, tmp_path, contract, finality="immediate").open()
        outbox = MemoryOutbox()
        outbox.persist(chain.prepare_anchors([an_anchor()], []))
        node.stop()
        for call in (chain.head, lambda: settle(chain, outbox), lambda: submit(chain, outbox, [an_anchor(6)])):
            with pytest.raises(Unavailable, match="chain-unreachable"):
                call()
        node.start()
        settle(chain, outbox)
        settle(chain, outbox)
        assert list(outbox.settled.values()) == [STATES.FINAL]
        assert chain.read_anchor(an_anchor().log).size == 5
    with pytest.raises(Unavailable, match="chain-unreachable"):
        chain.head()


def test_a_head_beside_ours_is_a_conflict(chain, anvil) -> None:
    """Preparing against chain state names the conflict before gas is spent."""
    chain.send(chain.prepare_anchors([an_anchor(5)], []))
    anvil.call("anvil_mine", "0x1")
    with pytest.raises(Conflict, match="anchor-not-above-head"):
        chain.prepare_anchors([replace(an_anchor(5), root=Root(bytes(32)))], [])


def test_calldata_holds_opaque_values_only(chain) -> None:
    """Two consents share no field but status and version: handle and tag are fresh, and nothing else is sent."""
    writes = [a_grant(), a_grant()]
    raw = [chain.prepare_consents([write], []).raw for write in writes]
    for mine, other in ((0, 1), (1, 0)):
        assert writes[mine].handle.value in raw[mine]
        assert writes[mine].word.pack() in raw[mine]
        assert writes[other].handle.value not in raw[mine]
        assert writes[other].word.tag.value not in raw[mine]


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"url": "ftp://x"}, "url"),
        ({"chain_id": 0}, "chain_id"),
        ({"contract": "0x12"}, "contract"),
        ({"finality": "soon"}, "finality"),
        ({"anchor_key": "0x" + "11" * 32}, "anchor_key"),
        ({"consent_key": {"env": "A"}}, "two keys"),
        ({"password": "x"}, "password"),
    ],
)
def test_settings_are_strict(changes, wrong) -> None:
    """Literal secrets, one key for both senders, unknown and malformed settings are refused."""
    good = {"url": "http://127.0.0.1:1", "chain_id": 1, "anchor_key": {"env": "A"}, "consent_key": {"env": "B"}}
    EvmSettings.model_validate(good)
    with pytest.raises(ValidationError, match=wrong):
        EvmSettings.model_validate(good | changes)


@pytest.mark.parametrize(("secret", "code"), [("0xnotakey", "chain-key-malformed"), ("11" * 32, "chain-keys-alike")])
def test_keys_that_can_not_be_used_are_named_and_not_quoted(tmp_path, secret, code) -> None:
    """A malformed key, or one key behind two references, is an error that never quotes the secret."""
    keys = {}
    for name in ("anchor_key", "consent_key"):
        (tmp_path / name).write_text(secret, "ascii")
        keys[name] = {"file": str(tmp_path / name)}
    settings = EvmSettings.model_validate({"url": "http://127.0.0.1:1", "chain_id": 1, **keys})
    with pytest.raises(Incorrect, match=code) as caught:
        EvmChain(settings)

    assert secret.removeprefix("0x") not in str(caught.value)


def test_the_shipped_contract_is_built_from_its_source(tmp_path) -> None:
    """The pinned compiler yields the shipped artefact byte for byte, with the layout that the verifier relies on."""
    node = shutil.which("node")
    try:
        modules = anvil_service.ensure()
    except anvil_service.ServiceUnavailable as error:
        if os.environ.get("CI", "") not in ("", "0"):
            raise
        pytest.skip(str(error))
    built = tmp_path / "built.json"
    subprocess.run(
        [node, str(ROOT / "contracts" / "build.mjs"), str(built)],
        check=True,
        env=os.environ | {"SOLC_MODULES": str(modules)},
    )
    shipped = ROOT / "adapters" / "chains" / "evm" / "artifacts" / "HieBridgeLedger.json"

    assert built.read_bytes() == shipped.read_bytes()
    assert json.loads(built.read_bytes())["storage"] == [
        {"label": "heads", "slot": "0"},
        {"label": "words", "slot": "1"},
    ]
