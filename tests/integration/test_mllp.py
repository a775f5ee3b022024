"""The MLLP listener over real sockets on loopback: what senders are told, and what reaches the intake."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from adapters.sources.mllp import MllpListener, MllpSettings
from adapters.sources.mllp_client import MllpSender
from bridge.errors import Incorrect, Unavailable
from bridge.hl7v2.batch import split_messages
from bridge.hl7v2.message import parse
from bridge.hl7v2.mllp import Frame, FrameReader, frame
from bridge.pipeline.ports import ContentKind, RawMessage, Receipt
from bridge.telemetry.metrics import REGISTRY
from bridge.telemetry.stop import Stop
from tests.integration.certificates import authority, certificate, written
from tests.reference import ROOT, reference_data


def message(number: int, content: bytes = b"Doe") -> bytes:
    return b"MSH|^~\\&|LAB|NORTH|EHR|SOUTH|2026||ADT^A08|%d|P|2.5.1\rPID|1||77||%s\r" % (number, content)


class MemoryIntake:
    """Keeps messages; ``failures`` are raised, one for each message, before any is kept."""

    def __init__(self, *failures: Exception, delay_seconds: float = 0) -> None:
        self.kept: list[RawMessage] = []
        self.failures = list(failures)
        self.delay = delay_seconds
        self.began = asyncio.Event()

    async def accept(self, raw: RawMessage) -> Receipt:
        self.began.set()
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.failures:
            raise self.failures.pop(0)
        self.kept.append(raw)
        return Receipt(str(len(self.kept)))

    @property
    def contents(self) -> list[bytes]:
        return [raw.content for raw in self.kept]


@contextlib.asynccontextmanager
async def listening(intake: MemoryIntake, **settings: object) -> AsyncIterator[tuple[int, Stop, asyncio.Task[None]]]:
    """A listener on a free port: the port, what stops it, and its task."""
    listener = MllpListener("mllp-1", MllpSettings(port=0, **settings))
    stop = Stop()
    task = asyncio.create_task(listener.run(intake, stop))
    opened = asyncio.create_task(listener.listening())
    await asyncio.wait({task, opened}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield await asyncio.wait_for(opened, 0.1) if not task.done() else task.result(), stop, task
    finally:
        opened.cancel()
        stop.set()
        await asyncio.wait_for(task, 20)


async def exchange(port: int, *pieces: bytes, answers: int | None = None) -> list[bytes]:
    """Sends the pieces and reads acknowledgements: ``answers`` of them, or all until the listener closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    if answers is None:
        writer.write_eof()
    frames, found = FrameReader(100_000), []
    while answers is None or len(found) < answers:
        data = await asyncio.wait_for(reader.read(65_536), 10)
        if not data:
            break
        found += [f.content for f in frames.feed(data) if isinstance(f, Frame)]
    writer.close()
    return found


def codes(answers: list[bytes]) -> list[tuple[str, str]]:
    """MSA-1 and MSA-2 of each."""
    read = [parse(answer).segment("MSA") for answer in answers]
    return [(msa.get(1) or "", msa.get(2) or "") for msa in read if msa]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario(), debug=False)


