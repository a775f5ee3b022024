CREATE SCHEMA vault;

CREATE TABLE source_position (
  source TEXT COLLATE "C" NOT NULL,
  topic_id TEXT COLLATE "C" NOT NULL,
  partition BIGINT NOT NULL,
  next_offset BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  received BIGINT DEFAULT 0 NOT NULL,
  stored BIGINT DEFAULT 0 NOT NULL,
  filtered BIGINT DEFAULT 0 NOT NULL,
  duplicate BIGINT DEFAULT 0 NOT NULL,
  dead BIGINT DEFAULT 0 NOT NULL,
  updated_us BIGINT NOT NULL,
  CONSTRAINT source_position_pkey PRIMARY KEY (source, topic_id, partition)
) WITH (fillfactor = 50);

CREATE TABLE raw_message (
  raw_key BIGINT NOT NULL,
  received_us BIGINT NOT NULL,
  source TEXT COLLATE "C" NOT NULL,
  topic_id TEXT COLLATE "C",
  partition BIGINT,
  "offset" BIGINT,
  site TEXT COLLATE "C" NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  state TEXT COLLATE "C" NOT NULL,
  outcome TEXT COLLATE "C",
  attempts BIGINT DEFAULT 0 NOT NULL,
  sender TEXT COLLATE "C",
  control_id TEXT COLLATE "C",
  digest BYTEA,
  owner_key BIGINT,
  key_id TEXT COLLATE "C" NOT NULL,
  wrapped_key BYTEA NOT NULL,
  nonce BYTEA NOT NULL,
  ciphertext BYTEA NOT NULL,
  CONSTRAINT raw_message_pkey PRIMARY KEY (raw_key, received_us),
  CONSTRAINT state_known CHECK (state IN ('waiting', 'done', 'dead')),
  CONSTRAINT outcome_known CHECK (outcome IS NULL OR outcome IN ('stored', 'superseded', 'filtered', 'duplicate', 'dead'))
) PARTITION BY RANGE (received_us);

CREATE INDEX raw_message_waiting ON raw_message (received_us, raw_key) WHERE state = 'waiting';

ALTER TABLE raw_message ALTER COLUMN ciphertext SET STORAGE EXTERNAL;

CREATE TABLE raw_message_other PARTITION OF raw_message DEFAULT;

CREATE TABLE message_seen (
  sender TEXT COLLATE "C" NOT NULL,
  control_id TEXT COLLATE "C" NOT NULL,
  digest BYTEA NOT NULL,
  raw_key BIGINT NOT NULL,
  recorded_us BIGINT NOT NULL,
  CONSTRAINT message_seen_pkey PRIMARY KEY (sender, control_id, digest)
);

CREATE TABLE dead_letter (
  dead_key BIGINT NOT NULL,
  raw_key BIGINT NOT NULL,
  raw_received_us BIGINT NOT NULL,
  source TEXT COLLATE "C" NOT NULL,
  topic_id TEXT COLLATE "C",
  partition BIGINT,
  "offset" BIGINT,
  site TEXT COLLATE "C" NOT NULL,
  event TEXT COLLATE "C" NOT NULL,
  stage TEXT COLLATE "C" NOT NULL,
  category TEXT COLLATE "C" NOT NULL,
  code TEXT COLLATE "C" NOT NULL,
  message TEXT COLLATE "C" NOT NULL,
  structure TEXT COLLATE "C" NOT NULL,
  state TEXT COLLATE "C" NOT NULL,
  created_us BIGINT NOT NULL,
  closed_us BIGINT,
  closed_by TEXT COLLATE "C",
  reason TEXT COLLATE "C",
  CONSTRAINT dead_letter_pkey PRIMARY KEY (dead_key),
  CONSTRAINT state_known CHECK (state IN ('open', 'replayed', 'resolved'))
);

CREATE INDEX dead_letter_raw_key ON dead_letter (raw_key);

CREATE INDEX dead_letter_state_source ON dead_letter (state, source);

CREATE TABLE identity (
  resource_type TEXT COLLATE "C" NOT NULL,
  namespace TEXT COLLATE "C" NOT NULL,
  identifier_type TEXT COLLATE "C" NOT NULL,
  value TEXT COLLATE "C" NOT NULL,
  resource_key BIGINT NOT NULL,
  CONSTRAINT identity_pkey PRIMARY KEY (resource_type, namespace, identifier_type, value)
);

