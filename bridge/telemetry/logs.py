"""Structured logs: one JSON object a line on standard error, with nothing in it that could be a patient's.

Three ways by which a log could leak are closed here, whatever the caller does:

- Exceptions are reduced to type, closed code and the places they passed. The text of a foreign exception is left out (drivers
  put parameters into it), and so are local variables.
- Values of unknown types are shown by their type, bytes by their number, :class:`Redacted` ones not at all.
- Records of foreign libraries show the message's template without what was filled in; a text that came ready-made is left
  out, and only its place is shown.

Limit: a text that our own code passes as an event or a value is shown as it is, cut at 500 characters.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any, Final

import structlog

from bridge.errors import BridgeError, Where
from bridge.telemetry.redact import REDACTED, Redacted

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LONGEST: Final = 500
_FRAMES: Final = 30
_OURS: Final = ("bridge", "adapters")


def configure_logging(level: str = "info") -> None:
    """Routes structlog and the standard library's logging to standard error.

    Args:
        level: least level shown, one of :data:`LEVELS`. Foreign libraries are shown from ``warning`` on.
    """
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_Line,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Records()]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(LEVELS[level])


def take_over_process() -> None:
    """Routes the interpreter's own words the same way: warnings, and exceptions that nobody catches in any thread."""
    logging.captureWarnings(capture=True)
    sys.excepthook = lambda _kind, value, _trace: log_uncaught(value)
    sys.unraisablehook = lambda raised: log_uncaught(raised.exc_value)
    threading.excepthook = lambda raised: log_uncaught(raised.exc_value)


class _Line:
    """What structlog writes to: one line on standard error, wherever that points now."""

    def __init__(self, name: str = "bridge", *_: Any) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        _write(line)

    debug = info = warning = error = critical = msg


def _write(line: str) -> None:
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # a closed pipe must not stop the feed


def _render(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    raised = event.pop("exc_info", None)
    fields = {key: plain(value) for key, value in event.items() if key != "event"}
    if raised:
        exception = raised if isinstance(raised, BaseException) else sys.exc_info()[1]
        fields["exception"] = reduced(exception) if exception is not None else None
    return _line(method, getattr(logger, "name", "bridge"), plain(event.get("event")), fields)


def _line(level: str, logger: str, event: Any, fields: dict[str, Any]) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": time, "level": level, "logger": logger, "event": event} | fields, ensure_ascii=False)


class _Records(logging.Handler):
    """Takes the standard library's records: ours whole, foreign ones reduced."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {}
        if record.name.partition(".")[0] in _OURS:
            event = plain(record.getMessage())
        else:
            event = plain(record.msg) if isinstance(record.msg, str) and record.args else "a foreign library's message"
            fields["at"] = f"{record.module}:{record.lineno}"
        if record.exc_info and record.exc_info[1]:
            fields["exception"] = reduced(record.exc_info[1])
        _write(_line(record.levelname.lower(), record.name, event, fields))


def plain(value: Any) -> Any:  # noqa: PLR0911 - one line for each kind of value
    """``value`` as JSON can hold it, without anything that its type does not vouch for."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Redacted):
        return REDACTED
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, (PurePath, Where)):
        return str(value)
    if isinstance(value, BaseException):
        return reduced(value)
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return f"<{type(value).__name__}>"


def reduced(exception: BaseException) -> dict[str, Any]:
    """What may be said of an exception: its type, where it came from, and if it is one of ours, its code and text."""
    said: dict[str, Any] = {"type": type(exception).__name__}
    if isinstance(exception, BridgeError):
        said |= {"category": exception.category.value, "code": exception.code, "message": exception.message}
    frames = traceback.extract_tb(exception.__traceback__)[-_FRAMES:]
    said["at"] = [f"{PurePath(frame.filename).stem}:{frame.lineno} {frame.name}" for frame in frames]
    causes: list[str] = []
    cause = _cause(exception)
    while cause is not None and len(causes) < _FRAMES:
        causes.append(cause.code if isinstance(cause, BridgeError) else type(cause).__name__)
        cause = _cause(cause)
    return said | ({"causes": causes} if causes else {})


def _cause(exception: BaseException) -> BaseException | None:
    return exception.__cause__ or (None if exception.__suppress_context__ else exception.__context__)


def log_uncaught(value: BaseException | None) -> None:
    """Logs an exception that nobody catches, reduced; an interrupt is none."""
    if isinstance(value, KeyboardInterrupt):
        return
    fields = {"exception": reduced(value)} if value is not None else {}
    _write(_line("critical", "bridge", "uncaught exception", fields))
