CREATE TABLE source_position (
  source TEXT NOT NULL,
  topic_id TEXT NOT NULL,
  partition INTEGER NOT NULL,
  next_offset INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  received INTEGER DEFAULT 0 NOT NULL,
  stored INTEGER DEFAULT 0 NOT NULL,
  filtered INTEGER DEFAULT 0 NOT NULL,
  duplicate INTEGER DEFAULT 0 NOT NULL,
  dead INTEGER DEFAULT 0 NOT NULL,
  updated_us INTEGER NOT NULL,
  CONSTRAINT source_position_pkey PRIMARY KEY (source, topic_id, partition)
) WITHOUT ROWID, STRICT;

CREATE TABLE raw_message (
  raw_key INTEGER NOT NULL,
  received_us INTEGER NOT NULL,
  source TEXT NOT NULL,
  topic_id TEXT,
  partition INTEGER,
  "offset" INTEGER,
  site TEXT NOT NULL,
  kind TEXT NOT NULL,
  state TEXT NOT NULL,
  outcome TEXT,
  attempts INTEGER DEFAULT 0 NOT NULL,
  sender TEXT,
  control_id TEXT,
  digest BLOB,
  owner_key INTEGER,
  key_id TEXT NOT NULL,
  wrapped_key BLOB NOT NULL,
  nonce BLOB NOT NULL,
  ciphertext BLOB NOT NULL,
  CONSTRAINT raw_message_pkey PRIMARY KEY (raw_key, received_us),
  CONSTRAINT state_known CHECK (state IN ('waiting', 'done', 'dead')),
  CONSTRAINT outcome_known CHECK (outcome IS NULL OR outcome IN ('stored', 'superseded', 'filtered', 'duplicate', 'dead'))
) STRICT;

CREATE INDEX raw_message_waiting ON raw_message (received_us, raw_key) WHERE state = 'waiting';

CREATE TABLE message_seen (
  sender TEXT NOT NULL,
  control_id TEXT NOT NULL,
  digest BLOB NOT NULL,
  raw_key INTEGER NOT NULL,
  recorded_us INTEGER NOT NULL,
  CONSTRAINT message_seen_pkey PRIMARY KEY (sender, control_id, digest)
) WITHOUT ROWID, STRICT;

CREATE TABLE dead_letter (
  dead_key INTEGER NOT NULL,
  raw_key INTEGER NOT NULL,
  raw_received_us INTEGER NOT NULL,
  source TEXT NOT NULL,
  topic_id TEXT,
  partition INTEGER,
  "offset" INTEGER,
  site TEXT NOT NULL,
  event TEXT NOT NULL,
  stage TEXT NOT NULL,
  category TEXT NOT NULL,
  code TEXT NOT NULL,
  message TEXT NOT NULL,
  structure TEXT NOT NULL,
  state TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  closed_us INTEGER,
  closed_by TEXT,
  reason TEXT,
  CONSTRAINT dead_letter_pkey PRIMARY KEY (dead_key),
  CONSTRAINT state_known CHECK (state IN ('open', 'replayed', 'resolved'))
) STRICT;

CREATE INDEX dead_letter_raw_key ON dead_letter (raw_key);

CREATE INDEX dead_letter_state_source ON dead_letter (state, source);

CREATE TABLE identity (
  resource_type TEXT NOT NULL,
  namespace TEXT NOT NULL,
  identifier_type TEXT NOT NULL,
  value TEXT NOT NULL,
  resource_key INTEGER NOT NULL,
  CONSTRAINT identity_pkey PRIMARY KEY (resource_type, namespace, identifier_type, value)
) WITHOUT ROWID, STRICT;

CREATE INDEX identity_resource_key ON identity (resource_key);

CREATE TABLE resource (
  resource_key INTEGER NOT NULL,
  type TEXT NOT NULL,
  fhir_id TEXT NOT NULL,
  record_uuid TEXT NOT NULL,
  patient_key INTEGER,
  version INTEGER NOT NULL,
  last_updated_us INTEGER NOT NULL,
  deleted INTEGER NOT NULL,
  status TEXT,
  date_start_us INTEGER,
  date_end_us INTEGER,
  site TEXT NOT NULL,
  label_bits INTEGER NOT NULL,
  content_digest BLOB NOT NULL,
  state BLOB NOT NULL,
  index_digest INTEGER NOT NULL,
  CONSTRAINT resource_pkey PRIMARY KEY (resource_key),
  CONSTRAINT resource_type_fhir_id UNIQUE (type, fhir_id),
  CONSTRAINT version_from_one CHECK (version >= 1)
) STRICT;