CREATE INDEX identity_resource_key ON identity (resource_key);

CREATE TABLE resource (
  resource_key BIGINT NOT NULL,
  type TEXT COLLATE "C" NOT NULL,
  fhir_id TEXT COLLATE "C" NOT NULL,
  record_uuid TEXT COLLATE "C" NOT NULL,
  patient_key BIGINT,
  version BIGINT NOT NULL,
  last_updated_us BIGINT NOT NULL,
  deleted BOOLEAN NOT NULL,
  status TEXT COLLATE "C",
  date_start_us BIGINT,
  date_end_us BIGINT,
  site TEXT COLLATE "C" NOT NULL,
  label_bits BIGINT NOT NULL,
  content_digest BYTEA NOT NULL,
  state BYTEA NOT NULL,
  index_digest BIGINT NOT NULL,
  CONSTRAINT resource_pkey PRIMARY KEY (resource_key),
  CONSTRAINT resource_type_fhir_id UNIQUE (type, fhir_id),
  CONSTRAINT version_from_one CHECK (version >= 1)
);

CREATE INDEX resource_patient_key_type_date_start_us ON resource (patient_key, type, date_start_us) WHERE patient_key IS NOT NULL;

CREATE INDEX resource_type_date_start_us ON resource (type, date_start_us) WHERE date_start_us IS NOT NULL;

CREATE INDEX resource_type_last_updated_us ON resource (type, last_updated_us);

CREATE TABLE resource_version (
  resource_key BIGINT NOT NULL,
  version BIGINT NOT NULL,
  last_updated_us BIGINT NOT NULL,
  deleted BOOLEAN NOT NULL,
  body BYTEA NOT NULL,
  leaf_id BYTEA NOT NULL,
  raw_key BIGINT,
  raw_received_us BIGINT,
  CONSTRAINT resource_version_pkey PRIMARY KEY (resource_key, version, last_updated_us)
) PARTITION BY RANGE (last_updated_us);

CREATE TABLE resource_version_other PARTITION OF resource_version DEFAULT;

CREATE TABLE resource_index (
  resource_key BIGINT NOT NULL,
  type TEXT COLLATE "C" NOT NULL,
  terms BIGINT[] NOT NULL,
  CONSTRAINT resource_index_pkey PRIMARY KEY (resource_key)
) PARTITION BY HASH (resource_key);

CREATE INDEX resource_index_terms ON resource_index USING gin (terms) WITH (gin_pending_list_limit = 512);

CREATE TABLE resource_index_0 PARTITION OF resource_index FOR VALUES WITH (MODULUS 8, REMAINDER 0);

CREATE TABLE resource_index_1 PARTITION OF resource_index FOR VALUES WITH (MODULUS 8, REMAINDER 1);

CREATE TABLE resource_index_2 PARTITION OF resource_index FOR VALUES WITH (MODULUS 8, REMAINDER 2);

CREATE TABLE resource_index_3 PARTITION OF resource_index FOR VALUES WITH (MODULUS 8, REMAINDER 3);

CREATE TABLE resource_index_4 PARTITION OF resource_index FOR VALUES WITH (MODULUS 8, REMAINDER 4);

CREATE TABLE resource_index_5 PARTITION OF resource_index FOR VALUES WITH (MODULUS 8, REMAINDER 5);

CREATE TABLE resource_index_6 PARTITION OF resource_index FOR VALUES WITH (MODULUS 8, REMAINDER 6);

CREATE TABLE resource_index_7 PARTITION OF resource_index FOR VALUES WITH (MODULUS 8, REMAINDER 7);

CREATE TABLE resource_string (
  type TEXT COLLATE "C" NOT NULL,
  parameter TEXT COLLATE "C" NOT NULL,
  value TEXT COLLATE "C" NOT NULL,
  resource_key BIGINT NOT NULL,
  CONSTRAINT resource_string_pkey PRIMARY KEY (type, parameter, value, resource_key)
) PARTITION BY HASH (resource_key);

CREATE INDEX resource_string_resource_key ON resource_string (resource_key);

