"""Plays the steps one after the other; the first that does not show what it should ends the play."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bridge.cli.demo.access import clinicians_search, revocation, search_again
from bridge.cli.demo.console import StepFailed
from bridge.cli.demo.evidence import altered_byte, proof
from bridge.cli.demo.intake import messages_in, one_person, resources_out
from bridge.cli.demo.stage import Stage
from bridge.errors import BridgeError

Step = Callable[[Stage], str]
"""Shows something, checks it, and answers in a sentence what held; raises StepFailed."""

STEPS: Final[tuple[tuple[str, Step], ...]] = (
    ("Messages in", messages_in),
    ("Resources out", resources_out),
    ("Three registrations, one person", one_person),
    ("A clinician's search", clinicians_search),
    ("The patient objects", revocation),
    ("The same search afterwards", search_again),
    ("A proof, verified offline", proof),
    ("A byte altered behind the bridge's back", altered_byte),
)


def play(stage: Stage, steps: tuple[tuple[str, Step], ...] = STEPS) -> bool:
    """Plays ``steps``, ends with a summary; whether each held."""
    outcomes: list[tuple[str, bool | None]] = []
    for number, (title, step) in enumerate(steps, 1):
        stage.console.title(number, title)
        try:
            said = step(stage)
        except StepFailed as failure:
            stage.console.failed(failure)
            outcomes.append((title, False))
            break
        except BridgeError as error:
            stage.console.failed(StepFailed("no error", str(error)))
            outcomes.append((title, False))
            break
        stage.console.held(said)
        outcomes.append((said, True))
    outcomes += [(title, None) for title, _ in steps[len(outcomes) :]]
    stage.console.summary(outcomes)
    return all(held for _, held in outcomes)
