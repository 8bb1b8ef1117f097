-- Version 2: certificates, each in a row like those of version 1.

CREATE TABLE certificate (
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    card BLOB NOT NULL,
    state INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX certificate_by_id ON certificate (id);
CREATE INDEX certificate_by_state ON certificate (state, id);
-- A card has few certificates: a page of many cards begins in each where the page before ended.
CREATE INDEX certificate_by_card ON certificate (card, id);