CREATE TABLE resource_string_0 PARTITION OF resource_string FOR VALUES WITH (MODULUS 8, REMAINDER 0);

CREATE TABLE resource_string_1 PARTITION OF resource_string FOR VALUES WITH (MODULUS 8, REMAINDER 1);

CREATE TABLE resource_string_2 PARTITION OF resource_string FOR VALUES WITH (MODULUS 8, REMAINDER 2);

CREATE TABLE resource_string_3 PARTITION OF resource_string FOR VALUES WITH (MODULUS 8, REMAINDER 3);

CREATE TABLE resource_string_4 PARTITION OF resource_string FOR VALUES WITH (MODULUS 8, REMAINDER 4);

CREATE TABLE resource_string_5 PARTITION OF resource_string FOR VALUES WITH (MODULUS 8, REMAINDER 5);

CREATE TABLE resource_string_6 PARTITION OF resource_string FOR VALUES WITH (MODULUS 8, REMAINDER 6);

CREATE TABLE resource_string_7 PARTITION OF resource_string FOR VALUES WITH (MODULUS 8, REMAINDER 7);

CREATE TABLE person (
  person_key BIGINT NOT NULL,
  person_uuid TEXT COLLATE "C" NOT NULL,
  consent_version BIGINT DEFAULT 0 NOT NULL,
  created_us BIGINT NOT NULL,
  CONSTRAINT person_pkey PRIMARY KEY (person_key)
);

CREATE TABLE person_link (
  record_key BIGINT NOT NULL,
  person_key BIGINT NOT NULL,
  certainty TEXT COLLATE "C" NOT NULL,
  rule TEXT COLLATE "C" NOT NULL,
  since_us BIGINT NOT NULL,
  CONSTRAINT person_link_pkey PRIMARY KEY (record_key),
  CONSTRAINT certainty_known CHECK (certainty IN ('asserted', 'certain', 'possible'))
);

CREATE INDEX person_link_person_key ON person_link (person_key);

CREATE TABLE link_event (
  event_key BIGINT NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  record_key BIGINT NOT NULL,
  other_key BIGINT,
  person_from BIGINT,
  person_to BIGINT,
  time_us BIGINT NOT NULL,
  tie TEXT COLLATE "C" NOT NULL,
  source TEXT COLLATE "C" NOT NULL,
  rule TEXT COLLATE "C" NOT NULL,
  certainty TEXT COLLATE "C" NOT NULL,
  decided_us BIGINT NOT NULL,
  leaf_id BYTEA NOT NULL,
  CONSTRAINT link_event_pkey PRIMARY KEY (event_key),
  CONSTRAINT kind_known CHECK (kind IN ('link', 'unlink', 'merge'))
);

CREATE INDEX link_event_other_key ON link_event (other_key) WHERE other_key IS NOT NULL;

CREATE INDEX link_event_record_key ON link_event (record_key);

CREATE TABLE match_key (
  hash BIGINT NOT NULL,
  record_key BIGINT NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  CONSTRAINT match_key_pkey PRIMARY KEY (hash, record_key)
);

CREATE INDEX match_key_record_key ON match_key (record_key);

CREATE TABLE match_features (
  record_key BIGINT NOT NULL,
  features BYTEA NOT NULL,
  CONSTRAINT match_features_pkey PRIMARY KEY (record_key)
);

CREATE TABLE consent_state (
  consent_key BIGINT NOT NULL,
  patient_key BIGINT NOT NULL,
  handle BYTEA NOT NULL,
  status TEXT COLLATE "C" NOT NULL,
  version BIGINT NOT NULL,
  rule BYTEA NOT NULL,
  custodian TEXT COLLATE "C" NOT NULL,
  not_after_us BIGINT,
  policy_tag TEXT COLLATE "C" NOT NULL,
  updated_us BIGINT NOT NULL,
  CONSTRAINT consent_state_pkey PRIMARY KEY (consent_key),
  CONSTRAINT status_known CHECK (status IN ('active', 'inactive', 'revoked', 'error')),
  UNIQUE (handle)
);

CREATE INDEX consent_state_patient_key ON consent_state (patient_key);