CREATE INDEX resource_patient_key_type_date_start_us ON resource (patient_key, type, date_start_us) WHERE patient_key IS NOT NULL;

CREATE INDEX resource_type_date_start_us ON resource (type, date_start_us) WHERE date_start_us IS NOT NULL;

CREATE INDEX resource_type_last_updated_us ON resource (type, last_updated_us);

CREATE TABLE resource_version (
  resource_key INTEGER NOT NULL,
  version INTEGER NOT NULL,
  last_updated_us INTEGER NOT NULL,
  deleted INTEGER NOT NULL,
  body BLOB NOT NULL,
  leaf_id BLOB NOT NULL,
  raw_key INTEGER,
  raw_received_us INTEGER,
  CONSTRAINT resource_version_pkey PRIMARY KEY (resource_key, version, last_updated_us)
) STRICT;

CREATE TABLE resource_term (
  term INTEGER NOT NULL,
  resource_key INTEGER NOT NULL,
  CONSTRAINT resource_term_pkey PRIMARY KEY (term, resource_key)
) WITHOUT ROWID, STRICT;

CREATE INDEX resource_term_resource_key ON resource_term (resource_key);

CREATE TABLE resource_string (
  type TEXT NOT NULL,
  parameter TEXT NOT NULL,
  value TEXT NOT NULL,
  resource_key INTEGER NOT NULL,
  CONSTRAINT resource_string_pkey PRIMARY KEY (type, parameter, value, resource_key)
) WITHOUT ROWID, STRICT;

CREATE INDEX resource_string_resource_key ON resource_string (resource_key);

CREATE TABLE person (
  person_key INTEGER NOT NULL,
  person_uuid TEXT NOT NULL,
  consent_version INTEGER DEFAULT 0 NOT NULL,
  created_us INTEGER NOT NULL,
  CONSTRAINT person_pkey PRIMARY KEY (person_key)
) STRICT;

CREATE TABLE person_link (
  record_key INTEGER NOT NULL,
  person_key INTEGER NOT NULL,
  certainty TEXT NOT NULL,
  rule TEXT NOT NULL,
  since_us INTEGER NOT NULL,
  CONSTRAINT person_link_pkey PRIMARY KEY (record_key),
  CONSTRAINT certainty_known CHECK (certainty IN ('asserted', 'certain', 'possible'))
) STRICT;

CREATE INDEX person_link_person_key ON person_link (person_key);

CREATE TABLE link_event (
  event_key INTEGER NOT NULL,
  kind TEXT NOT NULL,
  record_key INTEGER NOT NULL,
  other_key INTEGER,
  person_from INTEGER,
  person_to INTEGER,
  time_us INTEGER NOT NULL,
  tie TEXT NOT NULL,
  source TEXT NOT NULL,
  rule TEXT NOT NULL,
  certainty TEXT NOT NULL,
  decided_us INTEGER NOT NULL,
  leaf_id BLOB NOT NULL,
  CONSTRAINT link_event_pkey PRIMARY KEY (event_key),
  CONSTRAINT kind_known CHECK (kind IN ('link', 'unlink', 'merge'))
) STRICT;

CREATE INDEX link_event_other_key ON link_event (other_key) WHERE other_key IS NOT NULL;

CREATE INDEX link_event_record_key ON link_event (record_key);

CREATE TABLE match_key (
  hash INTEGER NOT NULL,
  record_key INTEGER NOT NULL,
  kind TEXT NOT NULL,
  CONSTRAINT match_key_pkey PRIMARY KEY (hash, record_key)
) WITHOUT ROWID, STRICT;

CREATE INDEX match_key_record_key ON match_key (record_key);

CREATE TABLE match_features (
  record_key INTEGER NOT NULL,
  features BLOB NOT NULL,
  CONSTRAINT match_features_pkey PRIMARY KEY (record_key)
) STRICT;

