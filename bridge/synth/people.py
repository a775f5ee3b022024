"""The people of the region and what each facility believes of them.

Everything here is a pure function of the seed and the person's number, so that a region of a million people needs no
memory of them. People come in blocks of six, each block holding the households of one neighbourhood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from random import Random
from typing import Final

from bridge.synth.tables import Facility, GivenName, Town, tables, weighted

BLOCK: Final = 6
NULL: Final = '""'
_TODAY: Final = date(2024, 1, 8)
_DOMAINS: Final = {"block": 1, "registration": 2, "journey": 3, "noise": 4, "home": 5}


@dataclass(frozen=True, slots=True)
class Variation:
    """How people and the facilities' beliefs about them differ; each a fraction of the cases named.

    Attributes:
        second: people registered at a second facility; ``third``: of those, at a third one too.
        duplicate: people whom their first facility registers twice and merges later (A40).
        nickname, typo, swapped, transposed, moved, phone_changed, unreachable, maiden, no_middle: registrations beyond
            the first that use a short form, misspell a name, swap given and family name, swap day and month of birth,
            carry the former address, another phone, no phone, the name before marriage, no middle name.
        life_event: people who move, marry, change or lose a phone during their first stay and report it (A08).
    """

    second: float = 0.35
    third: float = 0.3
    duplicate: float = 0.06
    nickname: float = 0.12
    typo: float = 0.06
    swapped: float = 0.01
    transposed: float = 0.02
    moved: float = 0.10
    phone_changed: float = 0.12
    unreachable: float = 0.05
    maiden: float = 0.25
    no_middle: float = 0.4
    life_event: float = 0.25


@dataclass(frozen=True, slots=True)
class Address:
    """A postal address in a made-up town."""

    line: str
    unit: str
    town: str
    postcode: str


@dataclass(frozen=True, slots=True)
class Demographics:
    """What a facility believes of someone. ``birth`` is YYYYMMDD; phones are national digits, ``""`` (HL7 null) or empty."""

    family: str
    given: str
    middle: str
    suffix: str
    sex: str
    birth: str
    address: Address | None
    phone: str
    mobile: str
    email: str
    married: bool = False
    multiple_birth: int = 0


@dataclass(frozen=True, slots=True)
class Person:
    """Someone who lives in the region: the truth that the facilities' beliefs vary.

    Attributes:
        number: 0-based, the person's name in the truth.
        said: the person's own, current account.
        maiden: family name before marriage, where it was another.
        former_address, former_phone: from before the last move or change.
        national: number in the region's own numbering, with a Luhn check digit.
        newborn: born in the simulated time, at ``born`` (seconds since the epoch); ``mother`` is a person's number.
    """

    number: int
    said: Demographics
    nicknames: tuple[str, ...]
    maiden: str
    former_address: Address
    former_phone: str
    national: str
    newborn: bool = False
    born: int = 0
    mother: int | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """A person's record at a facility.

    Attributes:
        slot: 0 for the first record of the person there, 1 for an accidental second one.
        identifier: the facility's own number for the record.
        national: as the facility knows it; empty if it doesn't.
        said: what is believed at first; ``later``: after the person's life event (the same object without one).
        mother: the mother's number, where the facility is her first one too.
    """

    person: int
    facility: Facility
    slot: int
    identifier: str
    national: str
    said: Demographics
    later: Demographics
    mother: str = ""


def stream(seed: int, domain: str, number: int, turn: int = 0) -> Random:
    """An independent generator for one purpose; only its ``random()`` and ``gauss()`` are the same in every Python."""
    return Random((seed << 96) | (_DOMAINS[domain] << 88) | (number << 40) | turn)  # noqa: S311 - not for secrets


def national_number(seed: int, person: int) -> str:
    """Ten digits, unique in a region of up to 10⁸ people, the last one a Luhn check digit."""
    digits = f"9{(person * 48_271_409 + seed * 7_919 + 11) % 100_000_000:08d}"
    total = sum(int(d) if i % 2 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(digits))
    return f"{digits}{-total % 10}"


def record_number(facility: Facility, person: int, slot: int) -> str:
    """A facility's own number: unique there, and the same digits may stand for someone else at another facility."""
    return facility.mrn.format(facility.mrn_start + facility.mrn_step * (2 * person + slot))


def people_of_block(seed: int, block: int, born: Callable[[int], int]) -> tuple[Person, ...]:
    """The six people of a block; ``born`` answers when a newborn of that number comes to the world (epoch seconds)."""
    rng = stream(seed, "block", block)
    pattern = tables().households[weighted(tables().household_bounds, rng.random())]
    people: list[Person] = []
    for index, members in enumerate(pattern):
        people.extend(_household(seed, rng, members, block * BLOCK + len(people), block * BLOCK + index, born))
    return tuple(people)


