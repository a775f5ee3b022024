"""The tables, as SQLAlchemy Core sees them on SQLite and PostgreSQL alike.

Rows join on 64-bit surrogate keys; text compares by its bytes (``COLLATE "C"``); times are int64 µs UTC; bodies are stored
once, in ``resource_version``. There are no foreign keys between the tables of the batch: the transaction writes both sides
from one decision, and PostgreSQL's check of each row would cost more than the row. ``fsck`` checks what they would.

PostgreSQL: ``resource_version``, ``raw_message`` and ``access_record`` are partitioned by month (see
``bridge.store.partitions``), the index tables by hash; the vault is a schema of its own. SQLite: one file, strict tables, the
vault's tables are named ``vault_…``. The migrations under ``migrations/sql`` state the same in frozen DDL; a contract test
holds the two together.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

HASH_PARTITIONS: Final = 8
KEY_BLOCK: Final = 512
"""How many surrogate keys a process takes from a PostgreSQL sequence at once (the sequences' increment)."""

KEYED: Final = (
    "resource",
    "raw_message",
    "dead_letter",
    "person",
    "link_event",
    "consent_state",
    "restriction",
    "outbox",
    "anchor",
)
"""Tables whose surrogate keys ``bridge.store.sequences.allocate`` gives out."""

VERSION_TABLE: Final = "store_version"

MONTHLY: Final = {"resource_version": "last_updated_us", "raw_message": "received_us", "access_record": "started_us"}
"""Tables that PostgreSQL partitions by month, and by which column."""

BIGINT = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
BYTES = sa.LargeBinary().with_variant(postgresql.BYTEA(), "postgresql")
BOOLEAN = sa.Boolean().with_variant(sqlite.INTEGER(), "sqlite")

metadata = sa.MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "pk": "%(table_name)s_pkey",
        "ck": "%(constraint_name)s",
    }
)


def _integer(name: str, *, key: bool = False, optional: bool = False, default: int | None = None) -> sa.Column[int]:
    server_default = None if default is None else sa.text(str(default))
    return sa.Column(
        name, BIGINT, primary_key=key, autoincrement=False, nullable=optional and not key, server_default=server_default
    )


def _text(name: str, *, key: bool = False, optional: bool = False) -> sa.Column[str]:
    return sa.Column(name, TEXT, primary_key=key, nullable=optional and not key)


def _bytes(name: str, *, key: bool = False, optional: bool = False, unique: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, BYTES, primary_key=key, nullable=optional and not key, unique=unique or None)


def _boolean(name: str) -> sa.Column[bool]:
    return sa.Column(name, BOOLEAN, nullable=False)


def _one_of(column: str, *values: str, optional: bool = False) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    unless = f"{column} IS NULL OR " if optional else ""
    return sa.CheckConstraint(f"{unless}{column} IN ({listed})", name=f"{column}_known")


def _index(*columns: str, where: str | None = None) -> sa.Index:
    condition = None if where is None else sa.text(where)
    return sa.Index(None, *columns, postgresql_where=condition, sqlite_where=condition)


def _table(name: str, *parts: Any, rowid: bool = True, only: str | None = None, **options: Any) -> sa.Table:
    """``rowid=False`` keeps SQLite's rows in the primary key's tree; ``only`` names the one dialect that has the table."""
    return sa.Table(name, metadata, *parts, sqlite_strict=True, sqlite_with_rowid=rowid, info={"only": only}, **options)


source_position = _table(
    "source_position",
    _text("source", key=True),
    _text("topic_id", key=True),
    _integer("partition", key=True),
    _integer("next_offset"),
    _integer("epoch"),
    _integer("received", default=0),
    _integer("stored", default=0),
    _integer("filtered", default=0),
    _integer("duplicate", default=0),
    _integer("dead", default=0),
    _integer("updated_us"),
    rowid=False,
    postgresql_with={"fillfactor": 50},
)

