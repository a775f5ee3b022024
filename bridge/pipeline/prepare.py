"""The pure stage: from raw bytes to what they ask for, or to the reason why they can't be understood (law *Batch*)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from time import perf_counter
from typing import Any

from bridge.config.site import Site
from bridge.errors import BridgeError, Fault, Incorrect, Unsupported
from bridge.fhir.json import loads
from bridge.fhir.search.definitions import definitions
from bridge.hl7v2.charset import is_known
from bridge.hl7v2.message import Limits, Message, parse, without_framing
from bridge.keys.envelope import Envelope, seal
from bridge.keys.ports import KeyWrapper
from bridge.mapping.convert import convert, event_of
from bridge.mapping.fhir_input import RESOURCE_TYPES, convert_fhir
from bridge.mapping.operations import Conversion, IdentityKey, Merge, TargetReference, Upsert
from bridge.mapping.rules import Rules
from bridge.pipeline.consent_scan import MOST_NAMES, carries_consent, deletes_consent, patients_named
from bridge.pipeline.ports import ContentKind, RawMessage
from bridge.store.rows import SeenKey
from bridge.telemetry import metrics

_SEPARATOR = re.compile(rb"MSH([^A-Za-z0-9\s])")
_SEGMENT_NAME = rb"(?:^|[\r\n])[\x0b]?([A-Z][A-Z0-9]{2})(?=%s)"
# Where fields are shifted, a name may stand in MSH-9: what has not the form of an event is not shown as one.
_EVENT = re.compile(r"[A-Z][A-Z0-9]{2}\^(?:[A-Z][A-Z0-9][0-9])?")


_SEALED, _READ, _CONVERTED = (
    metrics.STAGE_SECONDS.labels(stage) for stage in (metrics.Stage.SEAL, metrics.Stage.READ, metrics.Stage.CONVERT)
)


class Stage(StrEnum):
    """Where on the road a message failed."""

    DETECT = "detect"
    PARSE = "parse"
    MAP = "map"
    RECORD = "record"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message after the pure stage.

    Attributes:
        raw: as received.
        site: who sent it.
        kind: what its bytes are.
        envelope: the encrypted raw bytes.
        event: ``ADT^A08``, ``fhir:Patient``, ``""`` where even that is unknown.
        seen: what makes it the same message again; None where it could not be read that far.
        conversion: what it asks for; None when filtered or failed.
        error, stage: why it is a dead letter, and where that showed.
        consent: it carries consent content, so failing must restrict its patient.
        patients: names of its patient by the tolerant scan; filled only for failed consent content.
        others: such content may be of others than ``patients``.
        structure: JSON text of names, counts and positions for dead letters.
    """

    raw: RawMessage
    site: Site
    kind: ContentKind
    envelope: Envelope = field(repr=False)
    event: str = ""
    seen: SeenKey | None = None
    conversion: Conversion | None = None
    error: BridgeError | None = None
    stage: Stage = Stage.DETECT
    consent: bool = False
    patients: tuple[IdentityKey, ...] = ()
    others: bool = False
    structure: str = "{}"

    def failed(self, error: BridgeError, stage: Stage) -> Prepared:
        """The same message as a dead letter."""
        patients = patients_named(self.raw, self.kind, self.site) if self.consent else ()
        sure = 0 < len(patients) <= MOST_NAMES and not deletes_consent(self.raw.content, self.kind)
        structure = self.structure if self.structure != "{}" else structure_of(self.raw.content, self.kind)
        return replace(
            self,
            conversion=None,
            error=error,
            stage=stage,
            patients=patients,
            others=self.consent and not sure,
            structure=structure,
        )


