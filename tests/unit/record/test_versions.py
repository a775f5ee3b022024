"""Law *Versions and bytes*: one way to write a content, whatever stands in it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.fhir.json import loads, loads_stored
from bridge.record.versions import content_bytes, content_digest, stored_bytes

T0 = 1_700_000_000_123_456
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.one_of(texts, st.booleans(), st.integers(-9999, 9999), st.decimals("-9", "9", places=3)),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3), st.dictionaries(texts, inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)
names = st.from_regex(r"[a-z]{1,8}", fullmatch=True).filter(lambda name: name not in {"id", "meta"})
bodies = st.dictionaries(names, values, max_size=4).map(lambda rest: {"resourceType": "Patient", **rest})
metas = st.none() | st.fixed_dictionaries({"profile": st.lists(texts, min_size=1, max_size=2)})


@given(bodies, metas)
def test_served_bytes_are_the_content_with_id_and_version(body: dict[str, Any], meta: dict[str, Any] | None) -> None:
    """Whether or not the resource has a ``meta`` of its own; type, id and meta come first."""
    given_body = body if meta is None else {**body, "meta": meta}
    made = stored_bytes(given_body, content_bytes(given_body), "the-id", 7, T0)

    read = loads_stored(made)
    assert list(read)[:3] == ["resourceType", "id", "meta"]
    assert read.pop("id") == "the-id"
    assert read.pop("meta") == {
        **(meta or {}),
        "versionId": "7",
        "lastUpdated": "2023-11-14T22:13:20.123456Z",
    }
    assert read == body


@given(bodies, bodies)
def test_the_digest_tells_contents_apart_and_nothing_else(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Equal contents, equal digest: then there is no version, no leaf, no lock."""
    same = content_bytes(left) == content_bytes(right)

    assert (content_digest(content_bytes(left)) == content_digest(content_bytes(right))) == same
    assert len(content_digest(content_bytes(left))) == 16


def test_decimals_keep_their_digits() -> None:
    """98.00 is another statement than 98."""
    body = {"resourceType": "Observation", "valueQuantity": {"value": Decimal("98.00")}}
    made = stored_bytes(body, content_bytes(body), "x", 1, T0)

    assert b'"value":98.00' in made
    assert str(loads(made)["valueQuantity"]["value"]) == "98.00"
    assert content_digest(content_bytes(body)) != content_digest(
        content_bytes({**body, "valueQuantity": {"value": Decimal(98)}})
    )