def test_a_durable_message_is_accepted():
    """AA with the sender's control id; the intake got the bytes without framing, their kind, source and time."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake) as (port, _, _), MllpSender("127.0.0.1", port) as sender:
            first, second = await sender.send(message(1)), await sender.send(message(2))

        assert [(a.code, a.control_id, a.error) for a in (first, second)] == [("AA", "1", ""), ("AA", "2", "")]
        assert parse(first.raw).header.control_id != parse(second.raw).header.control_id
        assert intake.contents == [message(1), message(2)]
        assert {(raw.source, raw.kind) for raw in intake.kept} == {("mllp-1", ContentKind.HL7V2)}
        assert all(raw.received_us > 1_700_000_000_000_000 for raw in intake.kept)

    run(scenario)


@pytest.mark.parametrize("failure", [Unavailable("down", "x"), RuntimeError("Doe"), OSError("Doe")])
def test_storage_failure_closes_the_connection(failure):
    """Whatever the failure: what comes behind on the same connection is not taken out of order."""

    async def scenario():
        intake = MemoryIntake(failure)
        async with listening(intake) as (port, _, _):
            assert await exchange(port, frame(message(1)) + frame(message(2)), answers=2) == []
            assert intake.kept == []

            assert codes(await exchange(port, frame(message(1)) + frame(message(2)), answers=2)) == [
                ("AA", "1"),
                ("AA", "2"),
            ]

    run(scenario)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"not HL7 at all", "not-hl7"),
        (b"", "not-hl7"),
        (b"MSH|^~\\&|LAB", "msh-truncated"),
        (b"MSH|^^^^|A|B|C|D|2026||ADT^A01|9|P|2.5", "delimiters-invalid"),
        (b"FHS|^~\\&|LAB\r" + message(9), "hl7-batch"),
        (message(9, b"x" * 3000), "message-too-large"),
    ],
)
def test_what_can_never_be_accepted_is_rejected(content, error):
    """AR that names the cause, and the connection goes on with the next message."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake, max_message_bytes=2048) as (port, _, _):
            rejected, accepted = await exchange(port, frame(content), frame(message(2)), answers=2)

        assert codes([rejected, accepted]) == [("AR", "9" if error == "message-too-large" else ""), ("AA", "2")]
        assert parse(rejected).segment("ERR").get(8) == error
        assert intake.contents == [message(2)]

    run(scenario)


def test_a_refusal_by_the_intake_is_a_rejection():
    """Incorrect from the intake means never; its code is told, its words are not."""

    async def scenario():
        async with listening(MemoryIntake(Incorrect("message-too-large", "Doe"))) as (port, _, _):
            (answer,) = await exchange(port, frame(message(1)), answers=1)

        assert codes([answer]) == [("AR", "1")]
        assert b"message-too-large" in answer
        assert b"Doe" not in answer

    run(scenario)


def enhanced(number: int, accept: bytes, application: bytes = b"NE") -> bytes:
    return message(number).replace(b"|2.5.1\r", b"|2.5.1|||%s|%s\r" % (accept, application))


@pytest.mark.parametrize(
    ("asked", "durable", "refused"),
    [(b"AL", "CA", "CR"), (b"SU", "CA", None), (b"ER", None, "CR"), (b"NE", None, None), (b"", None, None)],
)
def test_enhanced_mode_answers_what_is_asked_for(asked, durable, refused):
    """CA once durable, CR for what never can be accepted, each only if MSH-15 wants it; silence harms nothing behind it."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake) as (port, _, _):
            accepted = await exchange(port, frame(enhanced(1, asked, b"AL")) + frame(message(2)))
            intake.failures = [Incorrect("never", "x")]
            rejected = await exchange(port, frame(enhanced(3, asked, b"AL")) + frame(message(4)))

        assert codes(accepted) == [*([(durable, "1")] if durable else []), ("AA", "2")]
        assert codes(rejected) == [*([(refused, "3")] if refused else []), ("AA", "4")]
        assert intake.contents == [enhanced(1, asked, b"AL"), message(2), message(4)]

    run(scenario)


@pytest.mark.parametrize("asked", [b"AL", b"NE"])
def test_in_enhanced_mode_too_a_storage_failure_is_silence_and_a_closed_connection(asked):
    """Also where no answer is wanted: the sender learns from the connection that it must send again."""

    async def scenario():
        intake = MemoryIntake(Unavailable("down", "x"))
        async with listening(intake) as (port, _, _):
            assert await exchange(port, frame(enhanced(1, asked)) + frame(message(2)), answers=2) == []

        assert intake.kept == []

    run(scenario)


def test_a_port_can_keep_to_original_mode():
    """For senders that fill MSH-15 and MSH-16 and wait for AA."""

    async def scenario():
        async with listening(MemoryIntake(), acknowledgement_mode="original") as (port, _, _):
            answers = await exchange(port, frame(enhanced(1, b"NE", b"AL")), frame(enhanced(2, b"AL")), answers=2)

        assert codes(answers) == [("AA", "1"), ("AA", "2")]

    run(scenario)


def test_the_same_message_again_gets_the_same_acknowledgement_and_is_stored_once():
    """Byte for byte, on another connection too; what was not stored, or was refused, is tried anew."""

    async def scenario():
        intake = MemoryIntake(Unavailable("down", "x"), Incorrect("never", "x"))
        async with listening(intake) as (port, _, _):
            lost = await exchange(port, frame(message(1)), answers=1)
            refused = await exchange(port, frame(message(1)), answers=1)
            first, again = await exchange(port, frame(message(1)), frame(message(1)), answers=2)
            (elsewhere,) = await exchange(port, frame(message(1)), answers=1)

        assert (lost, codes(refused)) == ([], [("AR", "1")])
        assert first == again == elsewhere
        assert codes([first]) == [("AA", "1")]
        assert intake.contents == [message(1)]

    run(scenario)


def test_after_a_while_the_same_message_is_stored_again():
    """A sender that repeats on purpose, once a cause was mended here, is heard."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake, repeats={"answer_again_seconds": 0}) as (port, _, _):
            answers = await exchange(port, frame(message(1)), frame(message(1)), answers=2)

        assert codes(answers) == [("AA", "1"), ("AA", "1")]
        assert intake.contents == [message(1)] * 2

    run(scenario)


