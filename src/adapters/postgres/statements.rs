//! The SQL texts beside the functions of the schema (`functions.sql`). `@` stands for the schema and a dot.
//!
//! All of them run in a transaction that has called `enter`, so they can be planned once and for all.

/// Begins a transaction: at the one level at which every conflict can be named, whatever is the default of the database.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Waits for all who have entered, and holds up who is about to.
pub(super) const MIGRATING: &str = "LOCK TABLE @cardwright_migration IN ACCESS EXCLUSIVE MODE";

/// Drops the functions that were made by another build: what they take or give may be something else. All of them take first what their caller
/// believes.
pub(super) const OLD_FUNCTIONS: &str = "DO $$ DECLARE one regprocedure; BEGIN \
    FOR one IN SELECT oid FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proargnames[1] = 'known' LOOP \
        EXECUTE 'DROP FUNCTION ' || one; \
    END LOOP; END $$";

/// The clock of leases. Tests that let time pass replace it.
const MOMENT: &str = "CREATE FUNCTION moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()'";

/// How far the numbers in `transaction` are ahead of the server's own: a server to which the store was moved counts from its own beginning.
const AHEAD: &str = "CREATE FUNCTION ahead() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT 0::bigint'";

/// Functions that are not made anew by each migration, by name.
pub(super) const LASTING: [(&str, &str); 2] = [("moment", MOMENT), ("ahead", AHEAD)];

macro_rules! statements {
    ($($name:ident: $text:expr;)*) => {
        $(pub(super) const $name: &str = $text;)*

        /// All of them, by name.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
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

    // Which of these entries is there already, by its place among them.
    BROKEN_CHAIN: "SELECT new.position FROM unnest($1::bytea[], $2::bigint[]) WITH ORDINALITY AS new (object, sequence, position) \
        JOIN @history AS old USING (object, sequence) ORDER BY 1 LIMIT 1";

    // Locked first: the lease begins when nobody is in the way any more.
    RENEW: "WITH held AS MATERIALIZED (SELECT job.id FROM unnest($1::uuid[], $2::bigint[]) AS held (id, version) \
            JOIN @job AS job ON job.id = held.id AND job.version = held.version FOR UPDATE OF job) \
        UPDATE @job AS job SET claim_until = (SELECT @moment() + $3::bigint * interval '1 microsecond') FROM held \
        WHERE job.id = held.id AND claim_until IS NOT NULL RETURNING job.id";
    RELEASE_JOBS: "UPDATE @job AS job SET claim_worker = NULL, claim_until = NULL \
        FROM unnest($1::uuid[], $2::bigint[]) AS held (id, version) WHERE job.id = held.id AND job.version = held.version";

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
    HISTORY: "SELECT transaction, position, data FROM @history WHERE object = $1::bytea AND sequence > $2::bigint \
        ORDER BY object, sequence LIMIT $3";
    // Nothing that a transaction could still come before.
    CHANGES: "SELECT transaction, position, data FROM @history WHERE (transaction, position) > ($1::bigint, $2::bigint) \
        AND transaction < (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint + @ahead()) \
        ORDER BY transaction, position LIMIT $3";
}
