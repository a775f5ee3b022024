"""Sending messages to intakes at a given rate, and the statistics of how they were acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.errors import BridgeError, Incorrect
from bridge.pipeline.ports import ContentKind, Intake, RawMessage

_PAUSE_SECONDS: Final = 0.5  # before a message is sent again; doubled each time
_LONGEST_PAUSE_SECONDS: Final = 10.0
_NOT_TAKEN: Final = "mllp-not-taken"


@dataclass(slots=True)
class Statistics:
    """What became of the messages of a run.

    Attributes:
        acknowledged: accepted ones by answer (MSA-1); '' where none was asked for.
        failed: the others, by code and words of the cause, none of which hold health data.
        repeated: attempts beyond the first.
        waited: seconds from each accepted message's last sending to its answer.
        seconds: how long the run took.
    """

    acknowledged: Counter[str] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    repeated: int = 0
    waited: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def described(self) -> dict[str, Any]:
        """For JSON."""
        accepted = self.acknowledged.total()
        return {
            "acknowledged": {code or "not-asked": count for code, count in self.acknowledged.most_common()},
            "failed": [
                {"code": code, "message": message, "messages": count}
                for (code, message), count in self.failed.most_common()
            ],
            "repeated": self.repeated,
            "seconds": round(self.seconds, 3),
            "messages_per_second": round(accepted / self.seconds, 1) if self.seconds else 0.0,
            "acknowledgement_milliseconds": {
                name: round(1000 * value, 2) for name, value in zip(("p50", "p99", "max"), self._waits(), strict=False)
            },
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        told = ", ".join(
            f"{count} {code or 'without acknowledgement, as they ask'}"
            for code, count in self.acknowledged.most_common()
        )
        rate = self.acknowledged.total() / self.seconds if self.seconds else 0.0
        yield f"acknowledged: {told or 'nothing'}, in {self.seconds:.1f} s ({rate:.0f} a second)"
        for (code, message), count in self.failed.most_common():
            yield f"failed: {count} {message} [{code}]"
        if self.repeated:
            yield f"sent again: {self.repeated}"
        if waits := self._waits():
            half, most, longest = (1000 * value for value in waits)
            yield f"acknowledged after: {half:.1f} ms (half of them), {most:.1f} ms (99 of 100), {longest:.1f} ms (all)"

    def _waits(self) -> tuple[float, ...]:
        waited = sorted(self.waited)
        if not waited:
            return ()
        return waited[len(waited) // 2], waited[min(len(waited) - 1, len(waited) * 99 // 100)], waited[-1]


class Sending:
    """One run: each intake takes the next message when it has its answer, so that order is kept only with one intake.

    Args:
        intakes: where to; all the same place.
        rate: most messages a second, of all intakes together; None = as fast as they are taken.
        attempts: how often a message is sent at most.
    """

    def __init__(self, intakes: Sequence[Intake], *, rate: float | None, attempts: int) -> None:
        self.statistics = Statistics()
        self._intakes = intakes
        self._rate = rate
        self._attempts = attempts

    async def run(self, messages: Iterable[bytes]) -> None:
        """Sends them all, in order as far as that goes.

        A message that is refused, or after all attempts not taken, is counted and the next one sent.

        Raises:
            BridgeError: the place does not answer after all attempts; what was not sent by then is not sent.
        """
        started = time.perf_counter()
        numbered = enumerate(messages)
        try:
            async with asyncio.TaskGroup() as group:
                for intake in self._intakes:
                    group.create_task(self._work(intake, numbered, started))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self.statistics.seconds = time.perf_counter() - started

    async def _work(self, intake: Intake, numbered: Iterator[tuple[int, bytes]], started: float) -> None:
        for number, message in numbered:
            if self._rate is not None and (wait := started + number / self._rate - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            await self._send(intake, message)

    async def _send(self, intake: Intake, message: bytes) -> None:
        statistics, pause = self.statistics, _PAUSE_SECONDS
        for left in reversed(range(self._attempts)):
            began = time.perf_counter()
            try:
                receipt = await intake.accept(RawMessage("send", message, ContentKind.HL7V2))
            except BridgeError as error:
                if error.transient and left:
                    statistics.repeated += 1
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                    continue
                statistics.failed[error.code, error.message] += 1
                if not isinstance(error, Incorrect) and error.code != _NOT_TAKEN:
                    raise
            else:
                statistics.acknowledged[receipt.answer] += 1
                if receipt.answer:
                    statistics.waited.append(time.perf_counter() - began)
            return
