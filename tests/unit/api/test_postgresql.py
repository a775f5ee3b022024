"""The same API on PostgreSQL: the statements differ in the index tables, the answers must not."""

from __future__ import annotations

import pytest

from bridge.store.migrate import migrate
from tests.unit.api.exchange import Exchange, mint, permit
from tests.unit.api.test_reading import SEARCHES, observation, patient

pytestmark = pytest.mark.ci


def test_searches_find_the_same_on_postgresql(database_url, tmp_path):
    """Every search of the suite, on the other dialect."""
    migrate(database_url)
    with Exchange(tmp_path, "permit", url=database_url) as running:
        running.seed.put(patient("p1"), patient("p2", "Schmidt"), *(observation(n) for n in range(1, 13)))
        running.seed.put({"resourceType": "Organization", "id": "org", "name": "St. Olave"})
        for path, ids in SEARCHES:
            assert running.ids(path) == ids, path
        moment = running.get("Observation/o5").json()["meta"]["lastUpdated"]
        assert running.ids(f"Observation?_lastUpdated=gt{moment}") == [f"o{n}" for n in range(6, 13)]


def test_consent_holds_on_postgresql(database_url, tmp_path):
    """Visibility, links, restrictions, writing and access records, on the other dialect."""
    migrate(database_url)
    with Exchange(tmp_path, url=database_url) as running:
        running.seed.put(*(patient(f"p{n}") for n in range(1, 6)), permit("p1", id="c1"), permit("p2", "deny", id="c2"))
        running.seed.put(*(observation(n, f"p{n % 5 + 1}") for n in range(1, 21)))
        running.seed.link("p1", "p3")
        running.seed.put(permit("p4", id="c4"))
        running.seed.restrict("p4")

        assert running.ids("Patient") == ["p1", "p3"]
        assert sorted(running.ids("Observation?_count=3"), key=lambda name: int(name[1:])) == [
            f"o{n}" for n in range(1, 21) if n % 5 + 1 in (1, 3)
        ]
        assert running.ids("Patient", token=mint("portal", patient="p5")) == ["p5"]
        assert running.post_consent(permit("p1", "deny"), token=mint("portal", patient="p1")).status_code == 201
        assert running.ids("Patient") == []
        other = {"resourceType": "Organization", "id": "o", "identifier": [{"system": "urn:oid:1.2.3", "value": "b"}]}
        running.seed.put(other, permit("p5", "deny", actors=("Organization/o",), id="c5"), permit("p5", id="c6"))
        assert running.ids("Patient") == ["p5"]
        organization = [{"reference": "Organization/a"}]
        written = running.post_consent(permit("p2", "deny", organization=organization), token=mint("officer"))
        assert written.status_code == 201
        assert {row["outcome"] for row in running.access_records()} == {"answered"}