CREATE TABLE restriction (
  restriction_key BIGINT NOT NULL,
  patient_key BIGINT,
  identity_mac BYTEA,
  dead_key BIGINT,
  code TEXT COLLATE "C" NOT NULL,
  state TEXT COLLATE "C" NOT NULL,
  created_us BIGINT NOT NULL,
  lifted_us BIGINT,
  lifted_by TEXT COLLATE "C",
  reason TEXT COLLATE "C",
  CONSTRAINT restriction_pkey PRIMARY KEY (restriction_key),
  CONSTRAINT state_known CHECK (state IN ('open', 'lifted'))
);

CREATE INDEX restriction_dead_key ON restriction (dead_key) WHERE dead_key IS NOT NULL;

CREATE INDEX restriction_identity_mac ON restriction (identity_mac) WHERE identity_mac IS NOT NULL;

CREATE INDEX restriction_patient_key ON restriction (patient_key) WHERE patient_key IS NOT NULL;

CREATE TABLE outbox (
  outbox_key BIGINT NOT NULL,
  destination TEXT COLLATE "C" NOT NULL,
  key TEXT COLLATE "C" NOT NULL,
  payload BYTEA NOT NULL,
  created_us BIGINT NOT NULL,
  attempts BIGINT DEFAULT 0 NOT NULL,
  next_us BIGINT NOT NULL,
  sending BYTEA,
  CONSTRAINT outbox_pkey PRIMARY KEY (outbox_key)
);

CREATE INDEX outbox_destination_key ON outbox (destination, key);

CREATE INDEX outbox_destination_next_us ON outbox (destination, next_us);

CREATE TABLE leaf_pending (
  leaf_id BYTEA NOT NULL,
  leaf BYTEA NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  created_us BIGINT NOT NULL,
  CONSTRAINT leaf_pending_pkey PRIMARY KEY (leaf_id),
  CONSTRAINT leaf_length CHECK (length(leaf) = 33)
);

CREATE TABLE log_leaf (
  origin TEXT COLLATE "C" NOT NULL,
  leaf_index BIGINT NOT NULL,
  leaf_id BYTEA NOT NULL,
  leaf BYTEA NOT NULL,
  leaf_hash BYTEA NOT NULL,
  CONSTRAINT log_leaf_pkey PRIMARY KEY (origin, leaf_index),
  CONSTRAINT leaf_index_from_zero CHECK (leaf_index >= 0),
  UNIQUE (leaf_id)
);

CREATE TABLE log_subtree (
  origin TEXT COLLATE "C" NOT NULL,
  level BIGINT NOT NULL,
  node_index BIGINT NOT NULL,
  hash BYTEA NOT NULL,
  CONSTRAINT log_subtree_pkey PRIMARY KEY (origin, level, node_index),
  CONSTRAINT level_from_one CHECK (level >= 1)
);

CREATE TABLE log_state (
  origin TEXT COLLATE "C" NOT NULL,
  size BIGINT NOT NULL,
  root BYTEA NOT NULL,
  compact_range BYTEA NOT NULL,
  epoch BIGINT NOT NULL,
  CONSTRAINT log_state_pkey PRIMARY KEY (origin)
);

CREATE TABLE checkpoint (
  origin TEXT COLLATE "C" NOT NULL,
  size BIGINT NOT NULL,
  root BYTEA NOT NULL,
  note TEXT COLLATE "C" NOT NULL,
  signed_us BIGINT NOT NULL,
  CONSTRAINT checkpoint_pkey PRIMARY KEY (origin, size)
);

CREATE TABLE commitment (
  leaf_id BYTEA NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  context BYTEA NOT NULL,
  owner_uuid TEXT COLLATE "C" NOT NULL,
  subject_key BIGINT,
  subject_version BIGINT,
  CONSTRAINT commitment_pkey PRIMARY KEY (leaf_id)
);

CREATE TABLE vault.nonce (
  leaf_id BYTEA NOT NULL,
  nonce BYTEA NOT NULL,
  CONSTRAINT nonce_pkey PRIMARY KEY (leaf_id)
);

CREATE TABLE vault.record_key (
  owner_uuid TEXT COLLATE "C" NOT NULL,
  wrapped_key BYTEA NOT NULL,
  key_id TEXT COLLATE "C" NOT NULL,
  created_us BIGINT NOT NULL,
  destroyed_us BIGINT,
  CONSTRAINT record_key_pkey PRIMARY KEY (owner_uuid)
);

