//! Every SQL text that is run on a store that is open. A test asks SQLite how it would run each of them.

macro_rules! statements {
    ($($name:ident: $text:expr;)*) => {
        $(pub(super) const $name: &str = $text;)*

        /// All of them, by name.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

/// What every page of cards filters by: `?1` after, `?2` limit, `?3` kind, `?4` route, `?5` states, `?6` in doubt, `?7`
/// any production type, `?8` production types, `?9` any holder, `?10` holders.
macro_rules! card_filter {
    () => {
        " AND (?3 IS NULL OR kind = ?3) AND (?4 IS NULL OR route = ?4) AND (?5 >> state) & 1 \
         AND (?6 IS NULL OR in_doubt = ?6) AND (?7 OR production_type IN rarray(?8)) \
         AND (?9 OR holder IN rarray(?10)) ORDER BY id LIMIT ?2"
    };
}

/// What every claim looks for, in its order: `?1` due by, `?2` free by, `?3` limit, `?4` kinds.
macro_rules! claimable {
    () => {
        " AND state = 0 AND due <= ?1 AND (claim_until IS NULL OR claim_until <= ?2) AND (?4 >> kind) & 1 \
         ORDER BY due, id LIMIT ?3"
    };
}

statements! {
    INSERT_CARD: "INSERT INTO card (id, version, kind, route, state, in_doubt, holder, production_type, terms, data) \
        VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";
    // Most changes leave alone what cards are searched by; then only one index is touched.
    UPDATE_CARD: "UPDATE card SET version = ?2 + 1, state = ?5, in_doubt = ?6, data = ?10 \
        WHERE id = ?1 AND version = ?2 AND kind = ?3 AND route = ?4 AND holder IS ?7 AND production_type IS ?8 \
        AND terms = ?9";
    UPDATE_WHOLE_CARD: "UPDATE card SET version = ?2 + 1, kind = ?3, route = ?4, state = ?5, in_doubt = ?6, holder = ?7, \
        production_type = ?8, terms = ?9, data = ?10 WHERE id = ?1 AND version = ?2";
    CARD_TERMS: "SELECT terms FROM card WHERE id = ?1 AND version = ?2";
    CARD_VERSION: "SELECT version FROM card WHERE id = ?1";
    INSERT_TERM: "INSERT INTO card_term (name, folded, card) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    DELETE_TERM: "DELETE FROM card_term WHERE name = ?1 AND folded = ?2 AND card = ?3";

    INSERT_CERTIFICATE: "INSERT INTO certificate (id, version, card, state, data) VALUES (?1, 1, ?2, ?3, ?4) \
        ON CONFLICT DO NOTHING";
    UPDATE_CERTIFICATE: "UPDATE certificate SET version = ?2 + 1, card = ?3, state = ?4, data = ?5 \
        WHERE id = ?1 AND version = ?2";
    CERTIFICATE_VERSION: "SELECT version FROM certificate WHERE id = ?1";

    INSERT_REQUEST: "INSERT INTO request (id, version, state, holder, data) VALUES (?1, 1, ?2, ?3, ?4) \
        ON CONFLICT DO NOTHING";
    UPDATE_REQUEST: "UPDATE request SET version = ?2 + 1, state = ?3, holder = ?4, data = ?5 \
        WHERE id = ?1 AND version = ?2";
    REQUEST_VERSION: "SELECT version FROM request WHERE id = ?1";

    INSERT_JOB: "INSERT INTO job (id, version, kind, state, due, card, run, claim_worker, claim_until, data) \
        VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING";
    // What is stored knows best how long the claim runs: it may have been renewed or released since the job was loaded.
    UPDATE_JOB: "UPDATE job SET version = ?2 + 1, kind = ?3, state = ?4, due = ?5, card = ?6, run = ?7, \
        claim_worker = CASE WHEN ?8 THEN claim_worker END, claim_until = CASE WHEN ?8 THEN claim_until END, data = ?9 \
        WHERE id = ?1 AND version = ?2";
    JOB_VERSION: "SELECT version FROM job WHERE id = ?1";

    INSERT_RECORD: "INSERT INTO record (key, version, data) VALUES (?1, 1, ?2) ON CONFLICT DO NOTHING";
    UPDATE_RECORD: "UPDATE record SET version = ?2 + 1, data = ?3 WHERE key = ?1 AND version = ?2";
    RECORD_VERSION: "SELECT version FROM record WHERE key = ?1";

    RELEASE: "DELETE FROM reservation WHERE key = ?1 AND owner = ?2";
    TAKE: "INSERT INTO reservation (key, owner) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    RESERVATION_OWNER: "SELECT owner FROM reservation WHERE key = ?1";

    INSERT_HISTORY: "INSERT INTO history (object, sequence, data) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";

    CARDS: "SELECT id, version, data FROM card WHERE id IN rarray(?1)";
    CARDS_IN_ORDER: "SELECT id, version, data FROM card WHERE id IN rarray(?1) ORDER BY id";
    CARDS_OF: "SELECT id, version, data FROM card INDEXED BY card_by_holder \
        WHERE holder IN rarray(?1) AND (?2 >> state) & 1";
    CARD_PAGE: concat!("SELECT id, version, data FROM card INDEXED BY card_by_id WHERE id > ?1", card_filter!());
    CARD_PAGE_OF_IDS: concat!("SELECT id, version, data FROM card INDEXED BY card_by_id \
        WHERE id IN rarray(?11) AND id > ?1", card_filter!());
    CARD_PAGE_OF_HOLDERS: concat!("SELECT id, version, data FROM card INDEXED BY card_by_holder \
        WHERE holder IN rarray(?10) AND id > ?1", card_filter!());
    CARD_PAGE_IN_DOUBT: concat!("SELECT id, version, data FROM card INDEXED BY card_in_doubt \
        WHERE in_doubt = 1 AND id > ?1", card_filter!());
    CARD_IDS_IN_STATE: concat!("SELECT id FROM card INDEXED BY card_by_state WHERE state = ?11 AND id > ?1",
        card_filter!());
    CARD_IDS_OF_PRODUCTION_TYPE: concat!("SELECT id FROM card INDEXED BY card_by_production_type \
        WHERE production_type = ?11 AND id > ?1", card_filter!());
    CARD_IDS_OF_TEXT: "SELECT card FROM card_term WHERE name = ?1 AND folded >= ?2 AND folded < ?3 AND card > ?4";

    CERTIFICATES: "SELECT id, version, data FROM certificate WHERE id IN rarray(?1)";
    CERTIFICATES_IN_ORDER: "SELECT id, version, data FROM certificate WHERE id IN rarray(?1) ORDER BY id";
    CERTIFICATE_PAGE: "SELECT id, version, data FROM certificate INDEXED BY certificate_by_id WHERE id > ?1 \
        ORDER BY id LIMIT ?2";
    CERTIFICATE_PAGE_OF_CARDS: "SELECT id, version, data FROM certificate INDEXED BY certificate_by_card \
        WHERE card IN rarray(?3) AND (?4 >> state) & 1 AND id > ?1 ORDER BY id LIMIT ?2";
    CERTIFICATE_IDS_IN_STATE: "SELECT id FROM certificate INDEXED BY certificate_by_state WHERE state = ?3 AND id > ?1 \
        ORDER BY id LIMIT ?2";

    REQUESTS: "SELECT id, version, data FROM request WHERE id IN rarray(?1)";
    REQUESTS_IN_ORDER: "SELECT id, version, data FROM request WHERE id IN rarray(?1) ORDER BY id";
    REQUEST_PAGE: "SELECT id, version, data FROM request INDEXED BY request_by_id WHERE id > ?1 ORDER BY id LIMIT ?2";
    REQUEST_PAGE_OF_HOLDERS: "SELECT id, version, data FROM request INDEXED BY request_by_holder \
        WHERE holder IN rarray(?3) AND (?4 >> state) & 1 AND id > ?1 ORDER BY id LIMIT ?2";
    REQUEST_IDS_IN_STATE: "SELECT id FROM request INDEXED BY request_by_state WHERE state = ?3 AND id > ?1 \
        ORDER BY id LIMIT ?2";

    RECORDS: "SELECT key, version, data FROM record WHERE key IN rarray(?1)";
    RESERVATIONS: "SELECT key, owner FROM reservation WHERE key IN rarray(?1)";

    JOBS: "SELECT id, version, data, claim_worker, claim_until FROM job WHERE id IN rarray(?1)";
    JOBS_IN_ORDER: "SELECT id, version, data, claim_worker, claim_until FROM job WHERE id IN rarray(?1) ORDER BY id";
    JOB_PAGE: "SELECT id, version, data, claim_worker, claim_until FROM job INDEXED BY job_by_id WHERE id > ?1 \
        ORDER BY id LIMIT ?2";
    JOB_IDS_IN_STATE: "SELECT id FROM job INDEXED BY job_by_state WHERE state = ?3 AND kind = ?4 AND id > ?1 \
        ORDER BY id LIMIT ?2";

    CLAIMABLE_OF_KIND: concat!("SELECT due, id FROM job INDEXED BY job_open_by_due WHERE kind = ?5", claimable!());
    CLAIMABLE_OF_RUN: concat!("SELECT due, id FROM job INDEXED BY job_open_by_run WHERE run = ?5", claimable!());
    CLAIMABLE_OF_IDS: concat!("SELECT due, id FROM job INDEXED BY job_by_id WHERE id IN rarray(?5) \
        AND (?6 IS NULL OR run = ?6)", claimable!());
    DUE_OF_KIND: "SELECT COUNT(*), MIN(due) FROM job INDEXED BY job_open_by_due \
        WHERE kind = ?2 AND state = 0 AND due <= ?1";
    DUE_OF_KIND_AND_RUN: "SELECT COUNT(*), MIN(due) FROM job INDEXED BY job_open_by_run \
        WHERE run = ?3 AND state = 0 AND due <= ?1 AND kind = ?2";
    IN_DOUBT_OF_KIND: "SELECT COUNT(*) FROM job INDEXED BY job_by_state \
        WHERE state = 1 AND kind = ?1 AND (?2 IS NULL OR run = ?2)";
    CLAIM: "UPDATE job SET version = version + 1, claim_worker = ?2, claim_until = ?3 WHERE id = ?1 \
        RETURNING id, version, data, claim_worker, claim_until";
    RENEW: "UPDATE job SET claim_until = ?3 WHERE id = ?1 AND version = ?2 AND claim_until IS NOT NULL";
    RELEASE_JOB: "UPDATE job SET claim_worker = NULL, claim_until = NULL WHERE id = ?1 AND version = ?2";
    RECORD_ATTEMPT: "UPDATE job SET version = version + 1, claim_until = CASE WHEN claim_until IS NOT NULL THEN ?3 END, \
        data = json_set(data, '$.attempts', coalesce(json_extract(data, '$.attempts'), 0) + 1, '$.attempt', json(?4)) \
        WHERE id = ?1 AND version = ?2 RETURNING id, version, data, claim_worker, claim_until";

    HISTORY: "SELECT position, data FROM history WHERE object = ?1 AND sequence > ?2 ORDER BY sequence LIMIT ?3";
    CHANGES: "SELECT position, data FROM history WHERE position > ?1 ORDER BY position LIMIT ?2";
}
