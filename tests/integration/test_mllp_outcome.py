"""``acknowledge: application``: the MLLP listener tells what the worker made of a message."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from adapters.sources.mllp import MllpListener, MllpSettings
from adapters.sources.mllp_client import MllpSender
from bridge.errors import BridgeError, Incorrect, Unavailable
from bridge.pipeline.ports import Receipt
from bridge.pipeline.queue import QueueIntake, QueueWorker
from bridge.store.database import open_database
from bridge.telemetry.stop import Stop
from tests.integration.hospital import KEYS, Hospital, hl7, pid, pv1

ARRIVAL = hl7("ADT^A04", pid("77^^^NORTH^MR"), pv1("V1"))
LEFT_OUT = hl7("SIU^S12", pid("78^^^NORTH^MR"))
UNKNOWN = hl7("MFN^M02", pid("79^^^NORTH^MR"))  # the site may send it, and no mapping knows it


@pytest.fixture
def intake(hospital: Hospital) -> Iterator[QueueIntake]:
    """The intake, with a connection of its own."""
    made = QueueIntake(open_database(hospital.url), hospital.preparer, KEYS, 1000)
    yield made
    made.close()


def told(intake: QueueIntake, *messages: bytes, **settings: object) -> list[str]:
    """What one sender hears of each message: MSA-1, or the code of the error."""

    async def main() -> list[str]:
        made = MllpSettings(port=0, acknowledge="application", **settings)
        listener, stop = MllpListener("north", made), Stop()
        task = asyncio.create_task(listener.run(intake, stop))
        heard: list[str] = []
        async with MllpSender("127.0.0.1", await listener.listening(), timeout_seconds=30) as sender:
            for message in messages:
                try:
                    answer = await sender.send(message)
                    heard.append(f"{answer.code} {answer.error}".strip())
                except BridgeError as error:
                    heard.append(error.code)
        stop.set()
        await asyncio.wait_for(task, 20)
        return heard

    return asyncio.run(main())


@pytest.fixture
def working(hospital: Hospital) -> Iterator[None]:
    """A worker of the embedded queue, at work."""
    stop = Stop()
    worker = QueueWorker(hospital.preparer, hospital.batcher, KEYS, hospital.database, ["north"])
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    yield
    stop.set()
    thread.join(20)


@pytest.mark.usefixtures("working")
def test_what_had_its_effect_is_accepted_and_a_dead_letter_is_an_error(intake: QueueIntake) -> None:
    """AA for what is stored, or left out by the site's file; AE for a dead letter, again when it is sent again."""
    assert told(intake, ARRIVAL, UNKNOWN, LEFT_OUT, UNKNOWN, ARRIVAL) == [
        "AA",
        "AE dead-letter",
        "AA",
        "AE dead-letter",
        "AA",
    ]


def test_without_a_worker_nothing_is_claimed(hospital: Hospital, intake: QueueIntake) -> None:
    """After the limit the connection is closed without a word; the message is durable, and accepted once it had its effect."""
    assert told(intake, ARRIVAL, application_wait_seconds=0.2) == ["mllp-no-answer"]
    assert len(hospital.rows("raw_message")) == 1

    worker = QueueWorker(hospital.preparer, hospital.batcher, KEYS, hospital.database, ["north"])
    worker.open()
    worker.work_once(Stop())
    assert [row["state"] for row in hospital.rows("raw_message")] == ["done"]


def test_in_enhanced_mode_the_accept_acknowledgement_does_not_wait(intake: QueueIntake) -> None:
    """CA states receipt, whatever the worker does."""
    header, rest = ARRIVAL.split(b"\r", 1)
    fields = header.split(b"|")
    fields[14:16] = [b"AL", b"NE"]
    enhanced = b"|".join(fields) + b"\r" + rest

    assert told(intake, enhanced) == ["CA"]


def test_an_intake_that_cannot_tell_stops_the_start() -> None:
    """Rather than stating what nobody knows."""

    class Deaf:
        async def accept(self, raw: object) -> Receipt:
            raise Unavailable("never", "x")

        def close(self) -> None:
            """Nothing to let go of."""

    listener = MllpListener("north", MllpSettings(port=0, acknowledge="application"))
    with pytest.raises(Incorrect) as caught:
        asyncio.run(listener.run(Deaf(), Stop()))

    assert caught.value.code == "mllp-outcome-unknown"