CREATE TABLE consent_state (
  consent_key INTEGER NOT NULL,
  patient_key INTEGER NOT NULL,
  handle BLOB NOT NULL,
  status TEXT NOT NULL,
  version INTEGER NOT NULL,
  rule BLOB NOT NULL,
  custodian TEXT NOT NULL,
  not_after_us INTEGER,
  policy_tag TEXT NOT NULL,
  updated_us INTEGER NOT NULL,
  CONSTRAINT consent_state_pkey PRIMARY KEY (consent_key),
  CONSTRAINT status_known CHECK (status IN ('active', 'inactive', 'revoked', 'error')),
  UNIQUE (handle)
) STRICT;

CREATE INDEX consent_state_patient_key ON consent_state (patient_key);

CREATE TABLE restriction (
  restriction_key INTEGER NOT NULL,
  patient_key INTEGER,
  identity_mac BLOB,
  dead_key INTEGER,
  code TEXT NOT NULL,
  state TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  lifted_us INTEGER,
  lifted_by TEXT,
  reason TEXT,
  CONSTRAINT restriction_pkey PRIMARY KEY (restriction_key),
  CONSTRAINT state_known CHECK (state IN ('open', 'lifted'))
) STRICT;

CREATE INDEX restriction_dead_key ON restriction (dead_key) WHERE dead_key IS NOT NULL;

CREATE INDEX restriction_identity_mac ON restriction (identity_mac) WHERE identity_mac IS NOT NULL;

CREATE INDEX restriction_patient_key ON restriction (patient_key) WHERE patient_key IS NOT NULL;

CREATE TABLE outbox (
  outbox_key INTEGER NOT NULL,
  destination TEXT NOT NULL,
  "key" TEXT NOT NULL,
  payload BLOB NOT NULL,
  created_us INTEGER NOT NULL,
  attempts INTEGER DEFAULT 0 NOT NULL,
  next_us INTEGER NOT NULL,
  sending BLOB,
  CONSTRAINT outbox_pkey PRIMARY KEY (outbox_key)
) STRICT;

CREATE INDEX outbox_destination_key ON outbox (destination, "key");

CREATE INDEX outbox_destination_next_us ON outbox (destination, next_us);

CREATE TABLE leaf_pending (
  leaf_id BLOB NOT NULL,
  leaf BLOB NOT NULL,
  kind TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  CONSTRAINT leaf_pending_pkey PRIMARY KEY (leaf_id),
  CONSTRAINT leaf_length CHECK (length(leaf) = 33)
) WITHOUT ROWID, STRICT;

CREATE TABLE log_leaf (
  origin TEXT NOT NULL,
  leaf_index INTEGER NOT NULL,
  leaf_id BLOB NOT NULL,
  leaf BLOB NOT NULL,
  leaf_hash BLOB NOT NULL,
  CONSTRAINT log_leaf_pkey PRIMARY KEY (origin, leaf_index),
  CONSTRAINT leaf_index_from_zero CHECK (leaf_index >= 0),
  UNIQUE (leaf_id)
) STRICT;

CREATE TABLE log_subtree (
  origin TEXT NOT NULL,
  level INTEGER NOT NULL,
  node_index INTEGER NOT NULL,
  hash BLOB NOT NULL,
  CONSTRAINT log_subtree_pkey PRIMARY KEY (origin, level, node_index),
  CONSTRAINT level_from_one CHECK (level >= 1)
) WITHOUT ROWID, STRICT;

CREATE TABLE log_state (
  origin TEXT NOT NULL,
  size INTEGER NOT NULL,
  root BLOB NOT NULL,
  compact_range BLOB NOT NULL,
  epoch INTEGER NOT NULL,
  CONSTRAINT log_state_pkey PRIMARY KEY (origin)
) WITHOUT ROWID, STRICT;

CREATE TABLE checkpoint (
  origin TEXT NOT NULL,
  size INTEGER NOT NULL,
  root BLOB NOT NULL,
  note TEXT NOT NULL,
  signed_us INTEGER NOT NULL,
  CONSTRAINT checkpoint_pkey PRIMARY KEY (origin, size)
) WITHOUT ROWID, STRICT;

CREATE TABLE commitment (
  leaf_id BLOB NOT NULL,
  kind TEXT NOT NULL,
  context BLOB NOT NULL,
  owner_uuid TEXT NOT NULL,
  subject_key INTEGER,
  subject_version INTEGER,
  CONSTRAINT commitment_pkey PRIMARY KEY (leaf_id)
) WITHOUT ROWID, STRICT;