CREATE TABLE anchor (
  anchor_key BIGINT NOT NULL,
  backend TEXT COLLATE "C" NOT NULL,
  log_id BYTEA NOT NULL,
  size BIGINT NOT NULL,
  root BYTEA NOT NULL,
  state TEXT COLLATE "C" NOT NULL,
  prepared BYTEA NOT NULL,
  transaction_id BYTEA,
  block_number BIGINT,
  block_hash BYTEA,
  created_us BIGINT NOT NULL,
  updated_us BIGINT NOT NULL,
  CONSTRAINT anchor_pkey PRIMARY KEY (anchor_key),
  CONSTRAINT state_known CHECK (state IN ('prepared', 'sent', 'included', 'final', 'lost'))
);

CREATE INDEX anchor_backend_log_id_size ON anchor (backend, log_id, size);

CREATE TABLE access_record (
  access_id BYTEA NOT NULL,
  started_us BIGINT NOT NULL,
  actor TEXT COLLATE "C" NOT NULL,
  client_id TEXT COLLATE "C" NOT NULL,
  organization TEXT COLLATE "C" NOT NULL,
  role TEXT COLLATE "C" NOT NULL,
  purpose TEXT COLLATE "C" NOT NULL,
  interaction TEXT COLLATE "C" NOT NULL,
  resource_type TEXT COLLATE "C",
  resource_id TEXT COLLATE "C",
  patient_key BIGINT,
  query_parameters TEXT COLLATE "C" NOT NULL,
  decision TEXT COLLATE "C" NOT NULL,
  rule TEXT COLLATE "C" NOT NULL,
  consent_keys TEXT COLLATE "C" NOT NULL,
  outcome TEXT COLLATE "C",
  finished_us BIGINT,
  status BIGINT,
  leaf_id BYTEA NOT NULL,
  CONSTRAINT access_record_pkey PRIMARY KEY (access_id, started_us),
  CONSTRAINT decision_known CHECK (decision IN ('permit', 'deny', 'partial', 'none'))
) PARTITION BY RANGE (started_us);

CREATE INDEX access_record_open ON access_record (started_us) WHERE outcome IS NULL;

CREATE INDEX access_record_patient_key_started_us ON access_record (patient_key, started_us) WHERE patient_key IS NOT NULL;

CREATE TABLE access_record_other PARTITION OF access_record DEFAULT;

CREATE TABLE lease (
  name TEXT COLLATE "C" NOT NULL,
  holder TEXT COLLATE "C" NOT NULL,
  epoch BIGINT NOT NULL,
  expires_us BIGINT NOT NULL,
  CONSTRAINT lease_pkey PRIMARY KEY (name)
) WITH (fillfactor = 50);

CREATE TABLE alarm (
  code TEXT COLLATE "C" NOT NULL,
  subject TEXT COLLATE "C" NOT NULL,
  raised_us BIGINT NOT NULL,
  cleared_us BIGINT,
  detail TEXT COLLATE "C" NOT NULL,
  CONSTRAINT alarm_pkey PRIMARY KEY (code, subject)
);

CREATE TABLE source_control (
  source TEXT COLLATE "C" NOT NULL,
  paused BOOLEAN NOT NULL,
  reason TEXT COLLATE "C" NOT NULL,
  since_us BIGINT NOT NULL,
  CONSTRAINT source_control_pkey PRIMARY KEY (source)
);

CREATE TABLE store_mark (
  mark TEXT COLLATE "C" NOT NULL,
  set_us BIGINT NOT NULL,
  CONSTRAINT store_mark_pkey PRIMARY KEY (mark)
);

CREATE SEQUENCE resource_block INCREMENT BY 512;

CREATE SEQUENCE raw_message_block INCREMENT BY 512;

CREATE SEQUENCE dead_letter_block INCREMENT BY 512;

CREATE SEQUENCE person_block INCREMENT BY 512;

CREATE SEQUENCE link_event_block INCREMENT BY 512;

CREATE SEQUENCE consent_state_block INCREMENT BY 512;

CREATE SEQUENCE restriction_block INCREMENT BY 512;

CREATE SEQUENCE outbox_block INCREMENT BY 512;

CREATE SEQUENCE anchor_block INCREMENT BY 512;
