"""Ports of the way in: sources that are pulled, listeners that are pushed to, and the intake they push into. And out: sinks.

A *source* (Kafka) keeps messages durably and in numbered partitions until the worker has stored them; the worker pulls.
A *listener* (MLLP, folder) is handed messages by others and answers only once an *intake* holds them durably: the embedded
queue of the store, or a Kafka topic. A *sink* is given what is stored, after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from bridge.errors import Conflict
from bridge.telemetry.stop import Stop


class ContentKind(StrEnum):
    """What the bytes of a message are."""

    HL7V2 = "hl7v2"
    FHIR_JSON = "fhir-json"


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as received, before anyone has looked inside.

    Attributes:
        source: name of the configured source or listener.
        content: the bytes as received, without transport framing.
        kind: what the transport or its headers say the bytes are; None = to be detected.
        key: partitioning key, if the transport has one; may hold an identifier, so never logged.
        received_us: when the bytes were complete here, µs since the epoch, UTC.
    """

    source: str
    content: bytes = field(repr=False)
    kind: ContentKind | None = None
    key: bytes | None = field(default=None, repr=False)
    received_us: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """Says that a message is durable.

    Attributes:
        reference: names the durable copy (queue row, topic-partition-offset).
        answer: what the place said, where it can say several things (MSA-1 of an MLLP port); else ''.
    """

    reference: str
    answer: str = ""


class Intake(Protocol):
    """Takes raw messages into durable keeping: all that a listener knows of the pipeline."""

    async def accept(self, raw: RawMessage) -> Receipt:
        """Returns once ``raw`` would survive the loss of this process and, as far as configured, of this machine.

        Raises:
            Unavailable: nothing was promised; the listener must not acknowledge, so that the sender sends again.
            Busy: back-pressure; as above.
            Incorrect: the message can never be accepted (it is larger than the intake's limit).
        """
        ...

    def close(self) -> None:
        """Finishes what was accepted and lets go of connections; may block; idempotent."""
        ...


class Settled(StrEnum):
    """What became of an accepted message."""

    DONE = "done"  # it had its effect, or was left out by the site's file, or had come before
    DEAD = "dead"  # it is a dead letter: kept, without effect until an operator replays it


@runtime_checkable
class TellsOutcome(Protocol):
    """An intake that also knows what became of what it accepted."""

    async def outcome(self, raw: RawMessage, receipt: Receipt) -> Settled:
        """Returns once the worker has committed what it made of ``raw``, which :meth:`Intake.accept` gave ``receipt`` for.

        Waits without limit: who calls it bounds it. While the store does not answer it goes on waiting.
        """
        ...


class Listener(Protocol):
    """Receives messages from others and answers for them.

    A sender is told that its message is durable only after ``Intake.accept`` has returned, and that it never can be
    accepted only for Incorrect and for the listener's own limits. Where the intake fails in any other way it is told
    nothing: it sends again. Messages of one sender are offered in order; no sender holds up or harms another.
    """

    name: str

    async def run(self, intake: Intake, stop: Stop) -> None:
        """Listens until ``stop`` is set, then finishes what was received, within a bound of its own, and returns.

        What the intake has not answered by then is told nothing.

        Raises:
            BridgeError: at the start, the place can't be listened at; the text names the listener.
        """
        ...


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """One ordered run of a source: ``topic_id`` changes when a topic is deleted and created anew under the same name."""

    source: str
    topic_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A raw message at its place in a partition."""

    partition: Partition
    offset: int
    raw: RawMessage


class PositionOutOfRange(Conflict):
    """Partitions no longer hold the offset to be read next: retention overtook it, or the log was cut or restored.

    Attributes:
        first: where to go on in each of those partitions: the first offset that it still holds, or, where its log was cut
            below the position, the first that differs from what was read.
    """

    def __init__(self, first: Mapping[Partition, int]) -> None:
        super().__init__("position-out-of-range", "A source no longer holds the position to be read next.")
        self.first = dict(first)


class Assignment(Protocol):
    """The worker's side of a rebalance. Called on the thread that polls."""

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Answers the offset to read next in each newly assigned partition (the store is the authority)."""
        ...

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """The partitions go to someone else after this returns; work on them is finished or forgotten here."""
        ...

    def lost(self, partitions: Sequence[Partition]) -> None:
        """The partitions already belong to someone else; nothing of them may be committed."""
        ...


class Source(Protocol):
    """A durable, partitioned log of raw messages that one worker of a group pulls from.

    At least once: what was not stored comes again from the position that the assignment answers. Not thread-safe: one
    thread owns a source from ``open`` to ``close``; after that it may be opened again. Used while closed it raises Fault.
    """

    name: str

    def open(self, assignment: Assignment) -> None:
        """Joins the group. Raises Unavailable with the real cause (wrong password, missing CA, refused)."""
        ...

    def poll(self, max_messages: int, timeout_seconds: float) -> Sequence[Fetched]:
        """Up to ``max_messages``, offsets rising within each partition; may call the assignment. Empty after the time-out.

        A member that was put out of its group is told what it lost before anything of it is brought again.

        Raises:
            PositionOutOfRange: at the assignment or later; nothing is skipped silently. The partitions named are paused
                here and said once; seek them to go on. The others lose nothing.
            Unavailable: the source does not answer.
        """
        ...

    def commit(self, positions: Mapping[Partition, int]) -> None:
        """Tells lag tools how far the store is; never the authority. Positions of lost partitions are ignored."""
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Reads an assigned partition from ``offset`` on; nothing happens if it is no longer assigned."""
        ...

    def pause(self, partitions: Sequence[Partition]) -> None:
        """Stops fetching these partitions while keeping them assigned (back-pressure)."""
        ...

    def resume(self, partitions: Sequence[Partition]) -> None:
        """Fetches them again."""
        ...

    def close(self) -> None:
        """Leaves the group; idempotent."""
        ...


