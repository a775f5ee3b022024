"""The contract of a listener: what it tells its senders is true, and no sender harms another. On every registered one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog
from pydantic import ValidationError

from bridge.config.adapters import LISTENERS, adapter_names, load_adapter
from bridge.errors import BridgeError, Busy, Incorrect, Unavailable
from bridge.pipeline.ports import ContentKind
from bridge.telemetry.metrics import REGISTRY
from bridge.telemetry.stop import Stop
from tests.contract.listener_harness import NAME, SENDERS, SIZE_LIMIT, MemoryIntake, Told, message, running

# (adapter, test without its prefix): why this guarantee can't be asked of it
WAIVERS = {
    (
        "folder",
        "half_a_message_is_given_up_and_holds_up_nobody",
    ): "a file is put there whole; half of one is never seen",
}

ADAPTERS = adapter_names(LISTENERS)


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    """Each registered listener."""
    waived = WAIVERS.get((request.param, request.function.__name__.removeprefix("test_")))
    if waived:
        pytest.skip(waived)
    return str(request.param)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario()

    asyncio.run(main())


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"hiebridge_listener_{name}_total", {"source": NAME, **labels}) or 0


def test_every_registered_listener_is_under_this_contract_and_every_waiver_is_used() -> None:
    """A new one needs a harness; a waiver of a test that is gone goes too."""
    tests = {name.removeprefix("test_") for name, found in globals().items() if inspect.isfunction(found)}

    assert set(ADAPTERS) == set(SENDERS)
    assert all(one in ADAPTERS and test in tests and reason for (one, test), reason in WAIVERS.items())


def test_a_message_reaches_the_intake_as_it_was_sent(adapter: str, tmp_path: Path) -> None:
    """Every byte, without transport framing, with the listener's name, the kind and the time."""
    odd = [message(1), message(2, b"\xff\xfe"), message(3, b"\x00")]

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            assert await one.send(*odd) == [Told.ACCEPTED] * 3

            assert one.intake.contents == odd
            assert {(raw.source, raw.kind) for raw in one.intake.kept} == {(NAME, ContentKind.HL7V2)}
            assert all(raw.received_us > 1_700_000_000_000_000 for raw in one.intake.kept)

    run(scenario)


def test_nothing_is_told_before_it_is_durable(adapter: str, tmp_path: Path) -> None:
    """While the intake works the sender waits; it is told once the intake has returned."""

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            one.intake.gate.clear()
            sending = asyncio.create_task(one.send(message(1)))
            await asyncio.wait_for(one.intake.asked.acquire(), 20)
            early, _ = await asyncio.wait({sending}, timeout=0.2)
            assert not early

            one.intake.gate.set()
            assert await sending == [Told.ACCEPTED]

    run(scenario)


@pytest.mark.parametrize("failure", [Unavailable("down", "x"), Busy("full", "x")], ids=lambda failure: failure.code)
def test_a_failing_intake_is_silence_and_the_message_is_taken_when_sent_again(
    adapter: str, tmp_path: Path, failure: BridgeError
) -> None:
    """Neither accepted nor refused; nothing behind it is taken in its place; once storage is back both are."""

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            one.intake.failure = failure
            assert await one.send(message(1), message(2)) == [Told.NOTHING] * 2
            assert one.intake.contents == []

            one.intake.failure = None
            assert await one.send(message(1), message(2)) == [Told.ACCEPTED] * 2
            assert one.intake.contents == [message(1), message(2)]

    run(scenario)


def test_what_never_can_be_accepted_is_refused_and_harms_no_other(adapter: str, tmp_path: Path) -> None:
    """Refused for good by the intake; the next is taken."""

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            one.intake.failure = Incorrect("never", "x")
            assert await one.send(message(1)) == [Told.REFUSED]

            one.intake.failure = None
            assert await one.send(message(2)) == [Told.ACCEPTED]
            assert one.intake.contents == [message(2)]

    run(scenario)


