"""Reading HL7 v2: parse a message and read the fields that a mapping asks for; this reader, python-hl7 and hl7apy.

Runs on simhospital's recorded messages where the reference data is at hand, else on messages of its own. All three must read
the same values from the same messages, or the run fails. The others' dependency group: ``bench``. CPU time, one thread.

    python benchmarks/hl7v2.py [--quick] [--json FILE]

The last line of output is the result as JSON: messages/s and µs a message for each, and for the parts of this reader.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bridge.hl7v2.batch import split_messages  # noqa: E402 - runs from a checkout, installed or not
from bridge.hl7v2.message import Message, parse, valued_elements  # noqa: E402

PID = ((3, 1), (3, 4), (5, 1), (5, 2), (7, 1), (8, 1), (11, 1), (11, 3), (11, 5), (13, 1))
PV1 = ((2, 1), (3, 1), (3, 3), (7, 1), (7, 2), (19, 1), (44, 1), (45, 1))
OBX = ((2, 1), (3, 1), (3, 2), (5, 1), (6, 1), (7, 1), (8, 1), (11, 1), (14, 1))
WANTED = (("PID", PID), ("PV1", PV1), ("OBX", OBX))
Values = list[str]

FALLBACK = b"\r".join(
    [
        rb"MSH|^~\&|LAB|NORTH|EHR|SOUTH|20260102030405||ORU^R01|%d|P|2.3|||AL||44|ASCII",
        b"PID|1|77^^^NORTH^MR|77^^^NORTH^MR~88^^^NAT^NI||Doe^Jane^^^Ms||19800202000000|F|||1 Road^^Town^^AB1 2CD^GBR||555",
        b"PV1|1|I|ED^^^NORTH^^ED|28b|||C6^Wool^Kate^^^Dr||||MED|||||||||42|||||||||||||||||||||||||20260101000000",
        *(
            b"OBX|%d|NM|ca-%d^Analyte^WinPath||4.2|mmol/L|3.5 - 5.3|N|||F|||20260102030405|" % (n, n)
            for n in range(1, 8)
        ),
    ]
)


def messages() -> tuple[list[bytes], str]:
    base = Path(os.environ.get("HIEBRIDGE_REFERENCE_DATA", ROOT.parent / "shared" / "data"))
    recorded = base / "hl7v2" / "google-simhospital" / "messages.out"
    if recorded.exists():
        return split_messages(recorded.read_bytes()), "simhospital"
    return [FALLBACK % number for number in range(1000)], "own"


def ours(raw: bytes) -> Values:
    return read(parse(raw))


def read(message: Message) -> Values:
    kind, header = message.type, message.header
    values = [kind.code, kind.event, header.control_id, header.sending_application, header.time]
    for name, positions in WANTED:
        for segment in message.all(name):
            get = segment.get
            values += [get(field, component) or "" for field, component in positions]
    return values


def python_hl7() -> Callable[[bytes], Values] | None:
    try:
        import hl7  # noqa: PLC0415 - of the group bench only
    except ImportError:
        return None

    def one(raw: bytes) -> Values:
        message = hl7.parse(raw.decode().rstrip("\r"))

        def extract(*path: int | str) -> str:
            try:
                return message.extract_field(*path) or ""
            except IndexError:  # its answer to a component that a field without components does not have
                return ""

        values = [extract("MSH", 1, 9, 1, 1), extract("MSH", 1, 9, 1, 2)]
        values += [extract("MSH", 1, n, 1, 1) for n in (10, 3, 7)]
        counts: dict[str, int] = {}
        for segment in message:
            name = str(segment[0])
            counts[name] = counts.get(name, 0) + 1
        for name, positions in WANTED:
            for number in range(1, counts.get(name, 0) + 1):
                values += [extract(name, number, f, 1, c) for f, c in positions]
        return values

    return one


def hl7apy() -> Callable[[bytes], Values]:
    from hl7apy.parser import parse_message  # noqa: PLC0415 - takes a second to import

    def position(segment: Any, field: int, component: int) -> str:
        found = getattr(segment, f"{segment.name}_{field}".lower())
        if not found or len(found[0].children) == 0:
            return ""
        suffix = f"_{component}"
        for child in found[0].children:
            if child.name.endswith(suffix) or (component == 1 and not child.name[-1:].isdigit()):
                return child.children[0].to_er7() if child.children else child.to_er7()
        return ""

    def one(raw: bytes) -> Values:
        message = parse_message(raw.decode().rstrip("\r"), find_groups=False)
        msh = message.msh
        values = [position(msh, 9, 1), position(msh, 9, 2), *(position(msh, n, 1) for n in (10, 3, 7))]
        for name, positions in WANTED:
            for segment in message.children:
                if segment.name == name:
                    values += [position(segment, f, c) for f, c in positions]
        return values

    return one


def agree(reader: Callable[[bytes], Values], sample: Sequence[bytes]) -> None:
    """Fails where the two readers do not give the same values; escape sequences, nulls and blanks at the end left aside."""
    for raw in sample:
        pairs = zip(ours(raw), reader(raw), strict=True)
        plain = [pair for pair in pairs if "\\" not in pair[1] and pair[1] != '""']
        different = [pair for pair in plain if pair[0].rstrip() != pair[1].rstrip()]
        if different:
            raise SystemExit(f"the readers disagree on {len(different)} values of one message")


def timed(work: Callable[[bytes], object], sample: Sequence[bytes], seconds: float) -> dict[str, float]:
    """Median over passes of the CPU time a message; as many passes as fit into ``seconds``, three at least."""
    passes: list[float] = []
    until = time.perf_counter() + seconds
    while len(passes) < 3 or time.perf_counter() < until:
        start = time.process_time()
        for raw in sample:
            work(raw)
        passes.append((time.process_time() - start) / len(sample))
    each = statistics.median(passes)
    return {"us_per_message": round(each * 1e6, 1), "messages_per_second": round(1 / each)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of half a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to FILE")
    arguments = parser.parse_args()
    seconds = 1.0 if arguments.quick else 8.0
    recorded, source = messages()
    slow = recorded[:: len(recorded) // (15 if arguments.quick else 100)]

    readers: dict[str, Callable[[bytes], Values] | None] = {"python-hl7": python_hl7(), "hl7apy": hl7apy()}
    results: dict[str, Any] = {"hie-bridge": timed(ours, recorded, seconds)}
    for name, reader in readers.items():
        if reader is None:
            results[name] = None
            print(f"{name:12} not installed (dependency group bench)")
            continue
        agree(reader, slow)
        results[name] = timed(reader, slow if name == "hl7apy" else recorded, seconds)
    parts: dict[str, Callable[[bytes], object]] = {
        "parse": parse,
        "parse, every valued element": lambda raw: [list(valued_elements(s)) for s in parse(raw).segments],
    }
    measured = {name: timed(work, recorded, seconds / 4)["us_per_message"] for name, work in parts.items()}

    for name, result in results.items():
        if result:
            print(f"{name:12} {result['us_per_message']:10.1f} µs  {result['messages_per_second']:8d} messages/s")
    for name, microseconds in measured.items():
        print(f"  {name}: {microseconds} µs")
    answer = json.dumps(
        {
            "benchmark": "hl7v2",
            "messages": source,
            "count": len(recorded),
            "mean_bytes": round(sum(map(len, recorded)) / len(recorded)),
            "readers": results,
            "parts_us": measured,
            "python": platform.python_version(),
            "quick": arguments.quick,
        }
    )
    if arguments.json:
        arguments.json.write_text(answer + "\n", encoding="utf-8")
    print(answer)


if __name__ == "__main__":
    main()