class DeliveryKind(StrEnum):
    """What a delivery tells."""

    RESOURCE = "resource"  # a version, or that the resource was deleted
    LINK = "link"  # which records are one person's, by whose word
    CONSENT = "consent"  # a consent's state changed


@dataclass(frozen=True, slots=True)
class Delivery:
    """One thing that a sink is to be given.

    Attributes:
        kind: what it tells.
        key: whose it is, as ``Patient/id``; of what is in no patient's compartment the resource itself. Order is kept per key.
        id: its name, the same at every attempt and to every sink, so that a receiver knows it again.
        content: JSON: the stored bytes of a version, or an event; None for a deletion.
        resource_type, resource_id, version: of a resource; empty and 0 for an event.
        linkable: references in it, as ``Type/id``, whose targets the sink is given too; only for a sink that asks.
    """

    kind: DeliveryKind
    key: str
    id: str
    content: bytes | None = field(repr=False)
    resource_type: str = ""
    resource_id: str = ""
    version: int = 0
    linkable: frozenset[str] = frozenset()


class DeliveryState(StrEnum):
    """What became of a delivery."""

    DELIVERED = "delivered"  # durable there
    REFUSED = "refused"  # for good: the same again would be refused again
    FAILED = "failed"  # this one, this time, while the destination works
    HELD = "held"  # not tried, or to be tried again, since an earlier one of its key was not delivered


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one delivery; ``code`` says why not, without anything of its content, or ``unlinked`` of one delivered."""

    state: DeliveryState
    code: str = ""


class Sink(Protocol):
    """A system that is given what the bridge has stored: at least once, and in order within each key.

    Not thread-safe: one thread owns a sink. It keeps nothing between calls that it could not lose.
    """

    name: str
    kinds: frozenset[DeliveryKind]
    """What it can be given."""
    links: bool
    """Whether it needs :attr:`Delivery.linkable`."""
    request_seconds: float
    """How long one request may take; a process that has ended is taken over from after twice this."""

    def deliver(self, deliveries: Sequence[Delivery], go_on: Callable[[], bool]) -> Sequence[Answer]:
        """Gives them to the destination; returns an answer for each, in their order, of as many as were settled.

        Of one key, nothing is answered DELIVERED after something that was not; one bad delivery harms no other key. Fewer
        answers than deliveries say that the destination stopped answering, or that ``go_on`` was False, after those.

        Args:
            deliveries: in order within each key; of several keys.
            go_on: asked before each request: False where this process stops, or may no longer send because another one does.

        Raises:
            Unavailable, Busy: the destination does not answer, or refuses us as such (credentials, address); all stay due.
        """
        ...

    def close(self) -> None:
        """Lets go of connections; idempotent."""
        ...
