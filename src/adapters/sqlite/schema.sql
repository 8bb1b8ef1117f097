-- Version 1. Ids are 16 bytes, times are microseconds since 1970 in UTC, states and kinds are the numbers in `codes.rs`.
-- `data` is the whole object as JSON; the other columns are what is searched, and what is not in the JSON: version and
-- claim. Large rows lie in tables with a rowid, so that random ids only spread the small index entries.

CREATE TABLE card (
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    route INTEGER NOT NULL,
    state INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL,
    holder TEXT,
    production_type TEXT,
    -- The rows of this card in card_term, so that they can be found again without an index of their own.
    terms TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX card_by_id ON card (id);
CREATE INDEX card_by_state ON card (state, id);
CREATE INDEX card_by_holder ON card (holder, state) WHERE holder IS NOT NULL;
CREATE INDEX card_by_production_type ON card (production_type, id) WHERE production_type IS NOT NULL;
CREATE INDEX card_in_doubt ON card (id) WHERE in_doubt = 1;

CREATE TABLE card_term (
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    card BLOB NOT NULL,
    PRIMARY KEY (name, folded, card)
) STRICT, WITHOUT ROWID;

CREATE TABLE request (
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    state INTEGER NOT NULL,
    holder TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX request_by_id ON request (id);
CREATE INDEX request_by_state ON request (state, id);
CREATE INDEX request_by_holder ON request (holder, state);

CREATE TABLE job (
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    state INTEGER NOT NULL,
    due INTEGER NOT NULL,
    card BLOB,
    run BLOB,
    claim_worker TEXT,
    claim_until INTEGER,
    data TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX job_by_id ON job (id);
CREATE INDEX job_by_state ON job (state, kind, id);
CREATE INDEX job_open_by_due ON job (kind, due, id) WHERE state = 0;
CREATE INDEX job_open_by_run ON job (run, due, id) WHERE state = 0 AND run IS NOT NULL;

CREATE TABLE record (
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX record_by_key ON record (key);

CREATE TABLE reservation (
    key TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE history (
    position INTEGER PRIMARY KEY,
    object BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX history_by_object ON history (object, sequence);
