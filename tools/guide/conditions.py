"""The guide's conditions ("IF RXA-21 NOT EQUALS "D"") in the language of our mapping files."""

from __future__ import annotations

import re
from typing import Final

_REFERENCE: Final = r"[A-Z][A-Z0-9]{1,2}[-.]\d+(?:\.\d+)*"
_TOKENS: Final = re.compile(
    rf'\s*(?:(?P<ref>{_REFERENCE})(?![A-Za-z])|"(?P<quoted>[^"]*)"|\'(?P<single>[^\']*)\'|(?P<word>[A-Za-z]+)|(?P<sign>[()=,]))'
)
_NOISE: Final = frozenset({"IF", "IS", "THE", "AREA"})


class UnreadableError(ValueError):
    """A condition that only a person can decide."""


def translate(text: str, place: str = "") -> str:
    """A condition of the guide as one of ours; '' for none.

    Args:
        text: as it stands in the guide.
        place: the row's own field, which a condition that names none is about (``IF NOT VALUED``).

    Raises:
        UnreadableError: it does not follow the guide's language.
    """
    if not text:
        return ""
    tokens = _tokens(text)
    out: list[str] = []
    pending: list[str] = []  # references that share one comparison: A AND B VALUED
    joints: list[str] = []
    at = 0
    while at < len(tokens):
        kind, value = tokens[at]
        if kind == "ref":
            pending.append(value)
            at += 1
        elif value in ("AND", "OR") and kind == "word":
            if pending:
                joints.append(value.lower())
            else:
                out.append(value.lower())
            at += 1
        elif kind == "sign" and value in "()" and not pending:
            out.append(value)
            at += 1
        else:
            subjects = pending or ([place] if place else [])
            if not subjects:
                raise UnreadableError(text)
            comparison, at = _comparison(tokens, at, text)
            out.append(_joined(subjects, joints, comparison))
            pending, joints = [], []
    if pending or joints or not out or out[-1] in ("and", "or"):
        raise UnreadableError(text)
    return " ".join(out).replace("( ", "(").replace(" )", ")")


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKENS.match(text, at)
        if match is None or match.lastgroup is None:
            raise UnreadableError(text)
        kind, value = match.lastgroup, match[match.lastgroup]
        if kind == "word":
            value = value.upper()
        if not (kind == "word" and value in _NOISE):
            tokens.append(("quoted" if kind == "single" else kind, value))
        at = match.end()
    return tokens


def _comparison(tokens: list[tuple[str, str]], at: int, text: str) -> tuple[str, int]:  # noqa: C901, PLR0912 - one branch for each word
    negated = False
    if tokens[at] == ("word", "NOT"):
        negated = True
        at += 1
    if at >= len(tokens):
        raise UnreadableError(text)
    kind, value = tokens[at]
    if kind == "word" and value in ("VALUED", "VALUE"):
        return ("not valued" if negated else "valued"), at + 1
    if kind == "word" and value == "EMPTY":
        return ("valued" if negated else "not valued"), at + 1
    if kind == "word" and value == "DOES" and [one[1] for one in tokens[at + 1 : at + 3]] == ["NOT", "EXIST"]:
        return "not valued", at + 3
    if kind == "word" and value == "IN":
        listed = []
        at += 1
        if at >= len(tokens) or tokens[at] != ("sign", "("):
            raise UnreadableError(text)
        at += 1
        while at < len(tokens) and tokens[at] != ("sign", ")"):
            if tokens[at][0] == "quoted":
                listed.append(_literal(tokens[at][1]))
            elif tokens[at] != ("sign", ","):
                raise UnreadableError(text)
            at += 1
        return f"{'not ' if negated else ''}in ({', '.join(listed)})", at + 1
    if (kind == "word" and value == "EQUALS") or (kind == "sign" and value == "="):
        at += 1
        if at >= len(tokens):
            raise UnreadableError(text)
        kind, value = tokens[at]
    if kind == "quoted":
        return f"{'!=' if negated else '='} {_literal(value)}", at + 1
    raise UnreadableError(text)


def _literal(text: str) -> str:
    return (
        text if re.fullmatch(r"[A-Za-z0-9][\w./+-]*", text) and text not in ("and", "or", "not", "in") else f'"{text}"'
    )


def _joined(subjects: list[str], joints: list[str], comparison: str) -> str:
    if "=" in comparison or "in (" in comparison:  # codes are compared by the first component of a field
        subjects = [f"{one}.1" if re.fullmatch(r"\w+-\d+", one) else one for one in subjects]
    if len(subjects) == 1:
        return f"{subjects[0]} {comparison}"
    if len(joints) != len(subjects) - 1:
        raise UnreadableError(" ".join(subjects))
    text = f"{subjects[0]} {comparison}"
    for joint, subject in zip(joints, subjects[1:], strict=True):
        text += f" {joint} {subject} {comparison}"
    return f"({text})"
