"""Hospitals that send a feed over MLLP, one connection a site, until each message is answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.sources.mllp_client import MllpSender
from bridge.errors import Unavailable, Unsupported
from bridge.synth.feed import SynthMessage
from tests.faults.deployments import SITES
from tests.services.process import free_port


def free_ports() -> dict[str, int]:
    """A port for each site."""
    return {site: free_port() for site in SITES}


def mllp_listeners(ports: Mapping[str, int]) -> dict[str, Any]:
    """The section ``listeners`` with a port for each site; a message that comes twice reaches the store twice."""
    return {
        "listeners": [
            {"name": site, "adapter": "mllp", "site": site, "port": port, "repeats": {"answer_again_seconds": 0}}
            for site, port in ports.items()
        ]
    }


class Hospitals:
    """Sends in a thread of its own what :meth:`allow` lets go; sends again what was not answered.

    Attributes:
        answered: messages that were answered.
        repeated: attempts without an answer.
    """

    def __init__(self, messages: Sequence[SynthMessage], ports: Mapping[str, int]) -> None:
        self.answered = 0
        self.repeated = 0
        self._allowed = 0
        self._messages = list(enumerate(messages))
        self._ports = ports
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def allow(self, count: int) -> None:
        """Lets the first ``count`` messages of the feed go."""
        self._allowed = count

    def join(self) -> None:
        """Waits until all is answered."""
        self._thread.join(120)
        assert self.answered == len(self._messages)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for site in SITES:
                group.create_task(self._site(site))

    async def _site(self, site: str) -> None:
        sender = MllpSender("127.0.0.1", self._ports[site], timeout_seconds=60)
        for number, message in self._messages:
            if message.site != site:
                continue
            while number >= self._allowed:  # noqa: ASYNC110 - another thread allows
                await asyncio.sleep(0.05)
            while not await self._sent(sender, message):
                self.repeated += 1
                await asyncio.sleep(0.1)
            self.answered += 1
        await sender.close()

    async def _sent(self, sender: MllpSender, message: SynthMessage) -> bool:
        try:
            answer = await sender.send(message.content)
        except Unavailable:
            return False
        except Unsupported:
            return True  # it answers in the character set that the message claims, which nobody can read
        return answer.code in {"AA", "AR"}
