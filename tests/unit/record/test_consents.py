"""What the chain is told of a consent never contradicts itself, and tells nothing about anyone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.record.consents import state_bytes
from bridge.store.migrate import migrate
from bridge.store.rows import ConsentStateRow
from tests.integration.hospital import Hospital
from tests.integration.test_consent_feed import PATIENT, consent, words

# What a source may say of one Consent, one after the other
statements = st.lists(
    st.tuples(st.sampled_from(["permit", "deny"]), st.sampled_from(["active", "inactive", "entered-in-error"])),
    min_size=1,
    max_size=7,
)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        migrate(f"sqlite:///{folder}/template.db")
        yield Path(folder)


@settings(max_examples=25)
@given(statements)
def test_no_grant_follows_a_revocation_under_one_handle(template: Path, history: list[tuple[str, str]]) -> None:
    """Revoked is absorbing on the chain, so a grant after anything that was no grant needs a handle of its own.

    Whatever is sent when: of the words still waiting there is one a handle, and the newest says what is in force.
    """
    with tempfile.TemporaryDirectory() as folder:
        for file in template.iterdir():
            shutil.copy(file, folder)
        hospital = Hospital(f"sqlite:///{folder}/template.db")
        hospital.feed(PATIENT)
        revoked: set[bytes] = set()
        for day, (kind, status) in enumerate(history, 1):
            hospital.feed(consent(kind, status=status, at=f"2024-03-{day:02}T12:00:00Z"))
            waiting = words(hospital)
            [state] = hospital.rows("consent_state")
            granted = status == "active" and kind == "permit"

            assert len({word.handle for word in waiting}) == len(waiting)
            assert not [word for word in waiting if word.granted and word.handle in revoked]
            [mine] = [word for word in waiting if word.handle == state["handle"]]
            assert mine.granted == granted
            assert not [word for word in waiting if word.granted and word.handle != state["handle"]]
            revoked |= {word.handle for word in waiting if not word.granted}
        hospital.close()


def test_the_bytes_of_a_state_hold_every_column_that_decides() -> None:
    """Whom it is about, who keeps it and every byte of its rule; not the tag that is made of the commitment itself."""
    row = ConsentStateRow(1, 2, b"h" * 32, "active", 3, b"{}", "", None, "", 4)

    assert state_bytes(row._replace(consent_key=8, policy_tag="x", updated_us=9)) == state_bytes(row)
    others: list[dict[str, Any]] = [
        {"patient_key": 3},
        {"handle": b"i" * 32},
        {"status": "revoked"},
        {"version": 4},
        {"rule": b"{ }"},
        {"rule": b"{\xff}"},
        {"custodian": "Organization/1"},
        {"not_after_us": 5},
    ]
    assert len({state_bytes(row), *(state_bytes(row._replace(**other)) for other in others)}) == len(others) + 1
