"""First matching rules: what makes two source records one person's, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import Incorrect
from bridge.matching import normalize
from bridge.matching.decide import Candidate, components, conflicting, decide
from bridge.matching.features import Features, features_of, keys_of
from bridge.matching.model import load_model
from tests.reference import ROOT

NATIONAL = "urn:oid:2.16.840.1.113883.19.9"
MODEL = load_model(ROOT / "mappings" / "matching" / "certain.yaml")


def patient(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "resourceType": "Patient",
        "identifier": [{"system": "urn:mrn", "value": "1"}, {"system": NATIONAL, "value": "555-1"}],
        "name": [{"family": "Müller", "given": ["Zoë", "Anna"]}],
        "birthDate": "1980-02-03",
        "gender": "female",
        "telecom": [{"system": "phone", "value": "+44 20 5368 1665"}],
        "address": [{"line": ["1 High St."], "postalCode": "RW21 6KC"}],
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def features(**changes: object) -> Features:
    return features_of(patient(**changes), frozenset({NATIONAL}), MODEL)


def linked_by(left: Features, right: Features) -> list[str]:
    return [link.rule for link in decide(left, [Candidate(2, right)], MODEL).links]


def test_record_identifiers_are_no_evidence() -> None:
    """An MRN names a record at its own authority; it never links records."""
    assert features().evidence == ((NATIONAL, "555-1"),)


def test_the_same_evidence_identifier_links() -> None:
    """Nothing else needs to agree."""
    other = features(name=[{"family": "Smith", "given": ["Ann"]}], birthDate="1981-01-01", telecom=None, address=None)

    assert linked_by(features(), other) == ["same-evidence-identifier"]


@pytest.mark.parametrize(
    ("dropped", "rule"),
    [({"address": None}, "same-name-birth-sex-phone"), ({"telecom": None}, "same-name-birth-sex-address")],
)
def test_name_birth_date_and_sex_need_a_phone_or_an_address(dropped: dict[str, object], rule: str) -> None:
    """Either is enough, and the link names the rule."""
    without_id = {"identifier": None, "name": [{"family": "MULLER", "given": ["ZOE"]}]}

    assert linked_by(features(), features(**without_id, **dropped)) == [rule]


@pytest.mark.parametrize(
    "changes",
    [
        {"telecom": None, "address": None},
        {"birthDate": "1980-02-04"},
        {"birthDate": "1980-02"},
        {"gender": "male"},
        {"gender": "unknown"},
        {"name": [{"family": "Müller", "given": ["Lena"]}]},  # a twin
        {"name": [{"family": "Müller"}]},
        {"name": None},
    ],
)
def test_anything_less_does_not_link(changes: dict[str, object]) -> None:
    """A twin, a partial birth date, an unknown sex, or name, birth date and sex alone."""
    assert linked_by(features(), features(identifier=None, **changes)) == []


def test_placeholder_names_and_identifiers_are_no_evidence() -> None:
    """A registration desk's BABY BOY or 999999999 links nobody."""
    baby = {"identifier": [{"system": NATIONAL, "value": "999999999"}], "name": [{"family": "Baby", "given": ["Boy"]}]}

    assert linked_by(features(**baby), features(**baby)) == []


def test_different_national_numbers_forbid_a_demographic_link() -> None:
    """And the refusal is kept for the reader of the decision."""
    other = features(identifier=[{"system": NATIONAL, "value": "555-2"}])

    decision = decide(features(), [Candidate(2, other)], MODEL)

    assert decision.links == ()
    assert [link.rule for link in decision.refused] == ["same-name-birth-sex-phone"]


def test_a_key_shared_by_too_many_records_is_no_evidence() -> None:
    """The clinic's phone number stops counting; the decision says so."""
    record = features(identifier=None, address=None)

    decision = decide(record, [Candidate(2, record)], MODEL, capped=frozenset(keys_of(record, MODEL)))

    assert decision.links == ()
    assert decision.capped == ("same-name-birth-sex-phone",)


values = st.sampled_from(["", "a", "b"])
some_features = st.builds(
    Features,
    evidence=st.lists(st.tuples(values, values), max_size=2).map(tuple),
    name=values,
    birth_date=values,
    sex=values,
    phones=st.lists(values.filter(bool), max_size=2).map(tuple),
    addresses=st.lists(values.filter(bool), max_size=2).map(tuple),
)


@given(some_features, some_features)
def test_linking_is_symmetric(left: Features, right: Features) -> None:
    """Whoever comes second, the answer is the same; so persons do not depend on order."""
    assert linked_by(left, right) == linked_by(right, left)
    assert conflicting(left, right) == conflicting(right, left)


@given(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 8), max_size=3)), st.randoms())
def test_components_do_not_depend_on_the_order_of_edges(edges: dict[int, list[int]], random: object) -> None:
    """The same partition, in the same order, for every order of the same edges."""
    shuffled = list(edges.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert components(range(9), edges) == components(reversed(range(9)), dict(shuffled))
    assert sorted(record for group in components(range(9), edges) for record in group) == list(range(9))


@given(st.text() | st.text(alphabet="a0:_ -"))
@example("0:_0")
@example("\U0001d400")
def test_folding_is_stable(text: str) -> None:
    """Folding what is folded changes nothing."""
    assert normalize.fold(normalize.fold(text)) == normalize.fold(text)


def test_features_do_not_print_themselves() -> None:
    """Demographics stay out of logs."""
    assert "muller" not in repr(features())


def test_a_broken_model_names_file_and_element(tmp_path: Path) -> None:
    """So that whoever edits it finds the place."""
    file = tmp_path / "m.yaml"
    file.write_text("model: x\nkey_cap: 1\nrules: []\n")

    with pytest.raises(Incorrect, match=r"m\.yaml: key_cap"):
        load_model(file)
