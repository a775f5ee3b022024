"""Writes mapping files: the YAML a person would write, keys in the order given, comments where decisions stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z$_][A-Za-z0-9_.$/+*#() \[\]=<>!-]*")
_BARE_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"})


def scalar(value: Any, *, key: bool = False) -> str:
    """One scalar."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    bracketed = "[" in text or "]" in text
    plain = _PLAIN.fullmatch(text) and text == text.strip() and " #" not in text and text.lower() not in _WORDS
    if plain and not bracketed and "," not in text:
        return text
    if key and re.fullmatch(r"[A-Za-z0-9_.-]+", text) and text.lower() not in _WORDS:
        return text
    if plain and bracketed and not text.startswith("["):
        return f'"{text}"'
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key, key=True)}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return scalar(value)


def comment(text: str, indent: int) -> list[str]:
    """A comment, folded at 120 characters."""
    lines, line = [], " " * indent + "#"
    for word in text.split():
        if len(line) + len(word) + 1 > 118:
            lines.append(line)
            line = " " * indent + "#"
        line += f" {word}"
    return [*lines, line]
