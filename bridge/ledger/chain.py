"""The chain port: what any chain, or none, must do to countersign heads and carry consent words.

Only opaque values of fixed size pass: a log id, a size and a root; a random handle and one packed word. Nothing about a
person goes out, nor any digest that someone could guess back to one.

How a writer uses a backend, so that a crash anywhere loses and doubles nothing (``bridge/ledger/submission.py``)::

    prepared = backend.prepare_anchors(anchors, outstanding)   # signed bytes; nothing is sent
    outbox.persist(prepared)                                   # durable before anyone else sees them
    backend.send(prepared)                                     # the same bytes, as often as needed
    backend.status(prepared)                                   # from the state of the chain, never from an error's text

``outstanding`` are the prepared submissions that are not final; backends that order by nonce continue after them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from hashlib import sha256
from typing import Any, ClassVar, Final, Protocol, Self, runtime_checkable

from bridge.errors import Incorrect

DAY_US: Final = 86_400_000_000
MAX_ANCHOR_SIZE: Final = (1 << 63) - 1
_LOG_ID_DOMAIN: Final = b"hie-bridge/log-id/v1\x00"


@dataclass(frozen=True, slots=True, order=True)
class Opaque:
    """Bytes of one fixed length that mean nothing to whoever holds only them.

    Raises:
        Incorrect: ``opaque-length``.
    """

    SIZE: ClassVar[int] = 32
    value: bytes

    def __post_init__(self) -> None:
        if type(self.value) is not bytes or len(self.value) != self.SIZE:
            raise Incorrect("opaque-length", f"a {type(self).__name__} is exactly {self.SIZE} bytes")

    def __str__(self) -> str:
        return self.value.hex()


class LogId(Opaque):
    """Which log: SHA-256("hie-bridge/log-id/v1" ‖ 0x00 ‖ origin), 32 bytes."""

    __slots__ = ()

    @classmethod
    def of_origin(cls, origin: str) -> Self:
        """The id of the log with that origin."""
        return cls(sha256(_LOG_ID_DOMAIN + origin.encode()).digest())


class Root(Opaque):
    """The root hash of a log, 32 bytes, as the tree computes it."""

    __slots__ = ()


class Handle(Opaque):
    """The random name of one consent on chain, 32 bytes; who it is about is told elsewhere, encrypted."""

    __slots__ = ()

    @classmethod
    def random(cls) -> Self:
        """A fresh handle; a re-grant takes a new one."""
        return cls(secrets.token_bytes(cls.SIZE))


class PolicyTag(Opaque):
    """Ties a consent word to its leaf in the log: the first 16 bytes of the commitment, so no two are alike."""

    __slots__ = ()
    SIZE: ClassVar[int] = 16

    @classmethod
    def of_commitment(cls, commitment: bytes) -> Self:
        """The tag of the consent version with that commitment (32 bytes)."""
        return cls(commitment[: cls.SIZE])


class ConsentStatus(IntEnum):
    """The status byte of a consent word. An empty slot on chain is no status: no word was ever written."""

    GRANTED = 1
    REVOKED = 2


@dataclass(frozen=True, slots=True)
class ConsentWord:
    """One packed slot of 32 bytes: status 1, version 4, not-after in days 4, zeroes 7, policy tag 16 (big-endian).

    Attributes:
        status: granted or revoked.
        version: rises with each word under one handle, from 0.
        not_after_day: days since 1970-01-01 UTC; the grant ends when that day begins. 0 = no end.
        tag: which consent version.
    """

    status: ConsentStatus
    version: int
    not_after_day: int
    tag: PolicyTag

    def __post_init__(self) -> None:
        if not 0 <= self.version < 1 << 32 or not 0 <= self.not_after_day < 1 << 32:
            raise Incorrect("consent-word-range", "version and day of a consent word have 32 bits each")

    @classmethod
    def granted(cls, version: int, not_after_us: int | None, tag: PolicyTag) -> Self:
        """A grant that ends at ``not_after_us`` (µs UTC; None = never), rounded down to whole days.

        Rounding hides what the exact time would tell and never lengthens a grant; one that ends on its first day is
        over at once for others, while the own bridge goes by the Consent itself.
        """
        day = 0 if not_after_us is None else max(1, not_after_us // DAY_US)
        return cls(ConsentStatus.GRANTED, version, day, tag)

    @classmethod
    def revoked(cls, version: int, tag: PolicyTag) -> Self:
        """A revocation, which no later word changes."""
        return cls(ConsentStatus.REVOKED, version, 0, tag)

    def permits(self, now_us: int) -> bool:
        """Whether the word, taken alone, is a grant in force at ``now_us``."""
        if self.status is not ConsentStatus.GRANTED:
            return False
        return self.not_after_day == 0 or now_us < self.not_after_day * DAY_US

    def pack(self) -> bytes:
        """The 32 bytes of the slot."""
        head = self.status.to_bytes(1, "big") + self.version.to_bytes(4, "big") + self.not_after_day.to_bytes(4, "big")
        return head + bytes(7) + self.tag.value

    @classmethod
    def unpack(cls, slot: bytes) -> Self | None:
        """Reads a slot; None for the empty one.

        Raises:
            Incorrect: ``consent-word-malformed``; an unknown status or stray bits, which must not be taken for a grant.
        """
        if slot == bytes(32):
            return None
        if len(slot) != 32 or slot[0] not in {1, 2} or slot[9:16] != bytes(7):
            raise Incorrect("consent-word-malformed", "a consent word on chain has a form that is not known here")
        version, day = int.from_bytes(slot[1:5], "big"), int.from_bytes(slot[5:9], "big")
        return cls(ConsentStatus(slot[0]), version, day, PolicyTag(slot[16:]))


@dataclass(frozen=True, slots=True)
class Anchor:
    """The head of a log to countersign; ``size`` is at least 1."""

    log: LogId
    size: int
    root: Root

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_ANCHOR_SIZE:
            raise Incorrect("anchor-size", "an anchor is of a log with at least one leaf")


@dataclass(frozen=True, slots=True)
class ConsentWrite:
    """A word to put under a handle."""

    handle: Handle
    word: ConsentWord


@dataclass(frozen=True, slots=True)
class Prepared:
    """A signed submission, ready to be persisted and sent.

    Attributes:
        id: 32 bytes that name it, derived from ``raw``.
        raw: the bytes to persist and to send; they say all that the backend needs to know again.
    """

    id: bytes
    raw: bytes = field(repr=False)


class SubmissionState(StrEnum):
    """What the chain says about a submission."""

    UNSEEN = "unseen"  # the chain does not know it and could still take it: send the same bytes (again)
    PENDING = "pending"  # a node holds it for a coming block
    INCLUDED = "included"  # in a block that may still be undone
    FINAL = "final"  # in a block that counts as never undone
    REFUSED = (
        "refused"  # in a block, and changed nothing (ran out of gas, below the head): prepare anew if still wanted
    )
    LOST = "lost"  # its place was taken by another submission: prepare anew


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block: ``number`` from 0, ``hash`` 32 bytes, ``time_us`` µs UTC as the chain claims it."""

    number: int
    hash: bytes
    time_us: int


