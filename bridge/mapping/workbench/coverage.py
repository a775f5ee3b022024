"""What became of the elements of many messages, summed by field, and which rules they exercised."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from bridge.mapping.operations import Conversion, Fate
from bridge.mapping.workbench.sources import Sources

Json = Any

_PLACE: Final = re.compile(r"(?P<segment>\w+)\[\d+\]-(?P<field>\d+)\[\d+\]\.(?P<rest>.*)")


class Place(NamedTuple):
    """A field; in order of segment and number."""

    segment: str
    field: int

    def __str__(self) -> str:
        return f"{self.segment}-{self.field}"


@dataclass(slots=True)
class Coverage:
    """The loss ledger of a feed.

    Attributes:
        converted: messages by their event.
        refused: messages by the code of the refusal.
        fates: elements by field and by what became of them.
        rules: elements by field, and the rule that read or dropped them.
        lost: unmapped elements by field and component.
        exercised: the rules that made or read something.
    """

    converted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    fates: Counter[tuple[Place, Fate]] = field(default_factory=Counter)
    rules: Counter[tuple[Place, str]] = field(default_factory=Counter)
    lost: Counter[tuple[Place, str]] = field(default_factory=Counter)
    exercised: set[str] = field(default_factory=set)

    def add(self, conversion: Conversion) -> None:
        """Adds a message; the conversion must have been made with ``explain``. FHIR input has no ledger."""
        self.converted[conversion.event] += 1
        for entry in conversion.ledger:
            match = _PLACE.fullmatch(entry.place)
            assert match is not None
            place = Place(match["segment"], int(match["field"]))
            self.fates[place, entry.fate] += 1
            if entry.rule:
                self.rules[place, entry.rule] += 1
                self.exercised.add(entry.rule)
            else:
                self.lost[place, match["rest"]] += 1
        self.exercised.update(output.rule for output in conversion.outputs)

    def join(self, other: Coverage) -> None:
        """Adds the messages of another feed."""
        self.converted += other.converted
        self.refused += other.refused
        self.fates += other.fates
        self.rules += other.rules
        self.lost += other.lost
        self.exercised |= other.exercised

    def total(self, fate: Fate) -> int:
        """How many elements came to that."""
        return sum(count for (_, one), count in self.fates.items() if one is fate)

    def places(self) -> list[Place]:
        """The fields that were valued, in order."""
        return sorted({place for place, _ in self.fates})

    def described(self) -> dict[str, Json]:
        """As plain data."""
        return {
            "converted": dict(self.converted.most_common()),
            "refused": dict(self.refused.most_common()),
            "elements": {str(fate): self.total(fate) for fate in Fate},
            "fields": [
                {"field": str(place)}
                | {str(fate): self.fates[place, fate] for fate in Fate}
                | {
                    "rules": {rule: count for (one, rule), count in self.rules.items() if one == place},
                    "unmapped_components": {rest: count for (one, rest), count in self.lost.items() if one == place},
                }
                for place in self.places()
            ],
        }

    def lines(self, *, lost_only: bool) -> Iterator[str]:
        """As text, a line a field.

        Args:
            lost_only: leave out the fields of which nothing is unmapped.
        """
        counts = {fate: self.total(fate) for fate in Fate}
        everything = sum(counts.values())
        refused = (
            f" ({', '.join(f'{code} {count}' for code, count in self.refused.most_common())})" if self.refused else ""
        )
        yield f"{self.converted.total()} messages converted, {self.refused.total()} refused{refused}"
        told = ", ".join(
            f"{count} {name} ({100 * count / max(everything, 1):.1f} %)"
            for name, count in (
                ("mapped", counts[Fate.MAPPED]),
                ("dropped by rule", counts[Fate.DROPPED]),
                ("unmapped", counts[Fate.UNMAPPED]),
            )
        )
        yield f"elements: {told}"
        shown = [place for place in self.places() if self.fates[place, Fate.UNMAPPED] or not lost_only]
        if shown:
            yield f"  {'field':8} {'mapped':>9} {'dropped':>9} {'unmapped':>9}"
        for place in shown:
            mapped, dropped, lost = (self.fates[place, fate] for fate in (Fate.MAPPED, Fate.DROPPED, Fate.UNMAPPED))
            parts = sorted({rest for one, rest in self.lost if one == place})
            where = f"  .{', .'.join(parts[:8])}{', …' if len(parts) > 8 else ''}" if lost else ""
            yield f"  {place!s:8} {mapped:9} {dropped:9} {lost:9}{where}"


def rule_names(sources: Sources) -> list[str]:
    """Every rule of the segment maps by the name that ledgers and explanations give it, in order of the files."""
    return [
        f"{source.label}#{name}"
        for source in sources.of("segments")
        for _, entry in source.content.map("maps").maps()
        for name in entry.map("rules")
    ]


def fields_read(sources: Sources) -> set[Place]:
    """The fields that a rule of a segment map reads."""
    found: set[Place] = set()
    for source in sources.of("segments"):
        for _, entry in source.content.map("maps").maps():
            for _, rule in entry.map("rules").maps():
                for text in rule.texts("from"):
                    segment, _, rest = text.partition("-")
                    if rest:
                        found.add(Place(segment, int(rest.partition(".")[0])))
    return found


class Followed(NamedTuple):
    """How far mappings and messages reach into the official guide.

    Attributes:
        there: fields for which the guide's segment maps have a target.
        read: those that a rule of ours reads.
        exercised: those of which a message had something mapped.
        unread: the others, in order.
    """

    there: int
    read: int
    exercised: int
    unread: tuple[str, ...]


def followed(guide: Iterable[Place], read: set[Place], messages: Coverage) -> Followed:
    """Holds the fields of the guide against what rules read and messages exercised."""
    fields = set(guide)
    mapped = {place for (place, fate), count in messages.fates.items() if fate is Fate.MAPPED and count}
    unread = tuple(str(place) for place in sorted(fields - read))
    return Followed(len(fields), len(fields & read), len(fields & mapped), unread)
