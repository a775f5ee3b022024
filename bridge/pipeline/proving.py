"""Proofs of what is stored: opening, inclusion, checkpoint and the chain's evidence, in one bundle.

Before a bundle is handed out it is verified against the deployment's own keys, so that no proof leaves that does not hold.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from bridge.errors import Conflict, Forbidden, Incorrect, NotFound, Unavailable
from bridge.keys.ports import KeyWrapper
from bridge.ledger.chain import ChainBackend, ChainEvidence, LogId, Sight
from bridge.ledger.chain_evidence import named_contract
from bridge.ledger.commitment import Context, commit, leaf_data
from bridge.ledger.merkle import TreeHead, TreeReader
from bridge.ledger.note import VerifierKey
from bridge.ledger.policy import LocalChainPolicy, Policy
from bridge.ledger.proof import Opening, ProofBundle, build_bundle
from bridge.ledger.strict_json import parse_json
from bridge.ledger.verify import Verdict, verify
from bridge.pipeline.openings import Salts, Unopenable
from bridge.pipeline.sequencer import tree_reader
from bridge.store import leaves, resources
from bridge.store.database import Database, Transaction
from bridge.store.rows import CommitmentRow, LogLeaf, VersionRow


@dataclass(frozen=True, slots=True)
class Proved:
    """A bundle that holds, and what it says under the deployment's own policy.

    Attributes:
        bundle: the proof.
        verdict: what :func:`bridge.ledger.verify.verify` says of it.
        version: of the resource.
    """

    bundle: ProofBundle
    verdict: Verdict
    version: int


Anchored = tuple[TreeHead, ChainEvidence]


def prove(
    database: Database,
    wrapper: KeyWrapper,
    log_key: VerifierKey,
    chain: ChainBackend | None,
    resource: tuple[str, str],
    version: int | None = None,
) -> Proved:
    """The proof of one version of a resource.

    Args:
        database: the store; read only.
        wrapper: unwraps record keys.
        log_key: the log's key, named by its origin.
        chain: asked for evidence; None leaves it out.
        resource: type and FHIR id.
        version: None = the current one.

    Raises:
        NotFound: ``resource-absent``, ``version-absent``.
        Unavailable: ``leaf-not-sequenced``, ``leaf-not-signed``: recorded, and not provable yet; the chain or a key
            service does not answer.
        Forbidden: ``record-erased``; nothing opens the commitment any more.
        Conflict: ``stored-bytes-altered``, ``anchored-head-differs``: the store is not what was logged.
    """
    origin = log_key.name
    anchored = _evidence(chain, LogId.of_origin(origin)) if chain is not None else None
    with database.transaction(read_only=True) as txn:
        stored = _version(txn, resource, version)
        leaf = _leaf(txn, origin, stored.leaf_id)
        reader = tree_reader(txn, origin)
        checkpoint = leaves.latest_checkpoint(txn, origin)
        if checkpoint is None or checkpoint.size <= leaf.leaf_index:
            raise _not_yet("leaf-not-signed", "no checkpoint covers it")
        if anchored is not None:
            _check_anchored(txn, reader, origin, anchored[0])
        bundle = build_bundle(
            reader,
            leaf=leaf.leaf,
            index=leaf.leaf_index,
            checkpoint=checkpoint.note,
            opening=_opening(txn, wrapper, stored, leaf),
            anchored=[anchored] if anchored is not None else [],
        )
    return Proved(bundle, verify(bundle, own_policy(log_key, chain, anchored)), stored.version)


def own_policy(log_key: VerifierKey, chain: ChainBackend | None, anchored: Anchored | None) -> Policy:
    """The policy that trusts what this deployment says of itself: a template for auditors, never proof of anything.

    An EVM chain is named once something is anchored on it, and without any trusted block: those come from elsewhere.
    """
    logs = {log_key.name: log_key}
    if chain is None:
        return Policy(logs)
    named = chain.capabilities()
    if named.kind == "local":
        key = VerifierKey(named.chain.removeprefix("local:"), named.anchor_writer)
        return Policy(logs, (LocalChainPolicy(key),))
    if anchored is not None and anchored[1].kind == "evm":
        return Policy(logs, (), (named_contract(dict(anchored[1].body)),))
    return Policy(logs)


def template_policy(log_key: VerifierKey, chain: ChainBackend) -> tuple[Policy, ChainEvidence | None]:
    """:func:`own_policy` as it is now, and the evidence that it was made from, if something is anchored."""
    anchored = _evidence(chain, LogId.of_origin(log_key.name))
    return own_policy(log_key, chain, anchored), anchored[1] if anchored is not None else None


def _evidence(chain: ChainBackend, log: LogId) -> Anchored | None:
    """The final head of the log and its evidence; the newest one where nothing is final yet; None where none is there."""
    for sight in (Sight.FINAL, Sight.LATEST):
        with suppress(NotFound):
            evidence = chain.evidence(log, sight=sight)
            return TreeHead(evidence.head.size, evidence.head.root.value), evidence
    return None


def _version(txn: Transaction, resource: tuple[str, str], wanted: int | None) -> VersionRow:
    row = resources.load_by_id(txn, [resource]).get(resource)
    if row is None:
        raise NotFound("resource-absent", "there is no such resource", remedy="Name it as TYPE/ID.")
    found = resources.version(txn, row.resource_key, row.version if wanted is None else wanted)
    if found is None:
        raise NotFound("version-absent", f"the resource has no version {wanted}; the current one is {row.version}")
    return found


def _leaf(txn: Transaction, origin: str, leaf_id: bytes) -> LogLeaf:
    leaf = leaves.leaves_by_id(txn, [leaf_id]).get(leaf_id)
    if leaf is None:
        raise _not_yet("leaf-not-sequenced", "its leaf has no place in the log")
    if leaf.origin != origin:
        raise Incorrect(
            "leaf-of-another-log",
            "the version was logged under another origin than the configured one",
            remedy="Prove it with the configuration of that log.",
        )
    return leaf


def _opening(txn: Transaction, wrapper: KeyWrapper, stored: VersionRow, leaf: LogLeaf) -> Opening:
    row = leaves.commitments(txn, [stored.leaf_id]).get(stored.leaf_id)
    salt = Salts(wrapper).of(txn, [row])[row.leaf_id] if row is not None else Unopenable.KEY_MISSING
    if salt is Unopenable.ERASED:
        raise Forbidden("record-erased", "the record was erased: nothing opens its commitments any more")
    if row is None or not isinstance(salt, bytes):
        raise Conflict(
            "commitment-unopenable",
            "what would open the version's commitment is not in the store",
            remedy="Run hiebridge fsck.",
        )
    opening = Opening(stored.body, context_of(row), salt)
    if leaf_data(commit(salt, row.context, stored.body)) != leaf.leaf:
        raise Conflict(
            "stored-bytes-altered",
            "the stored bytes are not those that were logged",
            remedy="Run hiebridge fsck; restore the version from a backup.",
        )
    return opening


def context_of(row: CommitmentRow) -> Context:
    """The stored context of a commitment.

    Raises:
        Incorrect: ``context-malformed``; the row was altered.
    """
    context = Context.from_json(parse_json(row.context))
    if context.encode() != row.context:
        raise Incorrect("context-malformed", "the context of a commitment is not in its RFC 8785 form")
    return context


def _check_anchored(txn: Transaction, reader: TreeReader, origin: str, head: TreeHead) -> None:
    state = leaves.state(txn, origin)
    if state is None or state.size < head.size or reader.root(head.size) != head.root:
        raise Conflict(
            "anchored-head-differs",
            "the chain holds a head of this log that the stored log does not lead to",
            remedy="Run hiebridge fsck; the store may have been restored from an older state.",
        )


def _not_yet(code: str, why: str) -> Unavailable:
    return Unavailable(
        code,
        f"the version is recorded and not provable yet: {why}",
        remedy="Try again in some seconds; `hiebridge anchor` or `hiebridge up` must run.",
    )
