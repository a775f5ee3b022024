"""How each facility writes what happened: HL7 v2 messages with that facility's habits."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from bridge.hl7v2.delimiters import Delimiters
from bridge.hl7v2.write import escape
from bridge.synth.events import Event, Place, Value, Visit
from bridge.synth.people import NULL, Demographics, Registration
from bridge.synth.tables import Analyte, Facility, Panel, tables

ZONE: Final = ZoneInfo("Europe/London")
_STRUCTURES: Final = {"A04": "A01", "A08": "A01", "A13": "A01", "A11": "A09", "A40": "A39"}
_NEWLINES: Final = {"CR": "\r", "CRLF": "\r\n", "LF": "\n"}
_ENCODINGS: Final = {"": "ascii", "ASCII": "ascii", "8859/1": "latin-1", "UNICODE UTF-8": "utf-8"}
_FORMATS: Final = {"seconds": "%Y%m%d%H%M%S", "offset": "%Y%m%d%H%M%S%z", "milliseconds": "%Y%m%d%H%M%S.000%z"}
_LETTERS: Final = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "đ": "d", "\u0131": "i"})


def folded(text: str, encoding: str) -> str:
    """``text`` with each character that ``encoding`` lacks replaced by its plain letters, as typists do."""
    if encoding == "utf-8" or text.isascii():
        return text
    return "".join(character if _fits(character, encoding) else _plain(character) for character in text)


@lru_cache(maxsize=4096)
def _fits(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    decomposed = unicodedata.normalize("NFKD", character.translate(_LETTERS))
    return "".join(part for part in decomposed if part.isascii()) or "?"


class Scribe:
    """Writes one facility's messages."""

    def __init__(self, facility: Facility) -> None:
        self.facility = facility
        self.encoding = _ENCODINGS[facility.charset]
        self._newline = _NEWLINES[facility.newline]
        self._modern = facility.version != "2.3"
        truncation = "#" if facility.version >= "2.7" else ""
        self._delimiters = Delimiters(truncation=truncation, charset=self.encoding)
        self._format = _FORMATS[facility.timestamps]
        self._start = (
            f"MSH|{self._delimiters.encoding_characters}|{facility.application}|{facility.facility}|VALE-HIE|VALE|"
        )
        self._end = f"|P|{facility.version}" + (f"||||||{facility.charset}" if facility.charset else "")
        self.text = lru_cache(maxsize=65_536)(lambda text: escape(text, self._delimiters))
        self._code = lru_cache(maxsize=1024)(self._coded)
        self._fillers = "" if facility.namespace == "empty" else f"^{facility.facility}LAB"

    def write(self, event: Event, control_id: str) -> bytes:
        """The message of a covered event: ADT or ORU."""
        trigger = event.kind[4:]
        if event.report is not None:
            return self.joined([self.header("ORU^R01", "ORU_R01", event.time, control_id), *self._oru(event)])
        segments = [
            self.header(event.kind, f"ADT_{_STRUCTURES.get(trigger, trigger)}", event.time, control_id),
            f"EVN|{trigger}|{self.time(event.time)}",
            self.pid(event),
        ]
        if event.subsumed is not None:
            segments.append(f"MRG|{self._record(event.subsumed)}")
        elif event.visit is not None:
            segments.append(self.pv1(event.visit, trigger))
        if self.facility.z_segments:
            segments.append(f"ZPI|1|{'URGENT' if trigger == 'A01' else 'ROUTINE'}|{self.time(event.time)}")
        return self.joined(segments)

    def joined(self, segments: list[str]) -> bytes:
        """The bytes of a message, in this facility's encoding and line ends."""
        text = self._newline.join(segments) + self._newline
        try:
            return text.encode(self.encoding)
        except UnicodeEncodeError:
            return folded(text, self.encoding).encode(self.encoding)

    def header(self, kind: str, structure: str, time: int, control_id: str) -> str:
        """MSH; the structure is told from 2.5.1 on."""
        told = f"{kind}^{structure}" if self._modern and structure else kind
        return f"{self._start}{self.time(time + 1)}||{told}|{control_id}{self._end}"

    def time(self, seconds: int) -> str:
        """A moment as this facility writes it."""
        return datetime.fromtimestamp(seconds, ZONE).strftime(self._format)

    def pid(self, event: Event) -> str:
        """PID with this facility's order of identifiers; of a thin one only identifier, name, birth date and sex."""
        said, text = event.said, self.text
        name = f"{text(said.family)}^{text(said.given)}^{text(said.middle)}^{text(said.suffix)}".rstrip("^")
        begin = f"PID|1||{self._identifiers(event)}||{name}||{said.birth}|{said.sex}"
        if event.thin:
            return begin
        name_type = "^" * (6 - name.count("^")) + "L"
        begin = f"PID|1||{self._identifiers(event)}||{name}{name_type}||{said.birth}|{said.sex}"
        middle = f"|||{self._address(said)}||{self._home(said)}|{self._phone(said.mobile, 'CP')}||{'M' if said.married else 'S'}"
        registration = event.registration
        mother = self._cx(registration.mother, registration.facility) if registration.mother else ""
        if said.multiple_birth:
            return f"{begin}{middle}|||||{mother}|||Y|{said.multiple_birth}"
        return f"{begin}{middle}|||||{mother}" if mother else begin + middle

    def _identifiers(self, event: Event) -> str:
        record = self._record(event.registration)
        if not event.national or event.thin:
            return record
        national = tables().national
        authority = (
            f"{national.name}&{national.oid}&ISO" if self.facility.namespace == "name-and-oid" else national.name
        )
        evidence = f"{event.national}^^^{authority}^{national.type}"
        order = self.facility.identifiers[0]
        if order == "record" or (order == "either" and event.time % 2):
            return f"{record}~{evidence}"
        return f"{evidence}~{record}"

    def _record(self, registration: Registration) -> str:
        return self._cx(registration.identifier, registration.facility)

    def _cx(self, identifier: str, owner: Facility, kind: str = "") -> str:
        namespace = self.facility.namespace
        if namespace == "empty":
            return f"{identifier}^^^^{kind or owner.type}"
        authority = f"{owner.authority}&{owner.oid}&ISO" if namespace == "name-and-oid" else owner.authority
        return f"{identifier}^^^{authority}^{kind or owner.type}"

    def _address(self, said: Demographics) -> str:
        address = said.address
        if address is None:
            return ""
        text = self.text
        return f"{text(address.line)}^{address.unit}^{text(address.town)}^^{address.postcode}^GBR^H"

    def _home(self, said: Demographics) -> str:
        phone = self._phone(said.phone, "PH")
        if not said.email:
            return phone
        email = f"^NET^Internet^{said.email}"
        return f"{phone}~{email}" if phone else email

    def _phone(self, digits: str, equipment: str) -> str:
        """XTN of a national number; ``""`` stays the null that it is."""
        if not digits or digits == NULL:
            return digits
        area, local = digits[:5], digits[5:]
        habit = self.facility.phone
        if habit == "national":
            return f"{area} {local}^PRN^{equipment}"
        if habit == "international":
            return f"+44 {area[1:]} {local}^PRN^{equipment}"
        if habit == "components":
            return f"^PRN^{equipment}^^44^{area[1:]}^{local}"
        return f"^PRN^{equipment}^^^^^^^^^({area}) {local}"

    def pv1(self, visit: Visit, trigger: str = "") -> str:
        """PV1 with visit number, places, attending physician, admission and discharge."""
        physician = self.physician(visit.physician)
        fields = [""] * 46
        fields[0:4] = ["PV1", "1", visit.patient_class, self._place(visit.place)]
        if visit.prior is not None and trigger == "A02":
            fields[6] = self._place(visit.prior)
        fields[7], fields[10] = physician, "MED"
        fields[19] = self._cx(visit.number, self.facility, "VN")
        fields[44] = self.time(visit.admitted)
        if visit.discharged is None:
            return "|".join(fields[:45])
        fields[36], fields[45] = "01", self.time(visit.discharged)
        return "|".join(fields)

    def _place(self, place: Place) -> str:
        return f"{place.ward}^{place.room}^{place.bed}^{self.facility.facility}"

    def physician(self, index: int) -> str:
        """XCN of a physician."""
        physician = tables().physicians[index]
        return f"{physician.code}^{self.text(physician.family)}^{self.text(physician.given)}^^^Dr"

    def _oru(self, event: Event) -> list[str]:
        report = event.report
        assert report is not None
        segments = [self.pid(event)]
        own = event.registration.facility is self.facility
        if own and event.visit is not None and not event.thin:
            segments.append(self.pv1(event.visit))
        owner = event.registration.facility
        placer = report.placer if self.facility.namespace == "empty" else f"{report.placer}^{owner.facility}"
        filler = report.filler + self._fillers
        collected, reported = self.time(report.collected), self.time(report.reported)
        segments.append(f"ORC|RE|{placer}|{filler}")
        specimen = "" if self._modern else report.panel.specimen
        segments.append(
            f"OBR|1|{placer}|{filler}|{self._code(report.panel)}|||{collected}||||||||{specimen}|"
            f"{self.physician(report.orderer)}||||||{reported}||{report.panel.section}|{report.status}"
        )
        if report.note:
            segments.append(f"NTE|1|L|{self.text(report.note)}")
        segments.extend(self._obx(number, value, collected) for number, value in enumerate(report.values, 1))
        if self._modern and report.panel.specimen:
            code = report.panel.specimen
            segments.append(f"SPM|1|||{code}^{tables().specimens[code]}^HL70487|||||||||||||{collected}")
        return segments

    def _coded(self, thing: Panel | Analyte) -> str:
        standard = f"{thing.code}^{self.text(thing.name)}^LN"
        if isinstance(thing, Panel):
            local = f"{thing.local}^{self.text(thing.local_name)}^L"
        else:
            local = f"{thing.key}^{thing.key}^L"
        habit = self.facility.codes
        return standard if habit == "loinc" else local if habit == "local" else f"{standard}^{local}"

    def _obx(self, number: int, value: Value, collected: str) -> str:
        analyte = value.analyte
        kind, told = self._told(value)
        unit, limits = "", ""
        if analyte.mean is not None:
            unit = self.text(analyte.unit) if self.facility.codes == "local" else f"{self.text(analyte.unit)}^^UCUM"
            limits = f"{analyte.low:.{analyte.decimals}f}-{analyte.high:.{analyte.decimals}f}"
        return f"OBX|{number}|{kind}|{self._code(analyte)}||{told}|{unit}|{limits}|{value.flag}|||{value.status}|||{collected}"

    def _told(self, value: Value) -> tuple[str, str]:
        """OBX-2 and OBX-5."""
        local = self.facility.codes == "local"
        if value.number:
            if value.number[0] != "<":
                return "NM", value.number
            return ("ST", value.number) if local else ("SN", f"<^{value.number[1:]}")
        answer = value.answer
        if answer is not None:
            kind = "CWE" if self.facility.version >= "2.7" else "CE"
            code = f"{answer.local}^{answer.name}^L" if local else f"{answer.code}^{answer.name}^SCT"
            return kind, code
        lines = [self.text(line) for line in value.lines]
        return ("FT", "\\.br\\".join(lines)) if self._modern else ("TX", "~".join(lines))
