"""Resources, versions and index are stored as they were written, on each database."""

from __future__ import annotations

import random
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from bridge.errors import Conflict, Incorrect
from bridge.store import resources
from bridge.store.database import open_database
from bridge.store.dialect import Statement
from bridge.store.rows import ResourceRow, ResourceWrite, VersionRow
from bridge.store.schema import resource_index, resource_string, resource_term

TOP, BOTTOM = 2**63 - 1, -(2**63)


def row(key: int, version: int = 1, **changes) -> ResourceRow:
    plain = ResourceRow(
        resource_key=key,
        type="Patient",
        fhir_id=f"id-{key}",
        record_uuid=str(uuid.UUID(int=key)),
        patient_key=key,
        version=version,
        last_updated_us=1_700_000_000_000_000 + version,
        deleted=False,
        status=None,
        date_start_us=None,
        date_end_us=None,
        site="north",
        label_bits=0,
        content_digest=b"digest",
        state=b"{}",
    )
    return plain._replace(**changes)


def write(now: ResourceRow, *, previous: int = 0, terms=(), strings=(), bodies=None) -> ResourceWrite:
    numbers = range(previous + 1, now.version + 1)
    texts = bodies or [f"{now.fhir_id} v{number}".encode() for number in numbers]
    versions = tuple(
        VersionRow(
            now.resource_key, number, now.last_updated_us - now.version + number, now.deleted, body, b"leaf", 5, 6
        )
        for number, body in zip(numbers, texts, strict=True)
    )
    return ResourceWrite(now, versions, previous, tuple(sorted(set(terms))), tuple(strings))


def index_of(txn) -> tuple[dict[int, set[int]], set[tuple[str, str, str, int]]]:
    """Terms by resource, and strings, as the tables hold them."""
    found: dict[int, set[int]] = {}
    if txn.dialect == "postgresql":
        for key, terms in txn.execute(Statement(sa.select(resource_index.c.resource_key, resource_index.c.terms))):
            found[key] = set(terms)
    else:
        for term, key in txn.execute(Statement(sa.select(resource_term))):
            found.setdefault(key, set()).add(term)
    return {key: terms for key, terms in found.items() if terms}, set(
        txn.execute(Statement(sa.select(resource_string)))
    )


def test_what_is_written_is_loaded_by_key_and_by_id(database):
    new = row(3, status="final", date_start_us=-5, date_end_us=9, label_bits=6, state=b'{"a":1}', patient_key=None)
    with database.transaction() as txn:
        resources.write(txn, [write(new, bodies=[b"\0\xff bytes"]), write(row(4))])

        wanted = new._replace(body=b"\0\xff bytes", leaf_id=b"leaf")
        assert resources.load(txn, [3, 99]) == {3: wanted}
        assert resources.load_by_id(txn, [("Patient", "id-3"), ("Encounter", "id-3")]) == {("Patient", "id-3"): wanted}
        assert resources.load(txn, [3])[3].deleted is False


def test_a_change_replaces_what_stands_and_keeps_every_version(database):
    with database.transaction() as txn:
        resources.write(txn, [write(row(1))])
        resources.write(txn, [write(row(1, 3, deleted=True, status="x"), previous=1, bodies=[b"two", b""])])

        now = resources.load(txn, [1])[1]
        history = resources.history(txn, 1)
        assert (now.version, now.deleted, now.status, now.body) == (3, True, "x", b"")
        assert [(each.version, each.body, each.deleted) for each in history] == [
            (3, b"", True),
            (2, b"two", True),
            (1, b"id-1 v1", False),
        ]
        assert resources.version(txn, 1, 2) == history[1]
        assert resources.version(txn, 1, 4) is None
        assert resources.history(txn, 1, before_version=3, limit=1) == history[1:2]


def test_names_of_a_resource_never_change(database):
    with database.transaction() as txn:
        resources.write(txn, [write(row(1))])
        resources.write(txn, [write(row(1, 2, fhir_id="other", record_uuid="other", type="Other"), previous=1)])

        now = resources.load(txn, [1])[1]
    assert (now.type, now.fhir_id, now.record_uuid) == ("Patient", "id-1", str(uuid.UUID(int=1)))


@pytest.mark.parametrize("loaded_at", [1, 3])
def test_a_resource_that_moved_since_it_was_loaded_is_a_conflict_and_nothing_is_stored(database, loaded_at):
    with database.transaction() as txn:
        resources.write(txn, [write(row(1, 2))])

    with pytest.raises(Conflict, match="resource-moved"), database.transaction() as txn:
        resources.write(txn, [write(row(9)), write(row(1, loaded_at + 1), previous=loaded_at)])
    with database.transaction() as txn:
        assert resources.load(txn, [1])[1].version == 2
        assert resources.load(txn, [9]) == {}