@pytest.mark.parametrize(("policy", "code"), [("accept", "AA"), ("reject", "AR")])
def test_a_control_id_on_other_bytes_is_dealt_with_by_policy(policy, code):
    """Taken like any other, or refused with the place of the control id; another sender's same id is no matter."""
    other, elsewhere = message(1, b"Roe"), message(1).replace(b"NORTH", b"SOUTH")

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake, repeats={"other_content": policy}) as (port, _, _):
            answers = await exchange(port, *map(frame, (message(1), other, elsewhere)), answers=3)

        assert codes(answers) == [("AA", "1"), (code, "1"), ("AA", "1")]
        assert intake.contents == [message(1), *([other] if policy == "accept" else []), elsewhere]
        if policy == "reject":
            err = parse(answers[1]).segment("ERR")
            assert [err.get(2, n) for n in (1, 2, 3)] == ["MSH", "1", "10"]
            assert (err.get(3), err.get(8)) == ("205", "control-id-reused")

    run(scenario)


def test_content_is_the_pipelines_business():
    """NUL, unknown events, broken segments: durable means AA; the bytes arrive unchanged."""

    async def scenario():
        intake = MemoryIntake()
        odd = [message(1, b"\x00"), message(2).replace(b"A08", b"Z99"), message(3, b"\xff\xfe"), message(4) + b"????"]
        async with listening(intake) as (port, _, _):
            answers = await exchange(port, *map(frame, odd), answers=4)

        assert codes(answers) == [("AA", str(n)) for n in range(1, 5)]
        assert intake.contents == odd

    run(scenario)


def test_broken_frames_harm_no_other_message():
    """Glued frames, bytes between frames, a lost end, a missing CR, single bytes: each whole message is taken once."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake) as (port, _, _):
            glued = await exchange(port, frame(message(1)) + frame(message(2)))
            noise = await exchange(port, b"noise" + frame(message(3)) + b"more noise\r\n" + frame(message(4)))
            lost_end = await exchange(port, b"\x0b" + message(5)[:60], frame(message(6)))
            no_cr = await exchange(port, b"\x0b" + message(7) + b"\x1c", answers=1)
            single = await exchange(port, *(bytes([b]) for b in frame(message(8))))

        assert codes(glued + noise + lost_end + no_cr + single) == [("AA", str(n)) for n in (1, 2, 3, 4, 6, 7, 8)]
        assert intake.contents == [message(n) for n in (1, 2, 3, 4, 6, 7, 8)]

    run(scenario)


def test_half_a_message_at_the_loss_of_the_connection_is_not_taken():
    """Neither stored nor answered; other connections do not notice."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake) as (port, _, _), MllpSender("127.0.0.1", port) as other:
            await other.send(message(1))
            assert await exchange(port, b"\x0b" + message(2)[:-10]) == []
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\x0b" + message(3)[:-10])
            writer.transport.abort()
            assert (await other.send(message(4))).code == "AA"

        assert intake.contents == [message(1), message(4)]

    run(scenario)


