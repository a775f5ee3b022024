"""Logs show what happened and never what a message, an exception or a local variable held (P7)."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings

import pytest
import structlog

from bridge.errors import Category, Incorrect, Where
from bridge.telemetry.logs import configure_logging, plain, reduced, take_over_process
from bridge.telemetry.redact import REDACTED, Redacted

NAME = "Zaphod-Beeblebrox"


@pytest.fixture
def logged(capsys):
    """Configures logging and answers what was logged since, as objects; everything as it was afterwards."""
    root = logging.getLogger()
    before = (sys.excepthook, sys.unraisablehook, threading.excepthook, root.handlers[:], root.level)
    configure_logging("debug")
    take_over_process()

    def logged():
        out, err = capsys.readouterr()
        assert not out
        return [json.loads(line) for line in err.splitlines()]

    yield logged
    logging.captureWarnings(False)
    sys.excepthook, sys.unraisablehook, threading.excepthook, root.handlers[:], root.level = before
    structlog.reset_defaults()


def fails():
    """Fails with the name in the text, in a local variable and in the cause."""
    patient = {"name": NAME}
    try:
        {}[patient["name"]]
    except KeyError as error:
        raise ValueError(f"bad value {patient['name']}") from error


def test_a_line_is_one_json_object(logged):
    """Time, level, logger, event and the given fields."""
    structlog.get_logger("bridge.pipeline").info("batch stored", messages=100, source="adt")

    (line,) = logged()

    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "bridge.pipeline",
        "event": "batch stored",
        "messages": 100,
        "source": "adt",
    }


def test_exceptions_show_type_and_place_only(logged):
    """Neither text, cause's text nor locals; the way through the code is kept."""
    try:
        fails()
    except ValueError:
        structlog.get_logger("bridge.x").exception("it failed")

    (line,) = logged()

    assert NAME not in json.dumps(line)
    assert line["exception"]["type"] == "ValueError"
    assert line["exception"]["causes"] == ["KeyError"]
    assert line["exception"]["at"][-1].endswith(" fails")


def test_our_own_errors_show_code_and_text():
    """Errors of the closed categories say what happened; their texts hold no health data by law."""
    said = reduced(Incorrect("patient-without-identifier", "PID-3 is empty"))

    assert (said["code"], said["category"], said["message"]) == (
        "patient-without-identifier",
        "incorrect",
        "PID-3 is empty",
    )


@pytest.mark.parametrize("unseen", ["main thread", "thread", "unraisable"])
def test_uncaught_exceptions_are_reduced_too(logged, unseen):
    """What nobody catches goes the same way, wherever it was raised."""
    if unseen == "main thread":
        try:
            fails()
        except ValueError as error:
            sys.excepthook(ValueError, error, error.__traceback__)
    elif unseen == "thread":
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()
    else:

        class Held:
            def __del__(self):
                fails()

        held = Held()
        del held

    (line,) = logged()

    assert line["level"] == "critical"
    assert line["exception"]["type"] == "ValueError"
    assert NAME not in json.dumps(line)


def test_foreign_libraries_show_templates_and_never_values(logged):
    """A driver's log call shows its template; a text that came ready-made, only its place."""
    logger = logging.getLogger("some.driver")
    logger.warning("cannot store %s", NAME)
    logger.warning(f"cannot store {NAME}")  # noqa: G004 - what some libraries do
    logger.info("not shown at all")
    try:
        fails()
    except ValueError:
        logger.exception("failed")

    first, second, third = logged()

    assert first["event"] == "cannot store %s"
    assert second["at"].startswith("test_logs:")
    assert third["exception"]["type"] == "ValueError"
    assert NAME not in json.dumps([first, second, third])


def test_our_own_records_by_the_standard_library_are_shown(logged):
    """A module of ours may use either; both come out alike."""
    logging.getLogger("adapters.sources.x").info("listening on port %d", 2575)

    assert logged()[0]["event"] == "listening on port 2575"


def test_warnings_are_lines_too(logged):
    """A warning does not break the stream of JSON lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(NAME, stacklevel=1)

    assert NAME not in json.dumps(logged())


def test_levels_below_the_configured_one_are_left_out(logged):
    """Debug lines cost nothing in production."""
    configure_logging("warning")
    structlog.get_logger("bridge.x").info("not shown")
    logging.getLogger("bridge.x").info("not shown")

    assert logged() == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (3, 3),
        (Category.BUSY, "busy"),
        (NAME.encode(), "<17 bytes>"),
        (Redacted(NAME), REDACTED),
        (Where("a.yaml", 1, 2), "a.yaml:1:2"),
        ([Redacted(NAME), {"k": (1, NAME.encode())}], [REDACTED, {"k": [1, "<17 bytes>"]}]),
        (structlog, "<module>"),
        ("x" * 600, "x" * 500 + "…"),
    ],
)
def test_values_are_shown_as_far_as_their_type_vouches_for_them(value, shown):
    """Unknown types show their name only, bytes their number, redacted values nothing."""
    assert plain(value) == shown


def test_a_closed_standard_error_stops_nothing(logged, monkeypatch):
    """Logging to a pipe whose reader is gone raises nothing into the feed."""
    with monkeypatch.context() as patch:
        with open(os.devnull, "w") as closed:  # noqa: PTH123 - as the interpreter opens it
            patch.setattr(sys, "stderr", closed)
        structlog.get_logger("bridge.x").info("lost")

    assert logged() == []
