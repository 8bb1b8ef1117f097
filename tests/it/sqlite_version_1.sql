-- A whole file as the release with version 1 of the schema wrote it, dumped. It is never changed.
PRAGMA application_id = 1130459748;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
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
INSERT INTO card VALUES(X'00000000000000000000000000000001',1,0,1,1,0,'CN=Ångström, Åsa','badge','[["number","c-1"],["surname","angstrom"]]','{"id":"00000000-0000-0000-0000-000000000001","kind":"permanent","route":"external","state":"requested","holder":"CN=Ångström, Åsa","number":"C-1","attributes":{"surname":"Ångström"},"searchable":["surname"],"production_type":"badge","created":"2026-01-07T08:00:00.123456Z","history":{"length":2,"seal":"7b20d14afb7578662d6754f996f7e95131dca9292d6337d8b61776d515dccc9c"}}');
INSERT INTO card VALUES(X'00000000000000000000000000000002',1,0,1,5,0,'CN=Ångström, Åsa','badge','[["number","c-2"],["surname","angstrom"]]','{"id":"00000000-0000-0000-0000-000000000002","kind":"permanent","route":"external","state":"processing","holder":"CN=Ångström, Åsa","number":"C-2","attributes":{"surname":"Ångström"},"searchable":["surname"],"production_type":"badge","order":{"job":"00000000-0000-0000-0000-00000000000b","times":{}},"busy":{"job":"00000000-0000-0000-0000-00000000000b","since":"2026-01-07T08:00:00.123456Z","in_doubt":false},"reservations":["open-order/CN=Ångström, Åsa"],"created":"2026-01-07T08:00:00.123456Z","history":{"length":2,"seal":"602dbc2e23f3303746b82db8187dd78f32d834e1e03d26e2b9a4588ebd6cbf37"}}');
INSERT INTO card VALUES(X'00000000000000000000000000000003',1,0,0,4,0,'CN=Ångström, Åsa','badge','[["number","c-3"],["surname","angstrom"]]','{"id":"00000000-0000-0000-0000-000000000003","kind":"permanent","route":"local","state":"approved","holder":"CN=Ångström, Åsa","number":"C-3","attributes":{"surname":"Ångström"},"searchable":["surname"],"production_type":"badge","created":"2026-01-07T08:00:00.123456Z","history":{"length":2,"seal":"ae5f659bc8a84103679b9ea5024d1bac5fffa336f88eda0e7bb5995472f1f46b"}}');
CREATE TABLE card_term (
    name TEXT NOT NULL,
    folded TEXT NOT NULL,
    card BLOB NOT NULL,
    PRIMARY KEY (name, folded, card)
) STRICT, WITHOUT ROWID;
INSERT INTO card_term VALUES('number','c-1',X'00000000000000000000000000000001');
INSERT INTO card_term VALUES('number','c-2',X'00000000000000000000000000000002');
INSERT INTO card_term VALUES('number','c-3',X'00000000000000000000000000000003');
INSERT INTO card_term VALUES('surname','angstrom',X'00000000000000000000000000000001');
INSERT INTO card_term VALUES('surname','angstrom',X'00000000000000000000000000000002');
INSERT INTO card_term VALUES('surname','angstrom',X'00000000000000000000000000000003');
CREATE TABLE request (
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    state INTEGER NOT NULL,
    holder TEXT NOT NULL,
    data TEXT NOT NULL
) STRICT;
INSERT INTO request VALUES(X'00000000000000000000000000000015',1,0,'CN=Ångström, Åsa','{"id":"00000000-0000-0000-0000-000000000015","state":"open","process":"Order","route":"external","choices":{},"card":"00000000-0000-0000-0000-000000000001","holder":"CN=Ångström, Åsa","requester":{"id":"clerk","person":"CN=Ångström, Åsa","roles":["operator"]},"created":"2026-01-07T08:00:00.123456Z","history":{"length":1,"seal":"02617f6bea4ea006c6c863f1790ec7a1289bea1576112bf556e09c78e4b69840"}}');
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
INSERT INTO job VALUES(X'0000000000000000000000000000000b',1,0,0,1767772800123456,X'00000000000000000000000000000002',X'00000000000000000000000000000009',NULL,NULL,'{"id":"00000000-0000-0000-0000-00000000000b","task":{"task":"place_order","notify_holder":true,"queued":true},"card":"00000000-0000-0000-0000-000000000002","state":"open","due":"2026-01-07T08:00:00.123456Z","created":"2026-01-07T08:00:00.123456Z","process":"Order","run":"00000000-0000-0000-0000-000000000009","actor":"clerk","attempts":0,"setbacks":0}');
INSERT INTO job VALUES(X'0000000000000000000000000000000c',2,1,0,1767772800123456,NULL,X'00000000000000000000000000000009','worker',1795280276786357,'{"id":"00000000-0000-0000-0000-00000000000c","task":{"task":"track_order","order_id":"O-1"},"state":"open","due":"2026-01-07T08:00:00.123456Z","created":"2026-01-07T08:00:00.123456Z","process":"Order","run":"00000000-0000-0000-0000-000000000009","actor":"clerk","attempts":0,"setbacks":0}');
INSERT INTO job VALUES(X'0000000000000000000000000000000d',1,2,0,1767772800123456,NULL,X'00000000000000000000000000000009',NULL,NULL,'{"id":"00000000-0000-0000-0000-00000000000d","task":{"task":"notify","id":"00000000-0000-0000-0000-00000000001f","kind":"card_ordered","recipient":{"email":"a@example.com"},"data":{}},"state":"open","due":"2026-01-07T08:00:00.123456Z","created":"2026-01-07T08:00:00.123456Z","process":"Order","run":"00000000-0000-0000-0000-000000000009","actor":"clerk","attempts":0,"setbacks":0}');
INSERT INTO job VALUES(X'0000000000000000000000000000000e',1,3,0,1767772800123456,NULL,X'00000000000000000000000000000009',NULL,NULL,'{"id":"00000000-0000-0000-0000-00000000000e","task":{"task":"custom","performer":"Order","data":{"copies":2}},"state":"open","due":"2026-01-07T08:00:00.123456Z","created":"2026-01-07T08:00:00.123456Z","process":"Order","run":"00000000-0000-0000-0000-000000000009","actor":"clerk","attempts":0,"setbacks":0}');
CREATE TABLE record (
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;
INSERT INTO record VALUES('numbers/cards',1,'{"key":"numbers/cards","value":{"next":4},"history":{"length":0,"seal":"0000000000000000000000000000000000000000000000000000000000000000"}}');
CREATE TABLE reservation (
    key TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO reservation VALUES('open-order/CN=Ångström, Åsa','00000000-0000-0000-0000-000000000002');
CREATE TABLE history (
    position INTEGER PRIMARY KEY,
    object BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    data TEXT NOT NULL
) STRICT;
INSERT INTO history VALUES(1,X'0100000000000000000000000000000001',1,'{"object":{"card":"00000000-0000-0000-0000-000000000001"},"sequence":1,"at":"2026-01-07T08:00:00.123456Z","actor":"clerk","process":"Order","run":"00000000-0000-0000-0000-000000000009","to":"registered","code":"created","seal":"a390053a4234391ea635c9a514cd3d68de9d8bfcce3c10e614fca67269e38b5f"}');
INSERT INTO history VALUES(2,X'0100000000000000000000000000000001',2,'{"object":{"card":"00000000-0000-0000-0000-000000000001"},"sequence":2,"at":"2026-01-07T08:00:00.123456Z","actor":"clerk","process":"Order","run":"00000000-0000-0000-0000-000000000009","from":"registered","to":"requested","code":"requested","seal":"7b20d14afb7578662d6754f996f7e95131dca9292d6337d8b61776d515dccc9c"}');
INSERT INTO history VALUES(3,X'0100000000000000000000000000000002',1,'{"object":{"card":"00000000-0000-0000-0000-000000000002"},"sequence":1,"at":"2026-01-07T08:00:00.123456Z","actor":"clerk","process":"Order","run":"00000000-0000-0000-0000-000000000009","to":"registered","code":"created","seal":"7adc7eb567a2b7d9c215df2972dfd622873d44779d07a054ef33dc5d7f6e75b1"}');
INSERT INTO history VALUES(4,X'0100000000000000000000000000000002',2,'{"object":{"card":"00000000-0000-0000-0000-000000000002"},"sequence":2,"at":"2026-01-07T08:00:00.123456Z","actor":"clerk","process":"Order","run":"00000000-0000-0000-0000-000000000009","from":"registered","to":"processing","code":"ordered","seal":"602dbc2e23f3303746b82db8187dd78f32d834e1e03d26e2b9a4588ebd6cbf37"}');
INSERT INTO history VALUES(5,X'0100000000000000000000000000000003',1,'{"object":{"card":"00000000-0000-0000-0000-000000000003"},"sequence":1,"at":"2026-01-07T08:00:00.123456Z","actor":"clerk","process":"Order","run":"00000000-0000-0000-0000-000000000009","to":"registered","code":"created","seal":"fd59779ee7659cc3f7fba17f79285d2338a65644ce236c4871bddde8764f6a06"}');
INSERT INTO history VALUES(6,X'0100000000000000000000000000000003',2,'{"object":{"card":"00000000-0000-0000-0000-000000000003"},"sequence":2,"at":"2026-01-07T08:00:00.123456Z","actor":"clerk","process":"Order","run":"00000000-0000-0000-0000-000000000009","from":"registered","to":"approved","code":"approved","seal":"ae5f659bc8a84103679b9ea5024d1bac5fffa336f88eda0e7bb5995472f1f46b"}');
INSERT INTO history VALUES(7,X'0300000000000000000000000000000015',1,'{"object":{"request":"00000000-0000-0000-0000-000000000015"},"sequence":1,"at":"2026-01-07T08:00:00.123456Z","actor":"clerk","process":"Order","run":"00000000-0000-0000-0000-000000000009","to":"open","code":"asked","seal":"02617f6bea4ea006c6c863f1790ec7a1289bea1576112bf556e09c78e4b69840"}');
CREATE UNIQUE INDEX card_by_id ON card (id);
CREATE INDEX card_by_state ON card (state, id);
CREATE INDEX card_by_holder ON card (holder, state) WHERE holder IS NOT NULL;
CREATE INDEX card_by_production_type ON card (production_type, id) WHERE production_type IS NOT NULL;
CREATE INDEX card_in_doubt ON card (id) WHERE in_doubt = 1;
CREATE UNIQUE INDEX request_by_id ON request (id);
CREATE INDEX request_by_state ON request (state, id);
CREATE INDEX request_by_holder ON request (holder, state);
CREATE UNIQUE INDEX job_by_id ON job (id);
CREATE INDEX job_by_state ON job (state, kind, id);
CREATE INDEX job_open_by_due ON job (kind, due, id) WHERE state = 0;
CREATE INDEX job_open_by_run ON job (run, due, id) WHERE state = 0 AND run IS NOT NULL;
CREATE UNIQUE INDEX record_by_key ON record (key);
CREATE UNIQUE INDEX history_by_object ON history (object, sequence);
COMMIT;
