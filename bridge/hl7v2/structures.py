"""Message structures by code and event (HL7 table 0354), for messages that leave MSH-9.3 out, and events of those without."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


def structure_of(code: str, event: str) -> str:
    """The abstract message structure of ``code`` and ``event``, e.g. ``ADT_A01`` for ADT^A04.

    Events that share no other's structure have one of their own name; an acknowledgement, and a message without event, has
    its code's name.
    """
    if not event or code == "ACK":
        return code
    name = f"{code}_{event}"
    return _rows()[0].get(name, name)


def event_of_code(code: str) -> str:
    """The only event of ``code`` before 2.3, when MSH-9 held no event; '' where there is none or more than one."""
    return _rows()[1].get(code, "")


@cache
def _rows() -> tuple[dict[str, str], dict[str, str]]:
    """Structures by their code and event, and events by their code."""
    text = files("bridge.hl7v2").joinpath("structures.tsv").read_text(encoding="ascii")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    shared = {f"{name[:3]}_{event}": name for name, events in rows if "_" in name for event in events.split()}
    return shared, {name: event for name, event in rows if "_" not in name}
