//! The statements of the bare bound.

/// What is done with rows.
enum How {
    Insert,
    Update,
    /// Inserted, or written over.
    Put,
    Delete,
    /// Added to the history, at the place in the feed where it belongs.
    Append,
}

/// Rows that are written in one way: names and types of the columns, the first of which is the key.
pub(crate) struct Shape {
    table: &'static str,
    how: How,
    /// In which order they are written.
    order: &'static str,
    pub(crate) columns: &'static [(&'static str, &'static str)],
}

macro_rules! shapes {
    ($($name:ident: $how:ident $table:literal by $order:literal ($($column:ident $sort:ident),*);)*) => {
        $(pub(crate) const $name: Shape = Shape {
            table: $table, how: How::$how, order: $order, columns: &[$((stringify!($column), stringify!($sort))),*],
        };)*
    };
}

shapes! {
    NEW_CARDS: Insert "card" by "id" (id uuid, version bigint, kind smallint, route smallint, state smallint, in_doubt boolean,
        holder text, production_type text, terms text, data text);
    CHANGED_CARDS: Update "card" by "id" (id uuid, version bigint, state smallint, in_doubt boolean, data text);
    NEW_TERMS: Insert "card_term" by "name, folded, card" (card uuid, name text, folded text);
    NEW_CERTIFICATES: Insert "certificate" by "id" (id uuid, version bigint, card uuid, state smallint, data text);
    CHANGED_CERTIFICATES: Update "certificate" by "id" (id uuid, version bigint, card uuid, state smallint, data text);
    NEW_JOBS: Insert "job" by "id" (id uuid, version bigint, kind smallint, state smallint, due timestamptz, run uuid,
        claim_worker text, claim_until timestamptz, attempts bigint, attempt text, data text);
    CHANGED_JOBS: Update "job" by "id" (id uuid, version bigint, kind smallint, state smallint, due timestamptz, run uuid,
        claim_worker text, claim_until timestamptz, attempts bigint, attempt text, data text);
    CLAIMED: Update "job" by "id" (id uuid, version bigint, claim_worker text, claim_until timestamptz);
    ATTEMPTED: Update "job" by "id" (id uuid, version bigint, claim_until timestamptz, attempts bigint, attempt text);
    RECORDS: Put "record" by "key" (key text, version bigint, data text);
    GIVEN_BACK: Delete "reservation" by "key" (key text);
    TAKEN: Insert "reservation" by "key" (key text, owner text);
    APPENDED: Append "history" by "position" (object bytea, sequence bigint, data text);
}

impl Shape {
    /// The statement that writes rows, a column in each argument after so many others; `@` stands for the schema and a dot.
    pub(crate) fn writing(&self, others: usize) -> String {
        let Self { table, columns, .. } = self;
        let key = columns[0].0;
        let names = join(columns.iter().map(|(name, _)| (*name).to_owned()));
        let given = join((others + 1..).zip(*columns).map(|(place, (_, sort))| format!("${place}::{sort}[]")));
        let insert = format!("INSERT INTO @{table} ({names}) SELECT {names} FROM unnest({given}) AS new ({names})");
        match self.how {
            How::Insert => insert,
            How::Put => {
                let set = join(columns.iter().map(|(name, _)| format!("{name} = excluded.{name}")));
                format!("{insert} ON CONFLICT ({key}) DO UPDATE SET {set}")
            }
            How::Update => {
                let set = join(columns[1..].iter().map(|(name, _)| format!("{name} = new.{name}")));
                format!(
                    "UPDATE @{table} AS old SET {set} FROM unnest({given}) AS new ({names}) WHERE old.{key} = new.{key}"
                )
            }
            How::Delete => format!("DELETE FROM @{table} WHERE {key} = ANY({given})"),
            How::Append => format!(
                "INSERT INTO @{table} (transaction, position, {names}) \
                 SELECT (SELECT pg_current_xact_id()::text::bigint), position, {names} \
                 FROM unnest({given}) WITH ORDINALITY AS new ({names}, position)"
            ),
        }
    }

    /// The statement that reads rows, each column as one array.
    pub(crate) fn reading(&self, which: &str) -> String {
        let columns = join(self.columns.iter().map(|(name, _)| format!("array_agg({name} ORDER BY {})", self.order)));
        format!("SELECT {columns} FROM @{} WHERE {which}", self.table)
    }
}

fn join(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(", ")
}
