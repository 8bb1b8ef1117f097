-- What the store does often, each in one way to the server and back. Run at the end of every migration, with the search path set to the
-- schema of the store. Once released, a change of anything here needs a version of its own.
--
-- Each enters first, which takes what its caller believes: the name of the schema and its version. In a schema that was renamed, or copied
-- under another name, they still look into the one of before.

-- Refuses who believes something else than what the search path of its caller leads to, and holds up migrations as long as the
-- transaction runs. Then it leaves the planner one way only: along the indices, in the order of the keys, whatever it believes of
-- tables that were empty when it looked. At another level than READ COMMITTED, who waited for a migration would not see it.
CREATE OR REPLACE FUNCTION enter(known text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    actual text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the transaction must be READ COMMITTED' USING ERRCODE = 'CW003';
    END IF;
    SELECT current_schema() || ' ' || version INTO actual FROM cardwright_migration ORDER BY version DESC LIMIT 1;
    IF actual IS DISTINCT FROM known THEN
        RAISE EXCEPTION 'this is %, not %', actual, known USING ERRCODE = 'CW001';
    END IF;
    PERFORM set_config(name, value, true) FROM (VALUES ('plan_cache_mode', 'force_generic_plan'), ('enable_seqscan', 'off'),
        ('enable_bitmapscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'), ('enable_sort', 'off'), ('jit', 'off'))
        AS setting (name, value);
END $$;

CREATE OR REPLACE FUNCTION cards(known text, ids uuid[]) RETURNS TABLE (id uuid, version bigint, data text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM enter(known);
    RETURN QUERY SELECT card.id, card.version, card.data FROM card WHERE id = ANY (ids);
END $$;

-- Written so that the index by state is of no use: most cards are in one of few states.
CREATE OR REPLACE FUNCTION cards_of(known text, holders text[], states smallint[]) RETURNS TABLE (id uuid, version bigint, data text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM enter(known);
    RETURN QUERY SELECT card.id, card.version, card.data FROM card WHERE holder = ANY (holders) AND state + 0 = ANY (states);
END $$;

CREATE OR REPLACE FUNCTION certificates(known text, ids uuid[]) RETURNS TABLE (id uuid, version bigint, data text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM enter(known);
    RETURN QUERY SELECT certificate.id, certificate.version, certificate.data FROM certificate WHERE id = ANY (ids);
END $$;

-- A page of those of some cards, in some states (any, if none are given), by id. Written so that no other index has this order.
CREATE OR REPLACE FUNCTION certificates_of(known text, cards uuid[], states smallint[], after uuid, at_most bigint)
RETURNS TABLE (id uuid, version bigint, data text) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    first uuid := coalesce(after, '00000000-0000-0000-0000-000000000000');
BEGIN
    PERFORM enter(known);
    RETURN QUERY SELECT page.* FROM unnest(cards) AS wanted (of_card) CROSS JOIN LATERAL (
            SELECT one.id, one.version, one.data FROM certificate AS one
            WHERE (one.card, one.id) >= (of_card, first) AND one.card <= of_card AND one.id IS DISTINCT FROM after
                AND (cardinality(states) = 0 OR one.state = ANY (states))
            ORDER BY one.card, one.id LIMIT at_most) AS page
        ORDER BY page.id LIMIT at_most;
END $$;

CREATE OR REPLACE FUNCTION requests(known text, ids uuid[]) RETURNS TABLE (id uuid, version bigint, data text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM enter(known);
    RETURN QUERY SELECT request.id, request.version, request.data FROM request WHERE id = ANY (ids);
END $$;

CREATE OR REPLACE FUNCTION jobs(known text, ids uuid[])
RETURNS TABLE (id uuid, version bigint, data text, claim_worker text, claim_until timestamptz, attempts bigint, attempt text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM enter(known);
    RETURN QUERY SELECT job.id, job.version, job.data, job.claim_worker, job.claim_until, job.attempts, job.attempt
        FROM job WHERE id = ANY (ids);
END $$;

CREATE OR REPLACE FUNCTION records(known text, keys text[]) RETURNS TABLE (key text, version bigint, data text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM enter(known);
    RETURN QUERY SELECT record.key, record.version, record.data FROM record WHERE key = ANY (keys);
END $$;

CREATE OR REPLACE FUNCTION reservations(known text, keys text[]) RETURNS TABLE (key text, owner text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM enter(known);
    RETURN QUERY SELECT reservation.key, reservation.owner FROM reservation WHERE key = ANY (keys);
END $$;

-- Claims the earliest of what is open, due (or not yet, if `early`) and not under a live claim: of these kinds; and, if they are given,
-- of these ids, or of this run. `lease` is in microseconds.
CREATE OR REPLACE FUNCTION claim(known text, lease bigint, worker text, early boolean, at_most bigint, kinds smallint[], ids uuid[], of_run uuid)
RETURNS TABLE (id uuid, version bigint, data text, claim_worker text, claim_until timestamptz, attempts bigint, attempt text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    -- The time by the clock of the store, once for all.
    now timestamptz;
    due_by timestamptz;
    earliest uuid[];
BEGIN
    PERFORM enter(known);
    now := moment();
    due_by := CASE WHEN early THEN 'infinity' ELSE now END;
    IF ids IS NOT NULL THEN
        -- Written so that the indices of what is open are of no use.
        earliest := ARRAY(SELECT id FROM job
            WHERE id = ANY (ids) AND kind = ANY (kinds) AND (of_run IS NULL OR run = of_run)
            AND state + 0 = 0 AND due <= due_by AND (claim_until IS NULL OR claim_until <= now)
            ORDER BY due, id LIMIT at_most FOR UPDATE SKIP LOCKED);
    ELSIF of_run IS NOT NULL THEN
        earliest := ARRAY(SELECT id FROM job
            WHERE run = of_run AND kind = ANY (kinds)
            AND state = 0 AND due <= due_by AND (claim_until IS NULL OR claim_until <= now)
            ORDER BY due, id LIMIT at_most FOR UPDATE SKIP LOCKED);
    ELSE
        -- First how many of each kind are among the earliest, then just so many are locked: others find the rest free.
        earliest := ARRAY(WITH share AS MATERIALIZED (SELECT kind, count(*) AS jobs FROM
                (SELECT wanted.kind FROM unnest(kinds) AS wanted (kind) CROSS JOIN LATERAL
                    (SELECT due, id FROM job
                     WHERE job.kind = wanted.kind AND state = 0 AND due <= due_by AND (claim_until IS NULL OR claim_until <= now)
                     ORDER BY due, id LIMIT at_most) AS job
                 ORDER BY due, id LIMIT at_most) AS first
                GROUP BY kind)
            SELECT job.id FROM share CROSS JOIN LATERAL
                (SELECT id FROM job
                 WHERE job.kind = share.kind AND state = 0 AND due <= due_by AND (claim_until IS NULL OR claim_until <= now)
                 ORDER BY due, id LIMIT share.jobs FOR UPDATE SKIP LOCKED) AS job);
    END IF;
    RETURN QUERY UPDATE job SET version = version + 1, claim_worker = worker, claim_until = now + lease * interval '1 microsecond'
        WHERE id = ANY (earliest)
        RETURNING job.id, job.version, job.data, job.claim_worker, job.claim_until, job.attempts, job.attempt;
END $$;

-- Stores an attempt for each of these jobs that still has the version given; in the order of their ids. `lease` is in microseconds, and
-- begins when the jobs are locked.
CREATE OR REPLACE FUNCTION record_attempts(known text, lease bigint, ids uuid[], versions bigint[], new_attempts text[])
RETURNS TABLE (id uuid, version bigint, data text, claim_worker text, claim_until timestamptz, attempts bigint, attempt text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    until timestamptz;
BEGIN
    PERFORM enter(known);
    PERFORM FROM unnest(ids, versions) AS held (id, old) JOIN job ON job.id = held.id AND job.version = held.old FOR UPDATE OF job;
    until := moment() + lease * interval '1 microsecond';
    RETURN QUERY UPDATE job SET version = old + 1, attempts = job.attempts + 1, attempt = new.attempt,
            claim_until = CASE WHEN job.claim_until IS NOT NULL THEN until END
        FROM unnest(ids, versions, new_attempts) AS new (id, old, attempt)
        WHERE job.id = new.id AND job.version = new.old
        RETURNING job.id, job.version, job.data, job.claim_worker, job.claim_until, job.attempts, job.attempt;
END $$;

-- Stores all that is given, or says that something stands against it; the caller ends the transaction. `versions` are those that the
-- store should hold now: 0 for what is new. Rows are changed in one order for all, table by table, as given: by key. What is new is there
-- rarely, so nobody looks first whether it is: that would search each index twice.
CREATE OR REPLACE FUNCTION store(
    known text,
    card_ids uuid[], card_versions bigint[], card_kinds smallint[], routes smallint[], card_states smallint[], doubts boolean[],
    card_holders text[], production_types text[], card_terms text[], cards text[],
    -- One line for the terms of cards that are new.
    term_names text[], folded_terms text[], card_of_each_term uuid[],
    certificate_ids uuid[], certificate_versions bigint[], card_of_each uuid[], certificate_states smallint[], certificates text[],
    request_ids uuid[], request_versions bigint[], request_states smallint[], request_holders text[], requests text[],
    job_ids uuid[], job_versions bigint[], job_kinds smallint[], job_states smallint[], due_times timestamptz[], runs uuid[],
    workers text[], claim_ends timestamptz[], attempt_counts bigint[], open_attempts text[], jobs text[],
    record_keys text[], record_versions bigint[], records text[],
    released_keys text[], released_owners text[],
    taken_keys text[], taken_owners text[],
    objects bytea[], sequences bigint[], entries text[]
) RETURNS boolean LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    changed bigint;
    added bigint;
    -- Cards whose search terms change, what these were and what they become.
    renamed uuid[];
    old_terms text[];
    new_terms text[];
    old_names text[];
    card_of_each_name uuid[];
BEGIN
    PERFORM enter(known);

    IF cardinality(card_ids) > 0 THEN
        changed := 0;
        added := 0;
        IF 0 < ANY (card_versions) THEN
            WITH updated AS (
                UPDATE card SET version = old + 1, kind = new.kind, route = new.route, state = new.state, in_doubt = new.in_doubt,
                    holder = new.holder, production_type = new.production_type, terms = new.terms, data = new.data
                FROM unnest(card_ids, card_versions, card_kinds, routes, card_states, doubts, card_holders, production_types, card_terms,
                    cards) AS new (id, old, kind, route, state, in_doubt, holder, production_type, terms, data)
                JOIN card AS was ON was.id = new.id AND was.version = new.old
                WHERE card.id = new.id AND card.version = new.old AND new.old > 0
                RETURNING card.id, was.terms AS before, new.terms AS after)
            SELECT count(*), array_agg(id) FILTER (WHERE before <> after), array_agg(before) FILTER (WHERE before <> after),
                array_agg(after) FILTER (WHERE before <> after) INTO changed, renamed, old_terms, new_terms FROM updated;
        END IF;
        IF 0 = ANY (card_versions) THEN
            INSERT INTO card (id, version, kind, route, state, in_doubt, holder, production_type, terms, data)
                SELECT id, 1, kind, route, state, in_doubt, holder, production_type, terms, data
                FROM unnest(card_ids, card_versions, card_kinds, routes, card_states, doubts, card_holders, production_types, card_terms,
                    cards) AS new (id, old, kind, route, state, in_doubt, holder, production_type, terms, data) WHERE old = 0;
            GET DIAGNOSTICS added = ROW_COUNT;
        END IF;
        IF changed + added <> cardinality(card_ids) THEN
            RETURN false;
        END IF;
        IF renamed IS NOT NULL THEN
            SELECT array_agg(term ->> 0), array_agg(old.card) INTO old_names, card_of_each_name
                FROM unnest(renamed, old_terms) AS old (card, terms), json_array_elements(old.terms::json) AS term;
            DELETE FROM card_term AS term USING unnest(old_names, card_of_each_name) AS old (name, card)
                WHERE term.name = old.name AND term.card = old.card;
            INSERT INTO card_term (card, name, folded)
                SELECT DISTINCT new.card, term ->> 0, term ->> 1
                FROM unnest(renamed, new_terms) AS new (card, terms), json_array_elements(new.terms::json) AS term;
        END IF;
        IF added > 0 THEN
            INSERT INTO card_term (card, name, folded)
                SELECT card, name, folded FROM unnest(card_of_each_term, term_names, folded_terms) AS new (card, name, folded);
        END IF;
    END IF;

    IF cardinality(certificate_ids) > 0 THEN
        changed := 0;
        added := 0;
        IF 0 < ANY (certificate_versions) THEN
            UPDATE certificate AS one SET version = old + 1, card = new.card, state = new.state, data = new.data
                FROM unnest(certificate_ids, certificate_versions, card_of_each, certificate_states, certificates)
                    AS new (id, old, card, state, data)
                WHERE one.id = new.id AND one.version = new.old AND new.old > 0;
            GET DIAGNOSTICS changed = ROW_COUNT;
        END IF;
        IF 0 = ANY (certificate_versions) THEN
            INSERT INTO certificate (id, version, card, state, data)
                SELECT id, 1, card, state, data
                FROM unnest(certificate_ids, certificate_versions, card_of_each, certificate_states, certificates)
                    AS new (id, old, card, state, data) WHERE old = 0;
            GET DIAGNOSTICS added = ROW_COUNT;
        END IF;
        IF changed + added <> cardinality(certificate_ids) THEN
            RETURN false;
        END IF;
    END IF;

    IF cardinality(request_ids) > 0 THEN
        changed := 0;
        added := 0;
        IF 0 < ANY (request_versions) THEN
            UPDATE request AS one SET version = old + 1, state = new.state, holder = new.holder, data = new.data
                FROM unnest(request_ids, request_versions, request_states, request_holders, requests) AS new (id, old, state, holder, data)
                WHERE one.id = new.id AND one.version = new.old AND new.old > 0;
            GET DIAGNOSTICS changed = ROW_COUNT;
        END IF;
        IF 0 = ANY (request_versions) THEN
            INSERT INTO request (id, version, state, holder, data)
                SELECT id, 1, state, holder, data
                FROM unnest(request_ids, request_versions, request_states, request_holders, requests) AS new (id, old, state, holder, data)
                WHERE old = 0;
            GET DIAGNOSTICS added = ROW_COUNT;
        END IF;
        IF changed + added <> cardinality(request_ids) THEN
            RETURN false;
        END IF;
    END IF;

    IF cardinality(job_ids) > 0 THEN
        changed := 0;
        added := 0;
        IF 0 < ANY (job_versions) THEN
            -- What is stored knows best how long the claim runs: it may have been renewed or released since the job was loaded.
            UPDATE job SET version = old + 1, kind = new.kind, state = new.state, due = new.due, run = new.run,
                    claim_worker = CASE WHEN new.until IS NOT NULL THEN job.claim_worker END,
                    claim_until = CASE WHEN new.until IS NOT NULL THEN job.claim_until END,
                    attempts = new.attempts, attempt = new.attempt, data = new.data
                FROM unnest(job_ids, job_versions, job_kinds, job_states, due_times, runs, workers, claim_ends, attempt_counts,
                    open_attempts, jobs) AS new (id, old, kind, state, due, run, worker, until, attempts, attempt, data)
                WHERE job.id = new.id AND job.version = new.old AND new.old > 0;
            GET DIAGNOSTICS changed = ROW_COUNT;
        END IF;
        IF 0 = ANY (job_versions) THEN
            INSERT INTO job (id, version, kind, state, due, run, claim_worker, claim_until, attempts, attempt, data)
                SELECT id, 1, kind, state, due, run, worker, until, attempts, attempt, data
                FROM unnest(job_ids, job_versions, job_kinds, job_states, due_times, runs, workers, claim_ends, attempt_counts,
                    open_attempts, jobs) AS new (id, old, kind, state, due, run, worker, until, attempts, attempt, data) WHERE old = 0;
            GET DIAGNOSTICS added = ROW_COUNT;
        END IF;
        IF changed + added <> cardinality(job_ids) THEN
            RETURN false;
        END IF;
    END IF;

    IF cardinality(record_keys) > 0 THEN
        changed := 0;
        added := 0;
        IF 0 < ANY (record_versions) THEN
            UPDATE record SET version = old + 1, data = new.data
                FROM unnest(record_keys, record_versions, records) AS new (key, old, data)
                WHERE record.key = new.key AND record.version = new.old AND new.old > 0;
            GET DIAGNOSTICS changed = ROW_COUNT;
        END IF;
        IF 0 = ANY (record_versions) THEN
            INSERT INTO record (key, version, data)
                SELECT key, 1, data FROM unnest(record_keys, record_versions, records) AS new (key, old, data) WHERE old = 0;
            GET DIAGNOSTICS added = ROW_COUNT;
        END IF;
        IF changed + added <> cardinality(record_keys) THEN
            RETURN false;
        END IF;
    END IF;

    IF cardinality(released_keys) > 0 THEN
        DELETE FROM reservation AS held USING unnest(released_keys, released_owners) AS given (key, owner)
            WHERE held.key = given.key AND held.owner = given.owner;
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed <> cardinality(released_keys) THEN
            RETURN false;
        END IF;
    END IF;
    IF cardinality(taken_keys) > 0 THEN
        INSERT INTO reservation (key, owner) SELECT key, owner FROM unnest(taken_keys, taken_owners) AS taken (key, owner);
    END IF;
    IF cardinality(objects) > 0 THEN
        INSERT INTO history (transaction, position, object, sequence, data)
            SELECT (SELECT pg_current_xact_id()::text::bigint + ahead()), position, object, sequence, data
            FROM unnest(objects, sequences, entries) WITH ORDINALITY AS new (object, sequence, data, position);
    END IF;
    RETURN true;
END $$;
