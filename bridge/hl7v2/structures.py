"""Message structures by code and event (HL7 table 0354), for messages that leave MSH-9.3 out."""

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
    return _shared().get(name, name)


@cache
def _shared() -> dict[str, str]:
    text = files("bridge.hl7v2").joinpath("structures.tsv").read_text(encoding="ascii")
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return {f"{structure[:3]}_{event}": structure for structure, events in rows for event in events.split()}
