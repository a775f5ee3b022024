"""``hiebridge send`` against a listener on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from adapters.sources.mllp import MllpListener, MllpSettings
from bridge.cli.main import run
from bridge.hl7v2.mllp import frame
from bridge.pipeline.ports import Receipt
from bridge.telemetry.stop import Stop
from tests.integration.certificates import authority, certificate, written
from tests.services.process import free_port


def message(number: int, more: bytes = b"") -> bytes:
    return b"MSH|^~\\&|LAB|NORTH|EHR|SOUTH|2026||ADT^A08|%d|P|2.5.1%s\rPID|1||77||Doe\r" % (number, more)


class Kept:
    """An intake in memory."""

    def __init__(self):
        self.contents = []

    async def accept(self, raw):
        self.contents.append(raw.content)
        return Receipt("kept")


@contextmanager
def listening(**settings) -> Iterator[tuple[str, Kept]]:
    """A listener in a thread of its own: its address, and what it has kept."""
    kept, stop, opened = Kept(), Stop(), threading.Event()
    listener = MllpListener("m", MllpSettings(port=0, **settings))

    async def main():
        task = asyncio.create_task(listener.run(kept, stop))
        await listener.listening()
        opened.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert opened.wait(10)
        yield f"mllp://127.0.0.1:{listener.port}", kept
    finally:
        stop.set()
        thread.join(20)


def test_files_and_batches_are_sent_in_order(tmp_path, capsys):
    """Every message, its own bytes; AA, CA, and none where none is asked for, counted."""
    (tmp_path / "a.hl7").write_bytes(message(1))
    (tmp_path / "b.hl7").write_bytes(message(2, b"|||AL|NE") + message(3))
    (tmp_path / "c.hl7").write_bytes(message(4, b"|||NE|NE"))
    (tmp_path / "d.hl7").write_bytes(message(5))

    with listening() as (address, kept):
        code = run(["send", str(tmp_path), "--to", address, "--json"])
    said = json.loads(capsys.readouterr().out)

    assert code == 0
    assert [one.split(b"|")[9] for one in kept.contents] == [b"1", b"2", b"3", b"4", b"5"]
    assert said["acknowledged"] == {"AA": 3, "CA": 1, "not-asked": 1}
    assert said["failed"] == []


def test_refusals_and_unreadable_files_are_told_without_their_contents(tmp_path, capsys):
    """AR with its number of table 0357, exit code 1; the others are sent."""
    (tmp_path / "large.hl7").write_bytes(message(1) + b"OBX|" + b"x" * 3000)
    (tmp_path / "none.hl7").write_bytes(b"")
    (tmp_path / "small.hl7").write_bytes(message(2))

    with listening(max_message_bytes=2048) as (address, kept):
        code = run(["send", str(tmp_path), "--to", address])
    said = capsys.readouterr().out

    assert code == 1
    assert "1 AA" in said
    assert "failed: 1 the other system refuses the message for good: AR (error 207) [mllp-refused]" in said
    assert "not read: 1 [file-without-message]" in said
    assert "Doe" not in said
    assert kept.contents == [message(2)]


def test_mutual_tls(tmp_path, capsys):
    """With the own certificate the messages are taken; without one the port is not reached, and nothing is sent in plain text."""
    ca = authority()
    ca_file, _ = written(tmp_path, "ca", ca)
    server, client = (written(tmp_path, name, certificate(name, ca)) for name in ("server", "client"))
    (tmp_path / "a.hl7").write_bytes(message(1))
    tls = {"certificate_file": server[0], "key_file": server[1], "client_ca_file": ca_file}

    with listening(tls=tls) as (address, kept):
        to = ["send", str(tmp_path / "a.hl7"), "--to", address, "--attempts", "1", "--tls-ca", str(ca_file)]
        codes = [run(to), run([*to, "--tls-certificate", str(client[0]), "--tls-key", str(client[1])])]

    assert codes == [7, 0]
    assert kept.contents == [message(1)]
    assert "1 AA" in capsys.readouterr().out


def test_a_port_that_is_not_there_is_unavailable(tmp_path, capsys):
    """Exit code 7, after the statistics."""
    (tmp_path / "a.hl7").write_bytes(message(1))

    code = run(["send", str(tmp_path), "--to", f"mllp://127.0.0.1:{free_port()}", "--attempts", "1"])
    said = capsys.readouterr()

    assert code == 7
    assert "acknowledged: nothing" in said.out
    assert "[mllp-unreachable]" in said.err


def test_late_answers_are_not_taken_for_those_of_the_next_message(tmp_path, capsys):
    """An application acknowledgement on the same connection, after the accept acknowledgement, is passed over."""

    async def serve(opened: asyncio.Future[int], done: asyncio.Event) -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for number, codes in ((1, (b"CA", b"AA")), (2, (b"CR",))):
                await reader.readuntil(b"\x1c\r")
                for code in codes:
                    writer.write(frame(b"MSH|^~\\&|||||2026||ACK|9|P|2.5\rMSA|%s|%d\r" % (code, number)))
            await writer.drain()
            writer.close()
            done.set()

        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        async with server:
            opened.set_result(server.sockets[0].getsockname()[1])
            await done.wait()

    (tmp_path / "a.hl7").write_bytes(message(1, b"|||AL|AL") + message(2, b"|||AL|AL"))

    async def main() -> int:
        opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        served = asyncio.create_task(serve(opened, asyncio.Event()))
        code = await asyncio.to_thread(run, ["send", str(tmp_path), "--to", f"mllp://127.0.0.1:{await opened}"])
        await served
        return code

    assert asyncio.run(main()) == 1
    said = capsys.readouterr().out
    assert "acknowledged: 1 CA" in said
    assert "failed: 1 the other system refuses the message for good: CR [mllp-refused]" in said


def test_wrong_addresses_and_half_a_certificate_are_incorrect(tmp_path, capsys):
    """Before anything is sent."""
    (tmp_path / "a.hl7").write_bytes(message(1))

    assert run(["send", str(tmp_path), "--to", "kafka://127.0.0.1:9092/adt"]) == 2
    assert run(["send", str(tmp_path), "--to", "mllp://127.0.0.1"]) == 2
    assert run(["send", str(tmp_path), "--to", "mllp://127.0.0.1:1", "--tls-key", str(tmp_path / "a.hl7")]) == 2
    assert capsys.readouterr().err.count("destination-malformed") == 2
