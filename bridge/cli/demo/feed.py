"""Sends the morning as three hospitals would: each over an MLLP connection of its own, waiting for each acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from bridge.cli.destinations import Destination, open_destination
from bridge.errors import Incorrect
from bridge.synth.feed import SynthMessage


def send_all(messages: Iterable[SynthMessage], ports: Mapping[str, int]) -> list[tuple[SynthMessage, bool]]:
    """Each message, in order, and whether it was taken (AA); otherwise it was refused for good (AR).

    Args:
        messages: to be sent.
        ports: of the listeners on loopback, by site.

    Raises:
        Unavailable: a listener does not answer.
    """
    return asyncio.run(_send_all(messages, ports))


async def _send_all(messages: Iterable[SynthMessage], ports: Mapping[str, int]) -> list[tuple[SynthMessage, bool]]:
    hospitals = {site: open_destination(f"mllp://127.0.0.1:{port}") for site, port in ports.items()}
    try:
        return [(message, await _taken(hospitals[message.site], message)) for message in messages]
    finally:
        for hospital in hospitals.values():
            await hospital.close()


async def _taken(hospital: Destination, message: SynthMessage) -> bool:
    try:
        await hospital.put(message)
    except Incorrect:
        return False
    return True
