"""Redacting types: values that may travel, and never print themselves."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

T = TypeVar("T")

REDACTED: Final = "<redacted>"


class Redacted(Generic[T]):
    """Holds a value that must not reach a log, a metric, a trace or an error text.

    ``str``, ``repr``, ``format`` and pickling show nothing; only :meth:`reveal` gives the value, so that every place
    that takes it out can be found by its name.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value itself; never pass the answer to a log, metric, trace or error."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Redacted) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __str__(self) -> str:
        return REDACTED

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return REDACTED

    def __reduce__(self) -> tuple[object, ...]:
        msg = "a redacted value is not pickled: it would leave the process unseen"
        raise TypeError(msg)