def test_what_is_too_large_is_refused_and_counted_without_asking_the_intake(adapter: str, tmp_path: Path) -> None:
    """The limit is the listener's own; the message behind it is taken."""
    before = counted("messages_over_limit", limit="size")

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            large = message(1, b"x" * SIZE_LIMIT)
            assert await one.send(large, message(2)) == [Told.REFUSED, Told.ACCEPTED]

            assert one.intake.contents == [message(2)]

    run(scenario)
    assert counted("messages_over_limit", limit="size") == before + 1


def test_half_a_message_is_given_up_and_holds_up_nobody(adapter: str, tmp_path: Path) -> None:
    """After its time its sender is told nothing, and nothing of it is kept; others are served meanwhile."""
    before = counted("messages_over_limit", limit="time")

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            half = await one.senders.begin(message(1))
            assert await one.send(message(2)) == [Told.ACCEPTED]

            assert await asyncio.wait_for(half, 20) is Told.NOTHING
            assert one.intake.contents == [message(2)]

    run(scenario)
    assert counted("messages_over_limit", limit="time") == before + 1


def test_messages_of_one_sender_keep_their_order(adapter: str, tmp_path: Path) -> None:
    """Fifty, sent without waiting."""
    sent = [message(number) for number in range(50)]

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            assert await one.send(*sent) == [Told.ACCEPTED] * 50

            assert one.intake.contents == sent

    run(scenario)


def test_messages_and_their_bytes_are_counted(adapter: str, tmp_path: Path) -> None:
    """By listener, and by nothing that a message says."""
    before = counted("messages_received"), counted("received_bytes")
    sent = [message(number) for number in range(3)]

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            await one.send(*sent)

    run(scenario)
    assert counted("messages_received") == before[0] + 3
    assert counted("received_bytes") == before[1] + sum(map(len, sent))


def test_stopping_finishes_what_was_received(adapter: str, tmp_path: Path) -> None:
    """What the intake has when stopping is asked for is stored and told; then the listener returns."""

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            one.intake.gate.clear()
            sending = asyncio.create_task(one.send(message(1)))
            await asyncio.wait_for(one.intake.asked.acquire(), 20)
            one.stop.set()
            await asyncio.sleep(0)
            one.intake.gate.set()

            assert await sending == [Told.ACCEPTED]
            await one.stopped()
            assert one.intake.contents == [message(1)]

    run(scenario)


def test_stopping_does_not_wait_for_ever(adapter: str, tmp_path: Path) -> None:
    """An intake that hangs keeps no listener from ending; its message is not told to be anything."""

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            one.intake.gate.clear()
            sending = asyncio.create_task(one.send(message(1)))
            await asyncio.wait_for(one.intake.asked.acquire(), 20)

            await one.stopped()
            assert await sending == [Told.NOTHING]
            assert one.intake.contents == []

    run(scenario)


def test_nothing_of_a_message_is_logged(adapter: str, tmp_path: Path) -> None:
    """Through acceptance, failure and refusals."""
    secret = b"sEcReT"

    async def scenario() -> None:
        async with running(adapter, tmp_path) as one:
            await one.send(message(1, secret))
            for failure in (Unavailable("down", "sEcReT"), Incorrect("never", "sEcReT")):
                one.intake.failure = failure
                await one.send(message(2, secret), message(3, secret * SIZE_LIMIT))

    with structlog.testing.capture_logs() as logs:
        run(scenario)

    assert {"down", "never"} <= {entry.get("code") for entry in logs}
    assert "sEcReT" not in repr(logs)


def test_settings_are_typed_and_described(adapter: str) -> None:
    """Unknown ones are refused; building touches nothing outside."""
    spec = load_adapter(LISTENERS, adapter)

    assert all(field.description for field in spec.settings.model_fields.values())
    with pytest.raises(ValidationError, match="extra_forbidden"):
        spec.settings.model_validate({"no-such-setting": 1})


def test_a_place_that_cannot_be_listened_at_is_a_closed_error_that_names_the_listener(
    adapter: str, tmp_path: Path
) -> None:
    """At the start, with what to do about it."""
    spec = load_adapter(LISTENERS, adapter)
    listener = spec.build(NAME, spec.settings.model_validate(SENDERS[adapter](tmp_path).unusable()))

    with pytest.raises(BridgeError, match=NAME) as caught:
        asyncio.run(listener.run(MemoryIntake(), Stop()))

    assert caught.value.remedy
