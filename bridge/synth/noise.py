"""Messages that a bridge cannot or should not take in: events outside its maps, and malformed bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bridge.synth.events import Event
from bridge.synth.scribe import Scribe

_FOREIGN: Final = "ELSEWHERE"


def uncovered(scribe: Scribe, event: Event, control_id: str) -> bytes:
    """A well-formed message of an event that no map covers (``event.kind``), about ``event.registration``."""
    now, pid = scribe.time(event.time), scribe.pid(event)
    evn, account = f"EVN|{event.kind[4:]}|{now}", f"X{control_id}"
    body = {
        "SIU^S12": [f"SCH|{account}|{account}|||||FOLLOWUP^Follow-up^L", pid, f"AIL|1||CLINIC^1|||{now}"],
        "MFN^M02": [f"MFI|STF^Staff^HL70175||UPD|{now}|{now}|AL", f"MFE|MUP|{account}|{now}|1001", "STF|1001"],
        "RDE^O11": [pid, f"ORC|NW|{account}", "RXE||PARA^Paracetamol^L|500||mg", "RXR|PO^Oral^HL70162"],
        "DFT^P03": [evn, pid, f"FT1|1|||{now}||CG|0100^Consultation^L|||1"],
        "BAR^P01": [evn, pid, f"PV1|1|O|||||||||||||||||{account}"],
    }[event.kind]
    return scribe.joined([scribe.header(event.kind, "", event.time, control_id), *body])


def malformed(scribe: Scribe, event: Event, control_id: str) -> bytes:
    """Bytes that are wrong in the way that ``event.kind`` names after ``malformed/``."""
    return MALFORMED[event.kind.removeprefix("malformed/")](scribe, event, control_id)


def _update(scribe: Scribe, event: Event, control_id: str, pid: str | None = None) -> list[str]:
    evn = f"EVN|A08|{scribe.time(event.time)}"
    header = scribe.header("ADT^A08", "ADT_A01", event.time, control_id)
    return [header, evn, scribe.pid(event) if pid is None else pid, "PV1|1|O"]


def _not_hl7(_scribe: Scribe, _event: Event, control_id: str) -> bytes:
    return f"PRINT JOB {control_id} CANCELLED BY OPERATOR\r\n".encode()


def _msh_truncated(scribe: Scribe, event: Event, control_id: str) -> bytes:
    return "|".join(_update(scribe, event, control_id)[0].split("|")[:7]).encode()


def _charset_invalid(scribe: Scribe, event: Event, control_id: str) -> bytes:
    segments = _update(scribe, event, control_id)
    segments[0] = _with_field_18(segments[0], "UNICODE UTF-8")
    return "\r".join(segments).encode("ascii", "replace").replace(b"PID|1||", b"PID|1|\xe9t\xe9|", 1) + b"\r"


def _charset_unsupported(scribe: Scribe, event: Event, control_id: str) -> bytes:
    segments = _update(scribe, event, control_id)
    segments[0] = _with_field_18(segments[0], "VENDOR 7")
    return scribe.joined(segments)


def _delimiters_invalid(scribe: Scribe, event: Event, control_id: str) -> bytes:
    return scribe.joined(_update(scribe, event, control_id)).replace(b"MSH|^~\\&", b"MSH|^^^^", 1)


def _several_messages(scribe: Scribe, event: Event, control_id: str) -> bytes:
    return scribe.joined(_update(scribe, event, control_id) + _update(scribe, event, f"{control_id}B"))


def _patient_missing(scribe: Scribe, event: Event, control_id: str) -> bytes:
    segments = _update(scribe, event, control_id)
    return scribe.joined([segment for segment in segments if not segment.startswith("PID")])


def _patient_without_identifier(scribe: Scribe, event: Event, control_id: str) -> bytes:
    fields = scribe.pid(event).split("|")
    fields[3] = ""
    return scribe.joined(_update(scribe, event, control_id, "|".join(fields)))


def _foreign_merge(scribe: Scribe, event: Event, control_id: str) -> bytes:
    """A merge by numbers of an authority that the site's file does not list."""
    fields = scribe.pid(event).split("|")
    fields[3] = f"{control_id}^^^{_FOREIGN}^MR"
    header = scribe.header("ADT^A40", "ADT_A39", event.time, control_id)
    segments = [header, f"EVN|A40|{scribe.time(event.time)}", "|".join(fields), f"MRG|{control_id}9^^^{_FOREIGN}^MR"]
    return scribe.joined(segments)


def _with_field_18(header: str, charset: str) -> str:
    fields = header.split("|")[:12]
    return "|".join([*fields, "", "", "", "", "", charset])


MALFORMED: Final[dict[str, Callable[[Scribe, Event, str], bytes]]] = {
    "not-hl7": _not_hl7,
    "msh-truncated": _msh_truncated,
    "charset-invalid": _charset_invalid,
    "charset-unsupported": _charset_unsupported,
    "delimiters-invalid": _delimiters_invalid,
    "several-messages": _several_messages,
    "patient-missing": _patient_missing,
    "patient-without-identifier": _patient_without_identifier,
    "foreign-merge": _foreign_merge,
}