CREATE TABLE vault_nonce (
  leaf_id BLOB NOT NULL,
  nonce BLOB NOT NULL,
  CONSTRAINT nonce_pkey PRIMARY KEY (leaf_id)
) WITHOUT ROWID, STRICT;

CREATE TABLE vault_record_key (
  owner_uuid TEXT NOT NULL,
  wrapped_key BLOB NOT NULL,
  key_id TEXT NOT NULL,
  created_us INTEGER NOT NULL,
  destroyed_us INTEGER,
  CONSTRAINT record_key_pkey PRIMARY KEY (owner_uuid)
) WITHOUT ROWID, STRICT;

CREATE TABLE anchor (
  anchor_key INTEGER NOT NULL,
  backend TEXT NOT NULL,
  log_id BLOB NOT NULL,
  size INTEGER NOT NULL,
  root BLOB NOT NULL,
  state TEXT NOT NULL,
  prepared BLOB NOT NULL,
  transaction_id BLOB,
  block_number INTEGER,
  block_hash BLOB,
  created_us INTEGER NOT NULL,
  updated_us INTEGER NOT NULL,
  CONSTRAINT anchor_pkey PRIMARY KEY (anchor_key),
  CONSTRAINT state_known CHECK (state IN ('prepared', 'sent', 'included', 'final', 'lost'))
) STRICT;

CREATE INDEX anchor_backend_log_id_size ON anchor (backend, log_id, size);

CREATE TABLE access_record (
  access_id BLOB NOT NULL,
  started_us INTEGER NOT NULL,
  actor TEXT NOT NULL,
  client_id TEXT NOT NULL,
  organization TEXT NOT NULL,
  role TEXT NOT NULL,
  purpose TEXT NOT NULL,
  interaction TEXT NOT NULL,
  resource_type TEXT,
  resource_id TEXT,
  patient_key INTEGER,
  query_parameters TEXT NOT NULL,
  decision TEXT NOT NULL,
  rule TEXT NOT NULL,
  consent_keys TEXT NOT NULL,
  outcome TEXT,
  finished_us INTEGER,
  status INTEGER,
  leaf_id BLOB NOT NULL,
  CONSTRAINT access_record_pkey PRIMARY KEY (access_id, started_us),
  CONSTRAINT decision_known CHECK (decision IN ('permit', 'deny', 'partial', 'none'))
) STRICT;

CREATE INDEX access_record_open ON access_record (started_us) WHERE outcome IS NULL;

CREATE INDEX access_record_patient_key_started_us ON access_record (patient_key, started_us) WHERE patient_key IS NOT NULL;

CREATE TABLE lease (
  name TEXT NOT NULL,
  holder TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  expires_us INTEGER NOT NULL,
  CONSTRAINT lease_pkey PRIMARY KEY (name)
) WITHOUT ROWID, STRICT;

CREATE TABLE alarm (
  code TEXT NOT NULL,
  subject TEXT NOT NULL,
  raised_us INTEGER NOT NULL,
  cleared_us INTEGER,
  detail TEXT NOT NULL,
  CONSTRAINT alarm_pkey PRIMARY KEY (code, subject)
) WITHOUT ROWID, STRICT;

CREATE TABLE source_control (
  source TEXT NOT NULL,
  paused INTEGER NOT NULL,
  reason TEXT NOT NULL,
  since_us INTEGER NOT NULL,
  CONSTRAINT source_control_pkey PRIMARY KEY (source)
) WITHOUT ROWID, STRICT;

CREATE TABLE store_mark (
  mark TEXT NOT NULL,
  set_us INTEGER NOT NULL,
  CONSTRAINT store_mark_pkey PRIMARY KEY (mark)
) WITHOUT ROWID, STRICT;

CREATE TABLE key_counter (
  name TEXT NOT NULL,
  next_key INTEGER NOT NULL,
  CONSTRAINT key_counter_pkey PRIMARY KEY (name)
) WITHOUT ROWID, STRICT;

CREATE TABLE store_clock (
  only_row INTEGER NOT NULL,
  last_us INTEGER NOT NULL,
  CONSTRAINT store_clock_pkey PRIMARY KEY (only_row)
) STRICT;
