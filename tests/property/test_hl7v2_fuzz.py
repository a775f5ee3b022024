"""Mutated messages by the hundred thousand: a message, or an error of the closed categories; and what hostile ones cost."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from datetime import UTC, datetime

import pytest

from bridge.errors import BridgeError, Category
from bridge.hl7v2.acknowledge import AckCode, acknowledge, read_asked
from bridge.hl7v2.batch import read_batch
from bridge.hl7v2.message import NULL, Limits, parse, unescape, valued_elements
from bridge.hl7v2.mllp import FrameReader, frame
from bridge.hl7v2.write import write
from tests.reference import reference_data

NOW = datetime(2026, 2, 28, tzinfo=UTC)
ENDLESS = 300  # answers to one message are asked for up to here
HEADER = b"MSH|^~\\&|A|B|C|D|2026||ADT^A01|7|P|2.5"
OWN = [
    HEADER + b'||||||%s\rPID|1||77^^^N&1.2&ISO^MR~78||Doe^Jane^""|\\F\\\\X41\\\\.br\\|""\rOBX|1|TX|1||a\rb\r' % charset
    for charset in (
        b"",
        b"ASCII",
        b"8859/1~8859/7",
        b"UNICODE UTF-8",
        b"~ISO IR87",
        b"BIG-5",
        b"GB 18030-2000",
        b"ISO IR14",
    )
]
OWN += [OWN[0].decode().encode(name) for name in ("utf-16", "utf-16-be", "utf-32-le")]
OWN += [b"FHS|^~\\&|A\rBHS|^~\\&|B\r" + OWN[1] + OWN[2] + b"BTS|2\rFTS|1\r"]
PIECES = [
    *(b"|", b"^", b"~", b"\\", b"&", b"#", b"\r", b"\n", b"\r\n", b"\x0b", b"\x1c\r", b"\x00", b'""', b"MSH|^~\\&|", b"\rPID|"),
    *(b"\rBTS|9", b"\x1b$B", b"\x1b(B", b"\x1b-F", b"\\M2442\\", b"\\C2842\\", b"\\X1B\\", b"\\.in+99\\", b"\\.sp99\\", b"\xff\xfe"),
    *(b"\xc3\xa9", b"\xe9", b"\xed\xa0\x80", b"\x8e\xa2\xa1\xa1", b"||||||BIG-5", b"||||||UNICODE UTF-16", b"~" * 300, b"&" * 300),
]  # fmt: skip


def mutated(source: random.Random, seeds: list[bytes]) -> bytes:
    """A message with one to eight wounds: bytes changed, cut out, doubled, put in, or half of another message behind it."""
    raw = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, 8)):
        start = source.randrange(len(raw) + 1)
        end = min(len(raw), start + source.choice((1, 1, 2, 8, 40)))
        match source.randrange(6):
            case 0:
                raw[start:end] = bytes(byte ^ (1 << source.randrange(8)) for byte in raw[start:end])
            case 1:
                del raw[start:end]
            case 2:
                raw[start:start] = raw[start:end]
            case 3:
                other = source.choice(seeds)
                raw[start:] = other[source.randrange(len(other)) :]
            case _:
                raw[start:start] = source.choice(PIECES)
    return bytes(raw)


def use(raw: bytes) -> str:
    """Everything that is done with a message; the code of its refusal, or ``read``."""
    acknowledge(read_asked(raw[:16_384]), AckCode.REJECT, control_id="1", now=NOW)
    try:
        parts = read_batch(raw).messages
        message = parse(raw)
    except BridgeError as error:
        if error.category not in (Category.INCORRECT, Category.UNSUPPORTED):
            raise
        return error.code
    assert parts
    assert message.type.code is not None
    assert message.header.version is not None
    for segment in message.segments:
        for element in list(valued_elements(segment))[:ENDLESS]:
            if element.text is not NULL:
                unescape(element.text, message.delimiters)
            segment.get(element.field, element.component, element.subcomponent, element.repetition)
    again = parse(write(message), charset=message.charset)
    assert [segment.name for segment in again.segments] == [segment.name for segment in message.segments]
    return "read"


def run(count: int, seed: int, seeds: list[bytes]) -> Counter[str]:
    source = random.Random(seed)
    found: Counter[str] = Counter()
    for number in range(count):
        raw = mutated(source, seeds)
        try:
            found[use(raw)] += 1
        except Exception as error:
            error.add_note(f"seed {seed}, message {number}: {raw!r}")
            raise
    return found


def test_a_thousand_mutated_messages():
    """A sample of the long run."""
    assert run(1000, 1, OWN)["read"] > 100


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10, 20))
def test_two_hundred_thousand_mutated_messages(seed):
    """Ten times twenty thousand, of every published message and of our own: none breaks the reader, the writer or the answer."""
    base = reference_data("hl7v2")
    published = [path.read_bytes() for path in sorted(base.rglob("*.hl7"))]
    seeds = [raw for raw in published if 0 < len(raw) < 8000] + OWN * 10
    found = run(20_000, seed, seeds)

    assert found["read"] > 4000
    assert len(found) > 5


def hostile() -> dict[str, bytes]:
    """Messages that are built to cost more than their size."""
    million = 1_000_000
    return {
        "a million repetitions": HEADER + b"\rPID|||" + b"~" * million,
        "a million repetitions, valued": HEADER + b"\rPID|||" + b"1~" * million,
        "a million components": HEADER + b"\rPID|||" + b"a^" * million,
        "a million subcomponents": HEADER + b"\rPID|||" + b"a&" * million,
        "a million fields": HEADER + b"\rPID" + b"|" * million,
        "a million segments": HEADER + b"\rNTE|1" * million,
        "a million lines": HEADER + b"\r" * million + b"NTE|1",
        "a million lines that go on": HEADER + b"\rx" * million,
        "a million names alone": HEADER + b"\rNTE" * million,
        "a million escape characters": HEADER + b"\rNTE|1||" + b"\\" * million,
        "a million line feeds by escape": HEADER + b"\rNTE|1||" + b"\\.sp99\\" * (million // 7),
        "a million margins": HEADER + b"\rNTE|1||\\.in99\\" + b"\\.br\\" * (million // 5),
        "nested escapes": HEADER + b"\rNTE|1||" + b"\\E\\X41" * (million // 6),
        "hexadecimal without end": HEADER + b"\rNTE|1||\\X" + b"41" * million,
        "a million designations": HEADER + b"||||||~ISO IR87\rNTE|1||" + b"\x1b$B;3\x1b(B" * (million // 8),
        "designations that end nowhere": HEADER + b"||||||~ISO IR87\rNTE|1||" + b"\x1b" * million,
        "trailers without end": b"FHS|^~\\&\r" + b"BTS|1\r" * (million // 6),
        "messages without end": (HEADER + b"\r") * (million // 40),
        "blanks without end": b" " * million + b"MSH",
        "zeros without end": b"\0" * million,
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_messages_cost_a_bounded_multiple_of_their_size(name):
    """Refused by name or read whole, with never more than a fixed multiple of memory: sixty bytes a byte, escapes spelled out."""
    raw = hostile()[name]
    tracemalloc.start()
    try:
        outcome = asked_whole(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert outcome
    assert peak < 60 * len(raw) + 2_000_000


def asked_whole(raw: bytes) -> str:
    try:
        read_batch(raw)
        message = parse(raw)
    except BridgeError as error:
        if error.category is not Category.INCORRECT:
            raise
        return error.code
    for segment in message.segments:
        for element in valued_elements(segment):
            unescape(element.text, message.delimiters)
    return "read"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("a million repetitions", "too-many-elements"),
        ("a million fields", "too-many-elements"),
        ("a million lines", "too-many-lines"),
        ("messages without end", "several-messages"),
        ("zeros without end", "not-hl7"),
        ("a million line feeds by escape", "read"),
    ],
)
def test_what_hostile_messages_are_told(name, code):
    """The limit that each breaks first."""
    assert asked_whole(hostile()[name]) == code


def test_a_limit_that_is_raised_lets_them_in():
    """The limits, and nothing else, stand between a message and being read."""
    wide = Limits(repetitions=10**7, elements=10**7)

    assert len(parse(hostile()["a million repetitions"], limits=wide).segments[1].repetitions(3)) == 1_000_001


@pytest.mark.parametrize("cut", range(0, len(OWN[1]), 7))
def test_a_message_that_lost_its_end(cut):
    """Half a message over MLLP is no frame; half a message in a file is read as far as it came, or refused by name."""
    whole = OWN[1]
    reader = FrameReader(1 << 20)
    left = [*reader.feed(frame(whole)[: cut + 1]), *reader.finish()]

    assert not [one for one in left if hasattr(one, "content")]
    assert use(whole[:cut]) in ("read", "not-hl7", "msh-truncated")