class Population:
    """Looks people up by number, keeping the last few blocks.

    Args:
        seed: of the region.
        born: when a newborn of a number comes to the world (epoch seconds).
    """

    def __init__(self, seed: int, born: Callable[[int], int]) -> None:
        self._block = lru_cache(maxsize=64)(lambda block: people_of_block(seed, block, born))

    def __getitem__(self, number: int) -> Person:
        return self._block(number // BLOCK)[number % BLOCK]

    def newborn_siblings(self, number: int) -> tuple[Person, ...]:
        """All newborns of the block of a newborn, in order of birth."""
        return tuple(person for person in self._block(number // BLOCK) if person.newborn)


def _household(
    seed: int, rng: Random, members: str, first: int, household: int, born: Callable[[int], int]
) -> list[Person]:
    draw = rng.random
    address, former = _address(rng), _address(rng)
    phone = f"01632{household * 314_159 % 500_000:06d}"
    former_phone = f"01632{(household * 271_829 + 77) % 500_000:06d}"
    family = _surname(rng)
    parents_age = 24 + int(draw() * 40) if members != "s" else 18 + int(draw() * 75)
    if "J" in members:
        parents_age = max(parents_age, 45)
    young = max(1, min(17, parents_age - 19))
    twin_sex, twin_birth = "FM"[draw() < 0.5], _birth(rng, int(draw() * young))
    baby_birth = 0
    taken: set[str] = set()
    found: list[Person] = []
    for offset, role in enumerate(members):
        number = first + offset
        sex = {"a": "F", "A": "M", "f": "F", "m": "M", "J": "M", "t": twin_sex}.get(role) or "FM"[draw() < 0.5]
        given = _given(rng, sex, taken)
        maiden, suffix, order = "", "", 0
        if role == "a" and "A" in members:
            maiden = _surname(rng) if draw() < 0.7 else ""
        if role == "t":
            birth, order = twin_birth, members[: offset + 1].count("t")
        elif role == "n":
            baby_birth = baby_birth or born(number)
            birth = date.fromordinal(date(1970, 1, 1).toordinal() + baby_birth // 86_400).strftime("%Y%m%d")
            order = members[: offset + 1].count("n") if members.count("n") > 1 else 0
        elif role in "fm":
            birth = _birth(rng, int(draw() * young))
        elif role == "J":
            father = next(person for person in found if person.said.sex == "M")
            given, suffix = GivenName(father.said.given, father.nicknames), "Jr"
            birth = _birth(rng, 18 + int(draw() * (parents_age - 40)))
        else:
            birth = _birth(rng, max(18, parents_age + int(draw() * 9) - 4))
        adult = role in "aAsJ"
        said = Demographics(
            family=family,
            given=given.name,
            middle=_given(rng, sex, set()).name if draw() < 0.55 else "",
            suffix=suffix,
            sex=sex,
            birth=birth,
            address=address,
            phone=phone if draw() < 0.9 else "",
            mobile=f"01632{500_000 + number * 161_803 % 500_000:06d}" if adult and draw() < 0.8 else "",
            email=f"p{number}@post.example" if adult and draw() < 0.5 else "",
            married=role in "aA",
            multiple_birth=order,
        )
        found.append(
            Person(
                number=number,
                said=said,
                nicknames=given.nicknames,
                maiden=maiden,
                former_address=former,
                former_phone=former_phone,
                national=national_number(seed, number),
                newborn=role == "n",
                born=baby_birth if role == "n" else 0,
                mother=first if members[0] == "a" and not adult else None,
            )
        )
    return found


def _surname(rng: Random) -> str:
    """By the law of Zipf and Mandelbrot (the first takes about 1 %); one in twenty-five is double-barrelled."""
    surnames = tables().surnames
    name = surnames[_rank(rng, len(surnames))]
    return f"{name}-{surnames[_rank(rng, len(surnames))]}" if rng.random() < 0.04 else name


def _rank(rng: Random, count: int, offset: int = 20) -> int:
    """0 ≤ rank < ``count`` with a probability proportional to 1 / (rank + ``offset``)."""
    return min(count - 1, int(offset * ((count + offset) / offset) ** rng.random()) - offset)


def _given(rng: Random, sex: str, taken: set[str]) -> GivenName:
    names = tables().given[sex]
    while True:
        name = names[int(rng.random() * len(names))]
        if name.name not in taken:
            taken.add(name.name)
            return name


def _birth(rng: Random, age: int) -> str:
    return date.fromordinal(_TODAY.toordinal() - 365 * age - age // 4 - 1 - int(rng.random() * 364)).strftime("%Y%m%d")


def _address(rng: Random) -> Address:
    draw, streets, towns = rng.random, tables().streets, tables().towns
    town: Town = towns[int(draw() * len(towns))]
    letters = "ABDEFGHJLNPQRSTUWXYZ"
    code = letters[int(draw() * 20)] + letters[int(draw() * 20)]
    return Address(
        line=f"{1 + int(draw() * 140)} {streets[int(draw() * len(streets))]}",
        unit=f"Flat {1 + int(draw() * 12)}" if draw() < 0.2 else "",
        town=town.name,
        postcode=f"{town.district} {1 + int(draw() * 9)}{code}",
    )


def registrations_of(seed: int, person: Person, variation: Variation) -> tuple[Registration, ...]:
    """Where a person is registered: the first facility's record, the others', then an accidental second one at the first."""
    rng = stream(seed, "registration", person.number)
    draw = rng.random
    home = home_facility(seed, person.number)
    birthplace = home if person.mother is None else home_facility(seed, person.mother)
    found = [_first(rng, person, birthplace if person.newborn else home, variation)]
    if person.mother is not None and found[0].facility is birthplace:
        found[0] = replace(found[0], mother=record_number(birthplace, person.mother, 0))
    if not person.newborn:
        while len(found) < 3 and draw() < (variation.second, variation.third)[len(found) - 1]:
            facility = _hospital(rng, tuple(registration.facility for registration in found))
            found.append(_registration(rng, person, facility, 0, _varied(rng, person, variation)))
        if draw() < variation.duplicate:
            found.append(_registration(rng, person, found[0].facility, 1, _varied(rng, person, variation)))
    return tuple(found)


def home_facility(seed: int, person: int) -> Facility:
    """The facility of a person's first record; newborns instead have their mother's."""
    return _hospital(stream(seed, "home", person), ())


def _hospital(rng: Random, taken: tuple[Facility, ...]) -> Facility:
    while True:
        facility = tables().hospitals[weighted(tables().hospital_bounds, rng.random())]
        if facility not in taken:
            return facility


def _registration(
    rng: Random, person: Person, facility: Facility, slot: int, said: Demographics, later: Demographics | None = None
) -> Registration:
    return Registration(
        person=person.number,
        facility=facility,
        slot=slot,
        identifier=record_number(facility, person.number, slot),
        national=person.national if rng.random() * 100 < facility.national_percent else "",
        said=said,
        later=later or said,
    )


def _first(rng: Random, person: Person, facility: Facility, variation: Variation) -> Registration:
    now = person.said
    if person.newborn:
        order = f" {now.multiple_birth}" if now.multiple_birth else ""
        unnamed = replace(now, given=f"Baby {'Girl' if now.sex == 'F' else 'Boy'}{order}", middle="")
        return _registration(rng, person, facility, 0, unnamed, now)
    before = now
    if rng.random() < variation.life_event:
        event = rng.random()
        if event < 0.3:
            before = replace(now, address=person.former_address)
        elif event < 0.5 and person.maiden:
            before = replace(now, family=person.maiden, married=False)
        elif event < 0.8 and now.phone:
            before = replace(now, phone=person.former_phone)
        elif now.mobile:
            return _registration(rng, person, facility, 0, now, replace(now, mobile=NULL))
    return _registration(rng, person, facility, 0, before, now)


def _varied(rng: Random, person: Person, variation: Variation) -> Demographics:
    """What someone else wrote down: the person's account with slips, older facts, short forms."""
    draw, now = rng.random, person.said
    family, given, birth = now.family, now.given, now.birth
    if person.maiden and draw() < variation.maiden:
        family = person.maiden
    if person.nicknames and draw() < variation.nickname:
        given = person.nicknames[int(draw() * len(person.nicknames))]
    if draw() < variation.typo:
        given = _misspelt(rng, given)
    elif draw() < variation.typo:
        family = _misspelt(rng, family)
    if draw() < variation.swapped:
        family, given = given, family
    if draw() < variation.transposed and birth[6:] <= "12":
        birth = birth[:4] + birth[6:] + birth[4:6]
    address = person.former_address if draw() < variation.moved else now.address
    phone = person.former_phone if draw() < variation.phone_changed else now.phone
    phone = "" if draw() < variation.unreachable else phone
    middle = "" if draw() < variation.no_middle else now.middle
    return replace(now, family=family, given=given, middle=middle, birth=birth, address=address, phone=phone, email="")


def _misspelt(rng: Random, name: str) -> str:
    """One slip of the finger: two letters swapped, one lost, one doubled."""
    if len(name) < 4:
        return name
    at = 1 + int(rng.random() * (len(name) - 2))
    slip = rng.random()
    if slip < 0.4:
        return name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    if slip < 0.7:
        return name[:at] + name[at + 1 :]
    return name[:at] + name[at] + name[at:]