class Preparer:
    """Does the pure stage for messages of known sources. Thread-safe: holds only read-only state.

    Args:
        rules: compiled mappings.
        sites: site of each source or listener, by its name.
        wrapper: wraps the data keys of raw messages.
        digest_key: 32 bytes that key the digests of messages.
        max_message_bytes: larger messages become dead letters.
        event_ahead_us: how far an event may lie after its receipt; None = not checked.

    Raises:
        Incorrect: ``site-charset-unknown``, a site's file names a character set that the reader does not know.
    """

    def __init__(
        self,
        rules: Rules,
        sites: Mapping[str, Site],
        wrapper: KeyWrapper,
        digest_key: bytes,
        max_message_bytes: int,
        *,
        event_ahead_us: int | None = None,
    ) -> None:
        for site in sites.values():
            if site.charset is not None and not is_known(site.charset):
                raise Incorrect(
                    "site-charset-unknown",
                    f"The file of site {site.site} names a character set that is not known.",
                    remedy="Use a name of HL7 table 0211, or one of those that docs/reference/hl7v2.md lists.",
                )
        self._event_ahead_us = event_ahead_us
        self._rules = rules
        self._sites = sites
        self._wrapper = wrapper
        self._digest_key = digest_key
        self._limits = Limits(message_bytes=max_message_bytes)

    @property
    def sources(self) -> AbstractSet[str]:
        """The sources and listeners that are configured."""
        return self._sites.keys()

    def site_of(self, source: str) -> Site:
        """The site bound to a source. Raises Incorrect ``source-unknown``."""
        try:
            return self._sites[source]
        except KeyError:
            raise Incorrect(
                "source-unknown",
                "A message waits for a source that is no longer configured.",
                remedy="Configure it again until its messages are done.",
            ) from None

    def prepare(self, raw: RawMessage, envelope: Envelope | None = None) -> Prepared:
        """Reads and converts one message; never raises for what is in it.

        Args:
            raw: the message.
            envelope: its encrypted bytes where they are stored already; else they are made.
        """
        site = self.site_of(raw.source)
        kind = raw.kind or detect(raw.content)
        if envelope is None:
            started = perf_counter()
            envelope = seal(raw.content, aad(raw), self._wrapper)
            _SEALED.observe(perf_counter() - started)
        event, seen, conversion = "", None, None
        consent, stage = False, Stage.PARSE
        failure: BridgeError
        try:
            consent = carries_consent(raw.content, kind)
            if kind is ContentKind.HL7V2:
                started = perf_counter()
                message = parse(raw.content, charset=site.charset, limits=self._limits)
                told = event_of(message)
                event = told if _EVENT.fullmatch(told) else ""
                seen = self._seen_hl7(raw, site, message)
                _READ.observe(perf_counter() - started)
                if told not in site.events.allowed:
                    return Prepared(raw, site, kind, envelope, event, seen, consent=consent)
                stage = Stage.MAP
                started = perf_counter()
                conversion = convert(message, site, self._rules)
                if b"\0" in raw.content or f"{message.delimiters.escape}X".encode() in raw.content:
                    _refuse_zero(conversion)
                _CONVERTED.observe(perf_counter() - started)
            else:
                content = loads(raw.content, max_bytes=self._limits.message_bytes)
                named = content.get("resourceType")
                event = f"fhir:{named}" if isinstance(named, str) and named in RESOURCE_TYPES else "fhir:"
                seen = SeenKey(f"fhir:{raw.source}", "", self._digest(raw.content))
                stage = Stage.MAP
                conversion = joined(convert_fhir(content, site, received_us=raw.received_us))
                _refuse_types(conversion)
            self._refuse_future(conversion, raw.received_us)
        except BridgeError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - whatever one message does to the code, the others go on
            failure = Fault(
                f"{stage}-failed",
                f"The message broke the {stage} stage ({type(error).__name__}).",
                remedy="Report it with its structure.",
            )
            failure.__cause__ = error
        else:
            return Prepared(raw, site, kind, envelope, event, seen, conversion, consent=consent)
        return Prepared(raw, site, kind, envelope, event, seen, consent=consent).failed(failure, stage)

    def unreadable(self, raw: RawMessage, envelope: Envelope, error: BridgeError) -> Prepared:
        """The dead letter of a stored message whose encrypted bytes no longer open; they are kept as they are.

        Nobody can say that it carried no consent, so it counts as one that names no patient.
        """
        unread = Prepared(raw, self.site_of(raw.source), raw.kind or ContentKind.HL7V2, envelope, consent=True)
        return unread.failed(error, Stage.DETECT)

    def _refuse_future(self, conversion: Conversion, received_us: int) -> None:
        """What is dated into the future would outrank every true change until then, a revocation among them."""
        if self._event_ahead_us is None:
            return
        newest = max((operation.stamp.time_us for operation in conversion.operations), default=conversion.time_us)
        if newest > received_us + self._event_ahead_us:
            raise Incorrect(
                "event-in-the-future",
                "The message dates a change later than it was received.",
                remedy="Correct the sender's clock or time zone, then replay; limits.event_ahead_hours says how far is far.",
            )

    def _seen_hl7(self, raw: RawMessage, site: Site, message: Message) -> SeenKey:
        header = message.header
        sender = f"{site.site}|{header.sending_application}|{header.sending_facility}"
        return SeenKey(sender, header.control_id, self._digest(raw.content))

    def _digest(self, content: bytes) -> bytes:
        return blake2b(content, digest_size=16, key=self._digest_key).digest()