@dataclass(frozen=True, slots=True)
class SubmissionStatus:
    """State of a submission, and the block that holds it (for INCLUDED, FINAL and REFUSED)."""

    state: SubmissionState
    block: BlockRef | None = None


class Sight(StrEnum):
    """Which state of the chain a question is about."""

    LATEST = "latest"  # the newest known, which a reorganization may undo; enough to act on a revocation
    FINAL = "final"  # the newest that counts as never undone; needed to act on a grant


@dataclass(frozen=True, slots=True)
class AnchoredHead:
    """The head that a writer has anchored for a log, as of ``seen`` (the block that the question was answered at)."""

    size: int
    root: Root
    seen: BlockRef


@dataclass(frozen=True, slots=True)
class SeenWord:
    """The word under (writer, handle) as of ``seen``; None = none was ever written."""

    word: ConsentWord | None
    seen: BlockRef


@dataclass(frozen=True, slots=True)
class ChainEvidence:
    """What convinces someone offline that a head was anchored, as far as their policy trusts the block.

    Attributes:
        kind: which check applies, e.g. ``local`` or ``evm``.
        head: the anchored head that it is about, and the block that shows it.
        body: JSON, documented in ``docs/reference/proof-bundle.md``; goes into a proof bundle unchanged.
    """

    kind: str
    head: AnchoredHead
    body: Mapping[str, Any]

    @property
    def block(self) -> BlockRef:
        """The block that it is about."""
        return self.head.seen


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend is and promises.

    Attributes:
        kind: ``local``, ``evm``, …
        chain: name of the chain, e.g. ``eip155:31337``.
        finality: one sentence for people: when a block counts as final.
        may_reorganize: whether INCLUDED can turn back into UNSEEN or LOST.
        anchor_writer: under which writer this backend's anchors stand (opaque bytes; an address, a key).
        consent_writer: the same for consent words.
        own_chain: whether the operator of the bridge alone runs the chain, so that it proves nothing against them.
    """

    kind: str
    chain: str
    finality: str
    may_reorganize: bool
    anchor_writer: bytes
    consent_writer: bytes
    own_chain: bool


class ChainBackend(Protocol):
    """A chain that countersigns heads and carries consent words.

    Guarantees: the anchored size of (writer, log) never falls, and a size once anchored keeps its root; **revoked is
    absorbing**: once a REVOKED word stands under (writer, handle), also on an empty slot, no later word changes it; a
    word whose version is not above the one that stands has no effect; sending the same bytes twice equals once.

    Limits: those are guarantees of chain state at the asked sight. INCLUDED state may be undone where
    ``may_reorganize``; a chain run by one party proves nothing against that party.

    Thread-safe. Every call may raise Unavailable (``chain-unreachable``: retry) and Forbidden (``chain-mismatch``,
    ``contract-code-mismatch``: what answers is not the configured chain or contract; stop and tell the operator).
    """

    def capabilities(self) -> Capabilities:
        """What the backend is; needs no connection."""
        ...

    def prepare_anchors(self, anchors: Sequence[Anchor], outstanding: Sequence[Prepared]) -> Prepared:
        """Signs one submission that anchors all of ``anchors`` (at least one).

        Raises:
            Conflict: ``anchor-not-above-head``; the chain has a larger head, or this size with another root.
            Busy: ``chain-fee-above-limit``.
        """
        ...

    def prepare_consents(self, writes: Sequence[ConsentWrite], outstanding: Sequence[Prepared]) -> Prepared:
        """Signs one submission that writes all of ``writes`` (at least one); those without effect harm no others.

        Raises:
            Busy: ``chain-fee-above-limit``.
        """
        ...

    def send(self, prepared: Prepared) -> None:
        """Hands the bytes to the chain; idempotent. Returning promises nothing: ask :meth:`status`."""
        ...

    def status(self, prepared: Prepared) -> SubmissionStatus:
        """What has become of a submission, read from chain state now."""
        ...

    def head(self, sight: Sight = Sight.LATEST) -> BlockRef:
        """The newest block of that sight; its age is what ``max_chain_age`` is held against."""
        ...

    def read_anchor(
        self, log: LogId, *, writer: bytes | None = None, sight: Sight = Sight.LATEST
    ) -> AnchoredHead | None:
        """The anchored head of ``log`` by ``writer`` (None = ourselves); None when there is none."""
        ...

    def read_consent(self, handle: Handle, *, writer: bytes | None = None, sight: Sight = Sight.LATEST) -> SeenWord:
        """The word under ``handle`` by ``writer`` (None = ourselves)."""
        ...

    def evidence(self, log: LogId, *, writer: bytes | None = None, sight: Sight = Sight.FINAL) -> ChainEvidence:
        """Evidence for the log's head at that sight, as of one block.

        Nodes forget old state, so take it when an anchor becomes final and keep it.

        Raises:
            NotFound: ``anchor-absent``; nothing of that log is anchored at that sight.
        """
        ...

    def close(self) -> None:
        """Releases connections and files; idempotent."""
        ...


@runtime_checkable
class Deployable(Protocol):
    """A backend whose chain needs code in place before the first use."""

    def deploy(self) -> str:
        """Puts the code in place, waits until it stands, and answers where, as the configuration names it.

        Raises:
            Unavailable: the chain does not answer or does not include it in time.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChainFault:
    """Something on a chain that is not as it was written.

    Attributes:
        code: stable kebab-case name.
        message: the same in words.
        place: ``block 17``, or the name of what is kept beside the blocks.
    """

    code: str
    message: str
    place: str


@runtime_checkable
class Auditable(Protocol):
    """A backend that can check its chain from the first block to the last, since it holds all of them."""

    def audit(self, checked: Callable[[], object] = lambda: None) -> Iterator[ChainFault]:
        """Checks every block, its link to the one before, its signature, and what is read from the blocks.

        Args:
            checked: called once for each block.

        Raises:
            Unavailable: ``chain-unreachable``.
        """
        ...