def test_a_stream_of_noise_is_closed():
    """Who speaks another protocol is not listened to for ever."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake) as (port, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    writer.write(b"GET / HTTP/1.1\r\n" * 1000)
                    await writer.drain()
                await asyncio.wait_for(reader.read(), 10)
            writer.close()
            assert codes(await exchange(port, frame(message(1)))) == [("AA", "1")]

    run(scenario)


def test_a_very_large_frame_is_refused_without_being_held():
    """50 MB against a limit of 1 MiB: AR with the control id, and the next message on the same connection is taken."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake, max_message_bytes=2**20) as (port, _, _):
            large = frame(message(1, b"x" * 50_000_000))
            answers = await exchange(port, large, frame(message(2)), answers=2)

        assert codes(answers) == [("AR", "1"), ("AA", "2")]
        assert intake.contents == [message(2)]

    run(scenario)


def test_idle_connections_are_closed():
    """A connection that says nothing, without an answer; the next is served."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake, idle_timeout_seconds=0.4) as (port, _, _):
            assert await exchange(port, answers=1) == []
            assert codes(await exchange(port, frame(message(2)), answers=1)) == [("AA", "2")]

        assert intake.contents == [message(2)]

    run(scenario)


def test_connections_beyond_the_limit_are_closed():
    """The open ones go on; when one leaves, another is let in."""

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake, max_connections=1) as (port, _, _):
            async with MllpSender("127.0.0.1", port) as first:
                await first.send(message(1))
                async with MllpSender("127.0.0.1", port, timeout_seconds=5) as second:
                    with pytest.raises(Unavailable):
                        await second.send(message(2))
                assert (await first.send(message(3))).code == "AA"
            await asyncio.sleep(0.1)
            async with MllpSender("127.0.0.1", port) as third:
                assert (await third.send(message(4))).code == "AA"

        assert intake.contents == [message(1), message(3), message(4)]

    run(scenario)


def test_stopping_finishes_what_was_received():
    """A message in the intake is answered, one half received may finish, an idle connection is closed, none is opened."""

    async def scenario():
        intake = MemoryIntake(delay_seconds=0.2)
        async with listening(intake) as (port, stop, task):
            idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
            half_reader, half_writer = await asyncio.open_connection("127.0.0.1", port)
            half_writer.write(b"\x0b" + message(2)[:20])
            working = asyncio.create_task(exchange(port, frame(message(1)), answers=1))
            await intake.began.wait()
            stop.set()
            assert await asyncio.wait_for(idle_reader.read(), 1) == b""
            half_writer.write(message(2)[20:] + b"\x1c\r")

            assert codes(await working) == [("AA", "1")]
            assert b"MSA|AA|2" in await asyncio.wait_for(half_reader.read(), 5)
            await asyncio.wait_for(task, 5)
            with pytest.raises(OSError, match=r"."):
                await asyncio.open_connection("127.0.0.1", port)
            idle_writer.close()
            half_writer.close()

    run(scenario)


def test_stopping_does_not_wait_for_a_message_that_never_ends():
    """It goes unanswered."""

    async def scenario():
        async with listening(MemoryIntake(), stop_timeout_seconds=0.1) as (port, stop, task):
            half = asyncio.create_task(exchange(port, b"\x0b" + message(1)[:20], answers=1))
            await asyncio.sleep(0.1)
            stop.set()

            await asyncio.wait_for(task, 20)
            assert await half == []

    run(scenario)


def test_an_address_that_is_taken_is_unavailable():
    """The error names the listener and the port."""

    async def scenario():
        async with listening(MemoryIntake()) as (port, _, _):
            second = MllpListener("second", MllpSettings(port=port))
            with pytest.raises(Unavailable) as caught:
                await second.run(MemoryIntake(), Stop())

        assert caught.value.code == "mllp-port-unavailable"
        assert "second" in caught.value.message

    run(scenario)


def test_nothing_of_a_message_is_logged():
    """Through refusals, failures, broken frames and time-outs, logs hold codes and numbers only."""

    async def scenario():
        intake = MemoryIntake(Unavailable("down", "sEcReT"), RuntimeError("sEcReT"), Incorrect("never", "sEcReT"))
        async with listening(intake, read_timeout_seconds=0.1) as (port, _, _):
            for _ in range(3):
                await exchange(port, frame(message(1, b"sEcReT")), answers=1)
            await exchange(port, b"sEcReT" + frame(b"sEcReT") + b"\x0bsEcReT", answers=2)  # the second never comes

    with structlog.testing.capture_logs() as logs:
        run(scenario)

    assert {"mllp-not-stored", "mllp-message-refused", "mllp-stray-bytes", "mllp-message-too-slow"} <= {
        entry["event"] for entry in logs
    }
    assert {"down", "RuntimeError", "never", "not-hl7"} <= {entry.get("code") for entry in logs}
    assert "sEcReT" not in repr(logs)


def test_killed_before_the_acknowledgement_the_message_is_durable_and_unanswered(tmp_path):
    """At the failpoint the process dies: the sender hears nothing, the message is kept, so sending again doubles it
    at most, and never loses it.
    """
    program = """
