//! Every SQL text that writes or claims, and how reads are put together. `@` stands for the schema and a dot.
//!
//! All of them run in a transaction that was begun with [`BEGIN`], which leaves the planner one way only: along the indices, in the order
//! of the keys, whatever it believes of tables that were empty when it looked. So they can be planned once and for all.

/// Begins a transaction: at the one level at which every conflict can be named, whatever is the default of the database.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL plan_cache_mode = force_generic_plan; \
    SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off; \
    SET LOCAL enable_mergejoin = off; SET LOCAL enable_sort = off; SET LOCAL jit = off";

/// The version of the schema, in the round trip of [`BEGIN`]. Whoever has read it holds up a migration, which says [`MIGRATING`] first, until it ends.
pub(super) const VERSION: &str = "; SELECT version FROM @cardwright_migration ORDER BY version DESC LIMIT 1";

/// Waits for all who have read the version, and holds up who is about to.
pub(super) const MIGRATING: &str = "LOCK TABLE @cardwright_migration IN ACCESS EXCLUSIVE MODE";

macro_rules! statements {
    ($($name:ident: $text:expr;)*) => {
        $(pub(super) const $name: &str = $text;)*

        /// All of them, by name.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

/// What can be claimed: open, due, and nobody has a live claim on it.
macro_rules! claimable {
    () => {
        "state = 0 AND due <= now.due_by AND (claim_until IS NULL OR claim_until <= now.at)"
    };
}

/// The time by the store's clock, once for the whole statement: `$1` lease in microseconds, `$2` worker, `$3` also early, `$4` limit,
/// `$5` kinds.
macro_rules! now {
    () => {
        "WITH now AS MATERIALIZED (SELECT at, CASE WHEN $3::boolean THEN 'infinity' ELSE at END AS due_by, \
         at + $1::bigint * interval '1 microsecond' AS until FROM (SELECT @moment() AS at) AS clock), "
    };
}

/// Claims what was found and locked.
macro_rules! claim {
    () => {
        " UPDATE @job AS job SET version = version + 1, claim_worker = $2::text, claim_until = now.until FROM found, now \
         WHERE job.id = found.id RETURNING job.id, version, data, claim_worker, claim_until"
    };
}

/// Jobs that have these versions, locked in the order of their ids: `$1` ids, `$2` versions.
macro_rules! held {
    () => {
        "FROM (SELECT id, old FROM unnest($1::uuid[], $2::bigint[]) AS wanted (id, old) ORDER BY id) AS wanted \
         JOIN @job AS job ON job.id = wanted.id AND job.version = wanted.old FOR UPDATE OF job"
    };
}

statements! {
    // Everything that is there of what could not be stored, locked in the order in which commits change it: table by table, by key.
    LOCK: "SELECT 1::smallint AS what, id, NULL::text AS key, version, NULL::text AS owner FROM \
            (SELECT id, version FROM @card WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE) AS cards \
        UNION ALL SELECT 2::smallint, id, NULL, version, NULL FROM \
            (SELECT id, version FROM @certificate WHERE id = ANY($2::uuid[]) ORDER BY id FOR UPDATE) AS certificates \
        UNION ALL SELECT 3::smallint, id, NULL, version, NULL FROM \
            (SELECT id, version FROM @request WHERE id = ANY($3::uuid[]) ORDER BY id FOR UPDATE) AS requests \
        UNION ALL SELECT 4::smallint, id, NULL, version, NULL FROM \
            (SELECT id, version FROM @job WHERE id = ANY($4::uuid[]) ORDER BY id FOR UPDATE) AS jobs \
        UNION ALL SELECT 5::smallint, NULL, key, version, NULL FROM \
            (SELECT key, version FROM @record WHERE key = ANY($5::text[]) ORDER BY key FOR UPDATE) AS records \
        UNION ALL SELECT 6::smallint, NULL, key, NULL, owner FROM \
            (SELECT key, owner FROM @reservation WHERE key = ANY($6::text[]) ORDER BY key FOR UPDATE) AS reservations";

    // What is new is there rarely, so nobody looks first whether it is: that would search each index twice.
    INSERT_CARDS: "INSERT INTO @card (id, version, kind, route, state, in_doubt, holder, production_type, terms, data) \
        SELECT id, 1, kind, route, state, in_doubt, holder, production_type, terms, data FROM unnest($1::uuid[], $2::bigint[], \
        $3::smallint[], $4::smallint[], $5::smallint[], $6::boolean[], $7::text[], $8::text[], $9::text[], $10::text[]) \
        AS new (id, old, kind, route, state, in_doubt, holder, production_type, terms, data)";
    UPDATE_CARDS: "UPDATE @card AS card SET version = old + 1, kind = new.kind, route = new.route, state = new.state, \
        in_doubt = new.in_doubt, holder = new.holder, production_type = new.production_type, terms = new.terms, \
        data = new.data FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::smallint[], $5::smallint[], $6::boolean[], \
        $7::text[], $8::text[], $9::text[], $10::text[]) \
        AS new (id, old, kind, route, state, in_doubt, holder, production_type, terms, data) \
        JOIN @card AS was ON was.id = new.id AND was.version = new.old \
        WHERE card.id = new.id AND card.version = new.old \
        RETURNING card.id, CASE WHEN was.terms <> new.terms THEN was.terms END";
    DELETE_TERMS: "DELETE FROM @card_term AS term USING unnest($1::text[], $2::uuid[]) AS old (name, card) \
        WHERE term.name = old.name AND term.card = old.card";
    INSERT_TERMS: "INSERT INTO @card_term (card, name, folded) SELECT card, name, folded \
        FROM unnest($1::uuid[], $2::text[], $3::text[]) AS new (card, name, folded)";

    INSERT_CERTIFICATES: "INSERT INTO @certificate (id, version, card, state, data) SELECT id, 1, card, state, data \
        FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::smallint[], $5::text[]) AS new (id, old, card, state, data)";
    UPDATE_CERTIFICATES: "UPDATE @certificate AS one SET version = old + 1, card = new.card, state = new.state, data = new.data \
        FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::smallint[], $5::text[]) AS new (id, old, card, state, data) \
        WHERE one.id = new.id AND one.version = new.old";

    INSERT_REQUESTS: "INSERT INTO @request (id, version, state, holder, data) SELECT id, 1, state, holder, data \
        FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::text[], $5::text[]) AS new (id, old, state, holder, data)";
    UPDATE_REQUESTS: "UPDATE @request AS one SET version = old + 1, state = new.state, holder = new.holder, data = new.data \
        FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::text[], $5::text[]) AS new (id, old, state, holder, data) \
        WHERE one.id = new.id AND one.version = new.old";

    INSERT_JOBS: "INSERT INTO @job (id, version, kind, state, due, run, claim_worker, claim_until, data) \
        SELECT id, 1, kind, state, due, run, worker, until, data FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], \
        $4::smallint[], $5::timestamptz[], $6::uuid[], $7::text[], $8::timestamptz[], $9::text[]) \
        AS new (id, old, kind, state, due, run, worker, until, data)";
    // What is stored knows best how long the claim runs: it may have been renewed or released since the job was loaded.
    UPDATE_JOBS: "UPDATE @job AS job SET version = old + 1, kind = new.kind, state = new.state, due = new.due, run = new.run, \
        claim_worker = CASE WHEN new.until IS NOT NULL THEN job.claim_worker END, \
        claim_until = CASE WHEN new.until IS NOT NULL THEN job.claim_until END, data = new.data \
        FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::smallint[], $5::timestamptz[], $6::uuid[], $7::text[], \
        $8::timestamptz[], $9::text[]) AS new (id, old, kind, state, due, run, worker, until, data) \
        WHERE job.id = new.id AND job.version = new.old";

    INSERT_RECORDS: "INSERT INTO @record (key, version, data) SELECT key, 1, data \
        FROM unnest($1::text[], $2::bigint[], $3::text[]) AS new (key, old, data)";
    UPDATE_RECORDS: "UPDATE @record AS record SET version = old + 1, data = new.data \
        FROM unnest($1::text[], $2::bigint[], $3::text[]) AS new (key, old, data) \
        WHERE record.key = new.key AND record.version = new.old";

    RELEASE: "DELETE FROM @reservation AS held USING unnest($1::text[], $2::text[]) AS given (key, owner) \
        WHERE held.key = given.key AND held.owner = given.owner";
    TAKE: "INSERT INTO @reservation (key, owner) SELECT key, owner FROM unnest($1::text[], $2::text[]) AS taken (key, owner)";

    INSERT_HISTORY: "INSERT INTO @history (transaction, position, object, sequence, data) \
        SELECT (SELECT pg_current_xact_id()::text::bigint + @ahead()), position, object, sequence, data \
        FROM unnest($1::bytea[], $2::bigint[], $3::text[]) WITH ORDINALITY AS new (object, sequence, data, position)";
    // Which of these entries is there already, by its place among them.
    BROKEN_CHAIN: "SELECT new.position FROM unnest($1::bytea[], $2::bigint[]) WITH ORDINALITY AS new (object, sequence, position) \
        JOIN @history AS old USING (object, sequence) ORDER BY 1 LIMIT 1";

    // First how many of each kind are among the earliest, then just so many are locked: others find the rest free.
    CLAIM_OF_KINDS: concat!(now!(), "due AS MATERIALIZED (SELECT kind, count(*) AS share FROM \
            (SELECT wanted.kind FROM now, unnest($5::smallint[]) AS wanted (kind) CROSS JOIN LATERAL \
                (SELECT due, id FROM @job AS job WHERE job.kind = wanted.kind AND ", claimable!(), " \
                 ORDER BY job.due, job.id LIMIT $4) AS job ORDER BY job.due, job.id LIMIT $4) AS earliest GROUP BY kind), \
        found AS MATERIALIZED (SELECT job.id FROM now, due CROSS JOIN LATERAL \
            (SELECT id FROM @job AS job WHERE job.kind = due.kind AND ", claimable!(), " \
             ORDER BY job.due, job.id LIMIT due.share FOR UPDATE SKIP LOCKED) AS job)", claim!());
    CLAIM_OF_RUN: concat!(now!(), "found AS MATERIALIZED (SELECT job.id FROM now CROSS JOIN LATERAL \
            (SELECT id FROM @job AS job WHERE run = $6::uuid AND kind = ANY($5::smallint[]) AND ", claimable!(), " \
             ORDER BY job.due, job.id LIMIT $4 FOR UPDATE SKIP LOCKED) AS job)", claim!());
    CLAIM_OF_IDS: concat!(now!(), "found AS MATERIALIZED (SELECT job.id FROM now CROSS JOIN LATERAL \
            (SELECT id FROM @job AS job WHERE id = ANY($6::uuid[]) AND kind = ANY($5::smallint[]) \
             AND ($7::uuid IS NULL OR run = $7) AND ", claimable!(), " \
             ORDER BY job.due, job.id LIMIT $4 FOR UPDATE SKIP LOCKED) AS job)", claim!());

    HELD: concat!("SELECT job.id, version, data, claim_worker, claim_until ", held!());
    RENEW: concat!("WITH held AS MATERIALIZED (SELECT job.id ", held!(), ") UPDATE @job AS job \
        SET claim_until = (SELECT @moment() + $3::bigint * interval '1 microsecond') FROM held \
        WHERE job.id = held.id AND claim_until IS NOT NULL RETURNING job.id");
    RELEASE_JOBS: concat!("WITH held AS MATERIALIZED (SELECT job.id ", held!(), ") UPDATE @job AS job \
        SET claim_worker = NULL, claim_until = NULL FROM held WHERE job.id = held.id");
    RECORD_ATTEMPTS: "UPDATE @job AS job SET version = version + 1, data = new.data, \
        claim_until = CASE WHEN claim_until IS NOT NULL THEN now.until END FROM unnest($1::uuid[], $2::text[]) AS new (id, data), \
        (SELECT @moment() + $3::bigint * interval '1 microsecond' AS until) AS now \
        WHERE job.id = new.id RETURNING job.id, version, claim_worker, claim_until";

    CARDS: "SELECT id, version, data FROM @card WHERE id = ANY($1::uuid[])";
    // Written so that the index by state is of no use: most cards are in one of few states.
    CARDS_OF: "SELECT id, version, data FROM @card WHERE holder = ANY($1::text[]) AND state + 0 = ANY($2::smallint[])";
    CERTIFICATES: "SELECT id, version, data FROM @certificate WHERE id = ANY($1::uuid[])";
    REQUESTS: "SELECT id, version, data FROM @request WHERE id = ANY($1::uuid[])";
    JOBS: "SELECT id, version, data, claim_worker, claim_until FROM @job WHERE id = ANY($1::uuid[])";
    // The state in doubt is 1.
    BACKLOG: "SELECT wanted.kind, open.due, open.oldest, doubtful.count FROM unnest($1::smallint[]) AS wanted (kind) \
        CROSS JOIN LATERAL (SELECT count(*) AS due, min(due) AS oldest FROM @job AS job \
            WHERE job.kind = wanted.kind AND state = 0 AND due <= $2::timestamptz) AS open \
        CROSS JOIN LATERAL (SELECT count(*) FROM @job AS job WHERE state * 32 + job.kind = 32 + wanted.kind) AS doubtful";
    BACKLOG_OF_RUN: "SELECT wanted.kind, open.due, open.oldest, doubtful.count FROM unnest($1::smallint[]) AS wanted (kind) \
        CROSS JOIN LATERAL (SELECT count(*) AS due, min(due) AS oldest FROM @job AS job \
            WHERE run = $3::uuid AND job.kind = wanted.kind AND state = 0 AND due <= $2::timestamptz) AS open \
        CROSS JOIN LATERAL (SELECT count(*) FROM @job AS job \
            WHERE state * 32 + job.kind = 32 + wanted.kind AND run = $3::uuid) AS doubtful";
    RECORDS: "SELECT key, version, data FROM @record WHERE key = ANY($1::text[])";
    RESERVATIONS: "SELECT key, owner FROM @reservation WHERE key = ANY($1::text[])";
    HISTORY: "SELECT transaction, position, data FROM @history WHERE object = $1::bytea AND sequence > $2::bigint \
        ORDER BY object, sequence LIMIT $3";
    // Nothing that a transaction could still come before.
    CHANGES: "SELECT transaction, position, data FROM @history WHERE (transaction, position) > ($1::bigint, $2::bigint) \
        AND transaction < (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint + @ahead()) \
        ORDER BY transaction, position LIMIT $3";
}
