"""A feed of messages from a run of events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from bridge.synth.events import Event, Outcome
from bridge.synth.noise import malformed, uncovered
from bridge.synth.scribe import Scribe
from bridge.synth.tables import tables


@dataclass(frozen=True, slots=True)
class SynthMessage:
    """One message of the feed.

    Attributes:
        site: the site that sends it, as in ``mappings/sites``.
        content: the bytes, without transport framing.
        key: for Kafka: site and primary patient identifier, or the site alone.
        event_time: µs since the epoch, UTC; never falls along the feed.
        kind: message code and trigger event (``ADT^A01``), or ``malformed/`` and the reason.
        outcome: what a bridge with the region's site files should make of it.
    """

    site: str
    content: bytes = field(repr=False)
    key: bytes = field(repr=False)
    event_time: int
    kind: str
    outcome: Outcome


def messages_of(events: Iterable[Event]) -> Iterator[SynthMessage]:
    """What the facilities write of ``events``, in their order; control ids count up from 1 at each facility.

    An event that is a duplicate repeats the last covered message, byte for byte.
    """
    scribes = {site: Scribe(facility) for site, facility in tables().facilities.items()}
    numbers = dict.fromkeys(scribes, 0)
    covered: SynthMessage | None = None
    for event in events:
        if event.outcome is Outcome.DUPLICATE:
            assert covered is not None
            yield replace(covered, outcome=Outcome.DUPLICATE)
            continue
        site = event.facility.site
        numbers[site] += 1
        message = _written(scribes[site], event, f"{event.facility.facility}{numbers[site]:09d}")
        if event.outcome is Outcome.STORED:
            covered = message
        yield message


def _written(scribe: Scribe, event: Event, control_id: str) -> SynthMessage:
    site = event.facility.site
    if event.kind.startswith("malformed/"):
        content, key = malformed(scribe, event, control_id), site
    elif event.outcome is not Outcome.STORED:
        content, key = uncovered(scribe, event, control_id), site
    else:
        content, key = scribe.write(event, control_id), f"{site}|{event.registration.identifier}"
    return SynthMessage(site, content, key.encode(), event.time * 1_000_000, event.kind, event.outcome)