import asyncio, pathlib, sys
from adapters.sources.mllp import MllpListener, MllpSettings
from bridge.pipeline.ports import Receipt
from bridge.telemetry.stop import Stop

class FileIntake:
    async def accept(self, raw):
        pathlib.Path(sys.argv[1]).write_bytes(raw.content)
        return Receipt("file")

async def main():
    listener = MllpListener("m", MllpSettings(port=0))
    task = asyncio.create_task(listener.run(FileIntake(), Stop()))
    print(await listener.listening(), flush=True)
    await task

asyncio.run(main())
"""
    kept = tmp_path / "kept"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HIEBRIDGE_FAILPOINTS": "mllp.before-acknowledge=kill"}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(kept)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        port = int(process.stdout.readline())
        assert asyncio.run(exchange(port, frame(message(1)), answers=1)) == []
        assert process.wait(10) == -signal.SIGKILL

    assert kept.read_bytes() == message(1)


def test_the_recorded_hospital_is_accepted():
    """A part of simhospital's recording over one connection: every message CA, as its MSH-15 asks, every byte kept."""
    raw = reference_data("hl7v2", "google-simhospital", "messages.out").read_bytes()
    messages = split_messages(raw)[:200]

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake) as (port, _, _), MllpSender("127.0.0.1", port) as sender:
            answers = [await sender.send(one) for one in messages]

        assert {answer.code for answer in answers} == {"CA"}
        assert [answer.control_id for answer in answers] == [parse(one).header.control_id for one in messages]
        assert intake.contents == messages

    run(scenario)


def test_the_sender_reports_what_it_cannot_know():
    """No listener, and a listener that closes without an answer, are Unavailable; the next send connects anew."""

    async def scenario():
        intake = MemoryIntake(Unavailable("down", "x"))
        async with listening(intake) as (port, _, _), MllpSender("127.0.0.1", port, timeout_seconds=5) as sender:
            with pytest.raises(Unavailable) as lost:
                await sender.send(message(1))
            assert (await sender.send(message(1))).code == "AA"
        with pytest.raises(Unavailable) as nobody:
            await MllpSender("127.0.0.1", port, timeout_seconds=5).send(message(1))

        assert (lost.value.code, nobody.value.code) == ("mllp-no-answer", "mllp-unreachable")

    run(scenario)