def test_a_change_of_a_resource_that_is_not_there_is_a_conflict(database):
    with pytest.raises(Conflict, match="resource-moved"), database.transaction() as txn:
        resources.write(txn, [write(row(1, 2), previous=1)])


def test_one_id_is_one_resource(database):
    with pytest.raises(Incorrect, match="data-error"), database.transaction() as txn:
        resources.write(txn, [write(row(1)), write(row(2, fhir_id="id-1"))])


def test_two_writers_of_the_same_resources_in_any_order_lose_nothing(database, store_url):
    keys = list(range(1, 31))
    with database.transaction() as txn:
        resources.write(txn, [write(row(key)) for key in keys])

    def writer(number: int) -> int:
        chance, done, codes = random.Random(number), 0, set()
        with open_database(store_url) as mine:
            while done < 15:
                try:
                    with mine.transaction() as txn:
                        loaded = list(resources.load(txn, chance.sample(keys, 10)).values())
                        chance.shuffle(loaded)
                        resources.write(
                            txn,
                            [write(row(r.resource_key, r.version + 1), previous=r.version) for r in loaded],
                        )
                except Conflict as error:
                    codes.add(error.code)
                else:
                    done += 1
        assert codes <= {"resource-moved"}  # and never a deadlock
        return done * 10

    with ThreadPoolExecutor(3) as pool:
        written = sum(pool.map(writer, range(3)))
    with database.transaction() as txn:
        versions = {key: [v.version for v in resources.history(txn, key)] for key in keys}
    assert sum(map(len, versions.values())) == written + len(keys)
    assert all(numbers == list(range(len(numbers), 0, -1)) for numbers in versions.values())


@pytest.mark.parametrize("seed", range(3))
def test_the_index_is_that_of_the_last_write_whatever_came_before(database, seed):
    """Against a model: random writes of random terms and strings, many of them equal to what is there."""
    chance = random.Random(seed)
    model: dict[int, ResourceWrite] = {}
    for _ in range(25):
        batch = []
        for key in chance.sample(range(1, 40), chance.choice([1, 5, 25])):
            before = model.get(key)
            terms = chance.sample([TOP, BOTTOM, 0, -1, *range(1, 6)], chance.randrange(7))
            strings = {(chance.choice(["family", "given"]), chance.choice(["a", "b", "é"])) for _ in range(3)}
            if before and chance.random() < 0.4:
                terms, strings = before.terms, before.strings
            version = before.row.version if before else 0
            batch.append(write(row(key, version + 1), previous=version, terms=terms, strings=strings))
        with database.transaction() as txn:
            resources.write(txn, batch)
        model |= {each.row.resource_key: each for each in batch}

    with database.transaction() as txn:
        terms, strings = index_of(txn)
    assert terms == {key: set(each.terms) for key, each in model.items() if each.terms}
    assert strings == {
        (each.row.type, parameter, value, key) for key, each in model.items() for parameter, value in each.strings
    }


def test_an_unchanged_index_is_not_written_again(database):
    """Shown by spoiling the index behind the store's back: an equal one leaves it spoilt, another one mends it."""
    same = {"terms": [1, 2], "strings": [("family", "a")]}
    with database.transaction() as txn:
        resources.write(txn, [write(row(1), **same)])
        txn.change(Statement(sa.delete(resource_string)))
        resources.write(txn, [write(row(1, 2), previous=1, **same)])
        assert index_of(txn)[1] == set()

        resources.write(txn, [write(row(1, 3), previous=2, terms=[1, 3], strings=[("family", "a")])])
        assert index_of(txn) == ({1: {1, 3}}, {("Patient", "family", "a", 1)})


def test_strings_that_join_alike_are_told_apart(database):
    with database.transaction() as txn:
        resources.write(txn, [write(row(1), strings=[("ab", "c")])])
        resources.write(txn, [write(row(1, 2), previous=1, strings=[("a", "bc")])])

        assert index_of(txn)[1] == {("Patient", "a", "bc", 1)}


def test_all_versions_stream_in_order(database):
    with database.transaction() as txn:
        resources.write(txn, [write(row(key, 3)) for key in (2, 1, 7)])

        streamed = [
            (each.resource_key, each.version) for rows in resources.stream_versions(txn, chunk=2) for each in rows
        ]
    assert streamed == [(key, version) for key in (1, 2, 7) for version in (1, 2, 3)]


def test_nothing_asked_is_nothing_answered(database):
    with database.transaction() as txn:
        resources.write(txn, [])

        assert resources.load(txn, []) == resources.load_by_id(txn, []) == {}


def test_rows_with_health_data_never_print_it():
    secret = "Mergenthaler"
    whole = write(row(1, site=secret, state=secret.encode()), strings=[("family", secret)], bodies=[secret.encode()])

    assert secret not in repr(whole) + str(whole) + f"{whole}" + repr(whole.row) + repr(whole.versions)
