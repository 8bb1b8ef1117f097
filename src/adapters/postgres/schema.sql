-- Version 1. Run with the search path set to the schema of the store. States and kinds are the numbers in `codes.rs`; `data` is the
-- whole object as JSON, the other columns are what is searched, and what changes without it: version, claim, attempts. Texts that are
-- searched are in the order of their bytes ("C"), as in Rust.

CREATE TABLE card (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    kind smallint NOT NULL,
    route smallint NOT NULL,
    state smallint NOT NULL,
    in_doubt boolean NOT NULL,
    holder text COLLATE "C",
    production_type text COLLATE "C",
    -- What stands in card_term for this card, so that an update need not touch that if it is the same.
    terms text NOT NULL,
    data text NOT NULL
);
CREATE INDEX card_by_state ON card (state, id);
CREATE INDEX card_by_holder ON card (holder, id) WHERE holder IS NOT NULL;
CREATE INDEX card_by_production_type ON card (production_type, id) WHERE production_type IS NOT NULL;
CREATE INDEX card_in_doubt ON card (in_doubt, id) WHERE in_doubt;

CREATE TABLE card_term (
    card uuid NOT NULL,
    name text COLLATE "C" NOT NULL,
    folded text COLLATE "C" NOT NULL,
    -- Of a text that many cards have, the next few by id are found along this; of one that few have, all along the other.
    PRIMARY KEY (name, card, folded)
);
CREATE INDEX card_term_by_text ON card_term (name, folded, card);

CREATE TABLE certificate (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    card uuid NOT NULL,
    state smallint NOT NULL,
    data text NOT NULL
);
CREATE INDEX certificate_by_state ON certificate (state, id);
CREATE INDEX certificate_by_card ON certificate (card, id);

CREATE TABLE request (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    state smallint NOT NULL,
    holder text COLLATE "C" NOT NULL,
    data text NOT NULL
);
CREATE INDEX request_by_state ON request (state, id);
CREATE INDEX request_by_holder ON request (holder, id);

-- Claims, attempts and renewals touch no index: with room on its page, such a change stays there. Jobs that are done leave the
-- indices that claims go through; what they leave behind is cleared early, not after a fifth of the table.
CREATE TABLE job (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    kind smallint NOT NULL,
    state smallint NOT NULL,
    due timestamptz NOT NULL,
    run uuid,
    claim_worker text,
    claim_until timestamptz,
    -- These two are newer than what the JSON says of them.
    attempts bigint NOT NULL,
    attempt text,
    data text NOT NULL
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX job_by_state_and_kind ON job ((state * 32 + kind), id);
CREATE INDEX job_open_by_due ON job (kind, due, id) WHERE state = 0;
CREATE INDEX job_open_by_run ON job (run, due, id) WHERE state = 0 AND run IS NOT NULL;

CREATE TABLE record (
    key text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    data text NOT NULL
);

CREATE TABLE reservation (
    key text COLLATE "C" PRIMARY KEY,
    owner text NOT NULL
);

-- `transaction` and `position` order the feed: what is below the oldest transaction that still runs is complete.
CREATE TABLE history (
    transaction bigint NOT NULL,
    position bigint NOT NULL,
    object bytea NOT NULL,
    sequence bigint NOT NULL,
    data text NOT NULL,
    PRIMARY KEY (transaction, position)
);
CREATE UNIQUE INDEX history_by_object ON history (object, sequence);