raw_message = _table(
    "raw_message",
    _integer("raw_key", key=True),
    _integer("received_us", key=True),
    _text("source"),
    _text("topic_id", optional=True),
    _integer("partition", optional=True),
    _integer("offset", optional=True),
    _text("site"),
    _text("kind"),
    _text("state"),
    _text("outcome", optional=True),
    _integer("attempts", default=0),
    _text("sender", optional=True),
    _text("control_id", optional=True),
    _bytes("digest", optional=True),
    _integer("owner_key", optional=True),
    _text("key_id"),
    _bytes("wrapped_key"),
    _bytes("nonce"),
    _bytes("ciphertext"),
    _one_of("state", "waiting", "done", "dead"),
    _one_of("outcome", "stored", "superseded", "filtered", "duplicate", "dead", optional=True),
    sa.Index("raw_message_waiting", "received_us", "raw_key", postgresql_where=sa.text("state = 'waiting'"),
             sqlite_where=sa.text("state = 'waiting'")),
    postgresql_partition_by="RANGE (received_us)",
)  # fmt: skip

message_seen = _table(
    "message_seen",
    _text("sender", key=True),
    _text("control_id", key=True),
    _bytes("digest", key=True),
    _integer("raw_key"),
    _integer("recorded_us"),
    rowid=False,
)

dead_letter = _table(
    "dead_letter",
    _integer("dead_key", key=True),
    _integer("raw_key"),
    _integer("raw_received_us"),
    _text("source"),
    _text("topic_id", optional=True),
    _integer("partition", optional=True),
    _integer("offset", optional=True),
    _text("site"),
    _text("event"),
    _text("stage"),
    _text("category"),
    _text("code"),
    _text("message"),
    _text("structure"),
    _text("state"),
    _integer("created_us"),
    _integer("closed_us", optional=True),
    _text("closed_by", optional=True),
    _text("reason", optional=True),
    _one_of("state", "open", "replayed", "resolved"),
    _index("state", "source"),
    _index("raw_key"),
)

identity = _table(
    "identity",
    _text("resource_type", key=True),
    _text("namespace", key=True),
    _text("identifier_type", key=True),
    _text("value", key=True),
    _integer("resource_key"),
    _index("resource_key"),
    rowid=False,
)

resource = _table(
    "resource",
    _integer("resource_key", key=True),
    _text("type"),
    _text("fhir_id"),
    _text("record_uuid"),
    _integer("patient_key", optional=True),
    _integer("version"),
    _integer("last_updated_us"),
    _boolean("deleted"),
    _text("status", optional=True),
    _integer("date_start_us", optional=True),
    _integer("date_end_us", optional=True),
    _text("site"),
    _integer("label_bits"),
    _bytes("content_digest"),
    _bytes("state"),
    _integer("index_digest"),
    sa.UniqueConstraint("type", "fhir_id", name="resource_type_fhir_id"),
    sa.CheckConstraint("version >= 1", name="version_from_one"),
    _index("type", "last_updated_us"),
    _index("patient_key", "type", "date_start_us", where="patient_key IS NOT NULL"),
    _index("type", "date_start_us", where="date_start_us IS NOT NULL"),
)

resource_version = _table(
    "resource_version",
    _integer("resource_key", key=True),
    _integer("version", key=True),
    _integer("last_updated_us", key=True),
    _boolean("deleted"),
    _bytes("body"),
    _bytes("leaf_id"),
    _integer("raw_key", optional=True),
    _integer("raw_received_us", optional=True),
    postgresql_partition_by="RANGE (last_updated_us)",
)

resource_index = _table(
    "resource_index",
    _integer("resource_key", key=True),
    _text("type"),
    sa.Column("terms", postgresql.ARRAY(sa.BigInteger()), nullable=False),
    # Every search reads the whole pending list: short ones cost a tenth of the writer's time, the default 4 MB 30 ms a search.
    sa.Index("resource_index_terms", "terms", postgresql_using="gin", postgresql_with={"gin_pending_list_limit": 512}),
    only="postgresql",
    postgresql_partition_by="HASH (resource_key)",
)