@pytest.mark.parametrize("declared", [b"ISO IR87", b"no such charset", b"ASCII"])
def test_an_acknowledgement_is_read_whatever_its_charset(declared):
    """MSA is ASCII by itself; a text beside it in another or a wrong charset is no reason not to know what it says."""

    async def answer(reader, writer):
        await reader.readuntil(b"\x1c\r")
        header = b"MSH|^~\\&|A|B|C|D|2026||ACK|9|P|2.5|||||||%s" % declared
        writer.write(frame(header + b"\rMSA|AR|1|\x8f\xff\rERR|||||||||\x8f\xff\r"))
        await writer.drain()
        writer.close()

    async def scenario():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server, MllpSender("127.0.0.1", server.sockets[0].getsockname()[1], timeout_seconds=5) as sender:
            answered = await sender.send(message(1))

        assert (answered.code, answered.control_id) == ("AR", "1")

    run(scenario)


def test_connections_and_acknowledgements_are_counted():
    """Open ones, let in and refused, and every message by what its sender was told: they add up."""

    def counted(name, **labels):
        return REGISTRY.get_sample_value(f"hiebridge_listener_{name}", {"source": "mllp-1", **labels}) or 0

    def now():
        told = {code: counted("acknowledgements_total", acknowledgement=code) for code in ("AA", "AR", "none")}
        names = ("connections_accepted_total", "connections_refused_total", "messages_received_total")
        return told | {name: counted(name) for name in names}

    before, held = now(), []

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake, max_connections=1) as (port, _, _), MllpSender("127.0.0.1", port) as sender:
            await sender.send(message(1))
            held.append(counted("connections_open"))
            assert await exchange(port, answers=1) == []
            await sender.send(b"not HL7")
            intake.failures = [Unavailable("down", "x")]
            with pytest.raises(Unavailable):
                await sender.send(message(2))

    run(scenario)
    grown = {name: value - before[name] for name, value in now().items()}

    assert (held, counted("connections_open")) == ([1], 0)
    assert grown == {
        "AA": 1,
        "AR": 1,
        "none": 1,
        "connections_accepted_total": 1,
        "connections_refused_total": 1,
        "messages_received_total": 3,
    }


# --- TLS


def test_tls_and_mutual_tls(tmp_path):
    """Plain text is not answered on a TLS port; a sender without a certificate, or with a stranger's, is not let in."""
    ca = authority()
    ca_file, _ = written(tmp_path, "ca", ca)
    server = written(tmp_path, "server", certificate("server", ca))
    client = written(tmp_path, "client", certificate("client", ca))
    stranger = written(tmp_path, "stranger", certificate("stranger", authority()))
    tls = {"certificate_file": server[0], "key_file": server[1], "client_ca_file": ca_file}

    def context(own: tuple[Path, Path] | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(ca_file))
        if own:
            made.load_cert_chain(*own)
        return made

    async def scenario():
        intake = MemoryIntake()
        async with listening(intake, tls=tls) as (port, _, _):
            async with MllpSender("127.0.0.1", port, tls=context(client), timeout_seconds=5) as sender:
                assert (await sender.send(message(1))).code == "AA"
            for own in (None, stranger):
                async with MllpSender("127.0.0.1", port, tls=context(own), timeout_seconds=5) as sender:
                    with pytest.raises(Unavailable):
                        await sender.send(message(2))
            async with MllpSender("127.0.0.1", port, timeout_seconds=5) as plain:
                with pytest.raises(Unavailable):
                    await plain.send(message(3))
        async with (
            listening(intake, tls={**tls, "client_ca_file": None}) as (port, _, _),
            MllpSender("127.0.0.1", port, tls=context(None), timeout_seconds=5) as sender,
        ):
            assert (await sender.send(message(4))).code == "AA"

        assert intake.contents == [message(1), message(4)]

    run(scenario)


def test_unusable_certificates_are_incorrect(tmp_path):
    """Missing files and files that are no certificate: one error that says what to check."""
    nothing = tmp_path / "nothing.pem"
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")

    for file in (nothing, garbage):
        listener = MllpListener("m", MllpSettings(port=0, tls={"certificate_file": file, "key_file": file}))
        with pytest.raises(Incorrect) as caught:
            asyncio.run(listener.run(MemoryIntake(), Stop()))
        assert caught.value.code == "mllp-certificate-invalid"
