"""Access records inside the one leaf of their request, each of which can be opened without the others.

A request that touched many patients leaves many records, and one leaf: were there one a record, the public size of the log
would tell how many patients a search hid. The leaf's context carries, as ``extra``, a salted digest of each record under the
record's random id; its content is empty::

    salt   = HMAC-SHA-256(K_p, "hie-bridge/salt/v1" ‖ 0x00 ‖ n)                            of that record's patient and nonce
    digest = HMAC-SHA-256(salt, "hie-bridge/access-record/v1" ‖ 0x00 ‖ SHA-256(record bytes))

The leaf itself is 33 bytes like any other, under the key of the organisation that asked. Who opens it for one record shows
the leaf's opening, and bytes and salt of that record; of the others digests are seen, which nobody can guess back, and their
number. Destroying a patient's ``K_p`` makes that patient's digests unopenable and no other.
"""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from typing import Final

from bridge.errors import Incorrect
from bridge.keys.mac import hmac_sha256
from bridge.ledger.commitment import SALT_SIZE, Context, LeafKind

FORM: Final = "hie-bridge/access-records/v1"
CONTENT: Final = b""
_DOMAIN: Final = b"hie-bridge/access-record/v1\x00"


def record_digest(salt: bytes, record: bytes) -> str:
    """The salted digest of an access record's bytes, in lower-case hex.

    Raises:
        Incorrect: ``salt-length``.
    """
    if len(salt) != SALT_SIZE:
        raise Incorrect("salt-length", "a salt is exactly 32 bytes")
    return hmac_sha256(salt, _DOMAIN + sha256(record).digest()).hex()


def holds(context: Context, access_id: str, record: bytes, salt: bytes) -> bool:
    """Whether an opened leaf holds this record.

    Args:
        context: of the leaf, after :func:`bridge.ledger.commitment.commit` with :data:`CONTENT` has given the leaf.
        access_id: the record's id, a UUID in lower case.
        record: the record's bytes.
        salt: the record's own salt, 32 bytes.
    """
    digest = context.extra.get(access_id)
    named = context.kind is LeafKind.DISCLOSURE and context.form == FORM and digest is not None
    return named and compare_digest(digest or "", record_digest(salt, record))