def aad(raw: RawMessage) -> bytes:
    """What the encryption of a raw message is bound to: its source and time of receipt."""
    return f"raw-message/v1\0{raw.source}\0{raw.received_us}".encode()


def detect(content: bytes) -> ContentKind:
    """FHIR JSON starts with a brace (a byte order mark of any width may precede), all else is taken for HL7 v2."""
    start = content[:64].lstrip(b"\xef\xbb\xbf\xfe\xff\0 \t\r\n")
    return ContentKind.FHIR_JSON if start[:1] in {b"{", b"["} else ContentKind.HL7V2


def joined(conversions: Sequence[Conversion]) -> Conversion:
    """One conversion for a Bundle: all its operations succeed or fail together.

    Raises:
        Incorrect: ``bundle-empty``.
    """
    if not conversions:
        raise Incorrect(
            "bundle-empty", "The Bundle holds no resource.", remedy="Send resources, or a Bundle with entries."
        )
    first = conversions[0]
    if len(conversions) == 1:
        return first
    return replace(
        first,
        event="fhir:Bundle",
        patient=next((conversion.patient for conversion in conversions if conversion.patient), None),
        operations=tuple(operation for conversion in conversions for operation in conversion.operations),
        restricts_patient=any(conversion.restricts_patient for conversion in conversions),
        mapped=sum(conversion.mapped for conversion in conversions),
        dropped=sum(conversion.dropped for conversion in conversions),
        unmapped=sum(conversion.unmapped for conversion in conversions),
        reports=tuple(report for conversion in conversions for report in conversion.reports),
    )


def _refuse_types(conversion: Conversion) -> None:
    """Refuses resources of types that are not stored."""
    stored = definitions()
    if any(not isinstance(one, Merge) and one.target.resource_type not in stored for one in conversion.operations):
        raise Unsupported(
            "type-not-stored",
            "A resource is of a type that is not stored here.",
            remedy="Leave such resources out of the feed, or filter them before it.",
        )


def _refuse_zero(conversion: Conversion) -> None:
    """Refuses U+0000 in what a message asks for: FHIR has no such texts (R4 datatypes.html#string), databases cut them."""
    waiting: list[Any] = [*conversion.operations]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "\0" in value:
                raise Incorrect(
                    "zero-character", "A text of the message holds U+0000.", remedy="The sender must leave it out."
                )
        elif isinstance(value, dict):
            waiting += value
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, Upsert):
            waiting += (value.target, value.units)
        elif isinstance(value, TargetReference):
            waiting.append(value.target)
        elif isinstance(value, Merge):
            waiting += (value.survivor, value.subsumed)


def structure_of(content: bytes, kind: ContentKind) -> str:
    """JSON text that shows how a message is built and nothing of what it says: segment names in order, sizes."""
    shape: dict[str, Any] = {"kind": str(kind), "bytes": len(content)}
    if kind is ContentKind.HL7V2:
        content = without_framing(content) if b"\0" in content[:64] else content  # UTF-16 and UTF-32 as UTF-8
        # Only what is followed by the message's own separator: a line of free text may start with a short name.
        separator = _SEPARATOR.search(content)
        pattern = _SEGMENT_NAME % re.escape(separator.group(1)) if separator else None
        names = [match.decode() for match in re.findall(pattern, content[: 1 << 20])] if pattern else []
        shape["segments"] = names[:200]
        shape["segment_count"] = len(names)
    return json.dumps(shape, separators=(",", ":"))