resource_term = _table(
    "resource_term",
    _integer("term", key=True),
    _integer("resource_key", key=True),
    _index("resource_key"),
    rowid=False,
    only="sqlite",
)

resource_string = _table(
    "resource_string",
    _text("type", key=True),
    _text("parameter", key=True),
    _text("value", key=True),
    _integer("resource_key", key=True),
    _index("resource_key"),
    rowid=False,
    postgresql_partition_by="HASH (resource_key)",
)

person = _table(
    "person",
    _integer("person_key", key=True),
    _text("person_uuid"),
    _integer("consent_version", default=0),
    _integer("created_us"),
)

person_link = _table(
    "person_link",
    _integer("record_key", key=True),
    _integer("person_key"),
    _text("certainty"),
    _text("rule"),
    _integer("since_us"),
    _one_of("certainty", "asserted", "certain", "possible"),
    _index("person_key"),
)

link_event = _table(
    "link_event",
    _integer("event_key", key=True),
    _text("kind"),
    _integer("record_key"),
    _integer("other_key", optional=True),
    _integer("person_from", optional=True),
    _integer("person_to", optional=True),
    _integer("time_us"),
    _text("tie"),
    _text("source"),
    _text("rule"),
    _text("certainty"),
    _integer("decided_us"),
    _bytes("leaf_id"),
    _one_of("kind", "link", "unlink", "merge"),
    _index("record_key"),
    _index("other_key", where="other_key IS NOT NULL"),
)

match_key = _table(
    "match_key",
    _integer("hash", key=True),
    _integer("record_key", key=True),
    _text("kind"),
    _index("record_key"),
    rowid=False,
)

match_features = _table("match_features", _integer("record_key", key=True), _bytes("features"))

consent_state = _table(
    "consent_state",
    _integer("consent_key", key=True),
    _integer("patient_key"),
    _bytes("handle", unique=True),
    _text("status"),
    _integer("version"),
    _bytes("rule"),
    _text("custodian"),
    _integer("not_after_us", optional=True),
    _text("policy_tag"),
    _integer("updated_us"),
    _one_of("status", "active", "inactive", "revoked", "error"),
    _index("patient_key"),
)

restriction = _table(
    "restriction",
    _integer("restriction_key", key=True),
    _integer("patient_key", optional=True),
    _bytes("identity_mac", optional=True),
    _integer("dead_key", optional=True),
    _text("code"),
    _text("state"),
    _integer("created_us"),
    _integer("lifted_us", optional=True),
    _text("lifted_by", optional=True),
    _text("reason", optional=True),
    _one_of("state", "open", "lifted"),
    _index("patient_key", where="patient_key IS NOT NULL"),
    _index("identity_mac", where="identity_mac IS NOT NULL"),
    _index("dead_key", where="dead_key IS NOT NULL"),
)

outbox = _table(
    "outbox",
    _integer("outbox_key", key=True),
    _text("destination"),
    _text("key"),
    _bytes("payload"),
    _integer("created_us"),
    _integer("attempts", default=0),
    _integer("next_us"),
    _bytes("sending", optional=True),
    _index("destination", "next_us"),
    _index("destination", "key"),
)

leaf_pending = _table(
    "leaf_pending",
    _bytes("leaf_id", key=True),
    _bytes("leaf"),
    _text("kind"),
    _integer("created_us"),
    sa.CheckConstraint("length(leaf) = 33", name="leaf_length"),
    rowid=False,
)

log_leaf = _table(
    "log_leaf",
    _text("origin", key=True),
    _integer("leaf_index", key=True),
    _bytes("leaf_id", unique=True),
    _bytes("leaf"),
    _bytes("leaf_hash"),
    sa.CheckConstraint("leaf_index >= 0", name="leaf_index_from_zero"),
)

