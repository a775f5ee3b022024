"""What the messages of a sender break, summed: counts, places and examples, no values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.cli.corpus import Contents, Converter, Entry
from bridge.errors import BridgeError
from bridge.hl7v2.message import Message
from bridge.hl7v2.strict import Severity, StrictFinding, strict_findings, structure
from bridge.pipeline.ports import ContentKind

_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Example:
    """A message that shows a finding: where it is, its event, version and segments; never its values."""

    name: str
    event: str
    version: str
    structure: str


@dataclass(slots=True)
class Broken:
    """One finding over a feed: how many messages have it, how often in all, and the first of them."""

    messages: int = 0
    times: int = 0
    examples: list[Example] = field(default_factory=list)


class FeedCheck:
    """Takes the files of a sender one after the other, and sums what is found.

    Args:
        converter: reads them in the site's character set.
        with_site: whether messages are also converted, so that what the site's file does not list is found.
    """

    def __init__(self, converter: Converter, *, with_site: bool) -> None:
        self._converter = converter
        self._with_site = with_site
        self.files = 0
        self.messages = 0
        self.clean = 0
        self.found: dict[StrictFinding, Broken] = {}

    @property
    def errors(self) -> bool:
        """Whether anything weighs more than a warning."""
        return any(finding.severity is Severity.ERROR for finding in self.found)

    def add(self, held: Contents) -> None:
        """One file."""
        self.files += 1
        shown = Example(held.file.name, "", "", "")
        batch = Counter(StrictFinding(Severity.ERROR, finding.code, "") for finding in held.findings)
        if held.error is not None:
            batch[StrictFinding(Severity.ERROR, held.error.code, "")] += 1
        self._count(batch, shown)
        for entry in held.entries:
            self.messages += 1
            found, example = self._checked(entry)
            self.clean += not found
            self._count(found, example)

    def _checked(self, entry: Entry) -> tuple[Counter[StrictFinding], Example]:
        nothing = Example(entry.name, "", "", "")
        if entry.kind is not ContentKind.HL7V2:
            return Counter([StrictFinding(Severity.ERROR, "not-hl7", "")]), nothing
        try:
            message = self._converter.read(entry)
        except BridgeError as error:
            return Counter([StrictFinding(Severity.ERROR, error.code, "")]), nothing
        found = Counter(strict_findings(message))
        if message.charset_fallback:
            found[StrictFinding(Severity.ERROR, "charset-fallback", "MSH-18")] += 1
        if self._with_site:
            found += self._of_site(message)
        return found, _example(entry, message)

    def _of_site(self, message: Message) -> Counter[StrictFinding]:
        """What the site's file does not list, and what stops the conversion."""
        try:
            conversion, site = self._converter.message(message)
        except BridgeError as error:
            return Counter([StrictFinding(Severity.ERROR, error.code, "")])
        found = Counter(
            StrictFinding(Severity.WARNING, report.code, report.place)
            for report in conversion.reports
            if report.code != "charset-fallback"
        )
        if conversion.event not in site.events.allowed and conversion.event not in site.events.filter:
            found[StrictFinding(Severity.ERROR, "event-not-allowed", "MSH-9")] += 1
        return found

    def _count(self, found: Counter[StrictFinding], example: Example) -> None:
        for finding, times in found.items():
            broken = self.found.setdefault(finding, Broken())
            broken.messages += 1
            broken.times += times
            if len(broken.examples) < _EXAMPLES:
                broken.examples.append(example)

    def described(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "files": self.files,
            "messages": self.messages,
            "clean": self.clean,
            "findings": [
                {
                    "severity": str(finding.severity),
                    "code": finding.code,
                    "place": finding.place,
                    "detail": finding.detail,
                    "messages": broken.messages,
                    "times": broken.times,
                    "examples": [
                        {"name": one.name, "event": one.event, "version": one.version, "structure": one.structure}
                        for one in broken.examples
                    ],
                }
                for finding, broken in self._sorted()
            ],
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        for finding, broken in self._sorted():
            words = " ".join(filter(None, (finding.code, finding.place, finding.detail and f"({finding.detail})")))
            often = f", {broken.times} times" if broken.times > broken.messages else ""
            yield f"{finding.severity}: {words}: in {broken.messages} of {self.messages} messages{often}"
            first = broken.examples[0]
            said = " ".join(filter(None, (first.event, first.version, first.structure)))
            yield f"  {first.name}{': ' if said else ''}{said}"
        yield f"{self.files} files, {self.messages} messages, {self.clean} of them without a finding"

    def _sorted(self) -> list[tuple[StrictFinding, Broken]]:
        return sorted(self.found.items(), key=lambda item: (item[0].severity, -item[1].messages, item[0]))


def _example(entry: Entry, message: Message) -> Example:
    return Example(entry.name, _event(message), _version(message), structure(message))


def _event(message: Message) -> str:
    kind = message.type
    return f"{kind.code}^{kind.event}" if _plain(kind.code + kind.event) else ""


def _version(message: Message) -> str:
    version = message.header.version or ""
    return version if _plain(version.replace(".", "")) else ""


def _plain(text: str) -> bool:
    return text.isascii() and text.isalnum() and len(text) <= 8