log_subtree = _table(
    "log_subtree",
    _text("origin", key=True),
    _integer("level", key=True),
    _integer("node_index", key=True),
    _bytes("hash"),
    sa.CheckConstraint("level >= 1", name="level_from_one"),
    rowid=False,
)

log_state = _table(
    "log_state",
    _text("origin", key=True),
    _integer("size"),
    _bytes("root"),
    _bytes("compact_range"),
    _integer("epoch"),
    rowid=False,
)

checkpoint = _table(
    "checkpoint",
    _text("origin", key=True),
    _integer("size", key=True),
    _bytes("root"),
    _text("note"),
    _integer("signed_us"),
    rowid=False,
)

commitment = _table(
    "commitment",
    _bytes("leaf_id", key=True),
    _text("kind"),
    _bytes("context"),
    _text("owner_uuid"),
    _integer("subject_key", optional=True),
    _integer("subject_version", optional=True),
    rowid=False,
)

nonce = _table("nonce", _bytes("leaf_id", key=True), _bytes("nonce"), rowid=False, schema="vault")

record_key = _table(
    "record_key",
    _text("owner_uuid", key=True),
    _bytes("wrapped_key"),
    _text("key_id"),
    _integer("created_us"),
    _integer("destroyed_us", optional=True),
    rowid=False,
    schema="vault",
)

anchor = _table(
    "anchor",
    _integer("anchor_key", key=True),
    _text("backend"),
    _bytes("log_id"),
    _integer("size"),
    _bytes("root"),
    _text("state"),
    _bytes("prepared"),
    _bytes("transaction_id", optional=True),
    _integer("block_number", optional=True),
    _bytes("block_hash", optional=True),
    _integer("created_us"),
    _integer("updated_us"),
    _one_of("state", "prepared", "sent", "included", "final", "lost"),
    _index("backend", "log_id", "size"),
)

access_record = _table(
    "access_record",
    _bytes("access_id", key=True),
    _integer("started_us", key=True),
    _text("actor"),
    _text("client_id"),
    _text("organization"),
    _text("role"),
    _text("purpose"),
    _text("interaction"),
    _text("resource_type", optional=True),
    _text("resource_id", optional=True),
    _integer("patient_key", optional=True),
    _text("query_parameters"),
    _text("decision"),
    _text("rule"),
    _text("consent_keys"),
    _text("outcome", optional=True),
    _integer("finished_us", optional=True),
    _integer("status", optional=True),
    _bytes("leaf_id"),
    _one_of("decision", "permit", "deny", "partial", "none"),
    _index("patient_key", "started_us", where="patient_key IS NOT NULL"),
    sa.Index("access_record_open", "started_us", postgresql_where=sa.text("outcome IS NULL"),
             sqlite_where=sa.text("outcome IS NULL")),
    postgresql_partition_by="RANGE (started_us)",
)  # fmt: skip

lease = _table(
    "lease",
    _text("name", key=True),
    _text("holder"),
    _integer("epoch"),
    _integer("expires_us"),
    rowid=False,
    postgresql_with={"fillfactor": 50},
)

alarm = _table(
    "alarm",
    _text("code", key=True),
    _text("subject", key=True),
    _integer("raised_us"),
    _integer("cleared_us", optional=True),
    _text("detail"),
    rowid=False,
)

source_control = _table(
    "source_control",
    _text("source", key=True),
    _boolean("paused"),
    _text("reason"),
    _integer("since_us"),
    rowid=False,
)

store_mark = _table("store_mark", _text("mark", key=True), _integer("set_us"), rowid=False)

key_counter = _table("key_counter", _text("name", key=True), _integer("next_key"), rowid=False, only="sqlite")

store_clock = _table("store_clock", _integer("only_row", key=True), _integer("last_us"), only="sqlite")
