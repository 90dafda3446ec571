//! The tables and indexes, as SQL.
//!
//! A task's row is small and changes; what the task was given (`inputs`) is written once and read
//! once, so that a large body is not rewritten with each change of state. `seq` is the order of the
//! queues. Each index contains only the rows of the states that it serves, and every key but the
//! public id ascends, so that inserts append. The state numbers are those of `TaskRowState`.

/// The schema version that this release reads and writes (`PRAGMA user_version`).
pub(super) const DATABASE_VERSION: i64 = 5;

/// The changes that make a database of the version before this one; its times are system times,
/// with which the store's clock begins.
pub(super) const MIGRATE_FROM_4_SQL: &str = CREATE_CLOCK_SQL;

/// Identifies the file as a database of this program (`PRAGMA application_id`): "omni".
pub(super) const APPLICATION_ID: i64 = 0x6f6d_6e69;

/// Creates the table of the clocks, whose one row is the last known moment by each of them.
pub(super) const CREATE_CLOCK_SQL: &str = "
    CREATE TABLE clock (
        id         INTEGER PRIMARY KEY CHECK (id = 1),
        boot       TEXT NOT NULL,    -- boot of the machine; '' where the system names none
        since_boot INTEGER NOT NULL, -- ms, as all times
        store      INTEGER NOT NULL, -- the store's clock, of which all other tables' times are
        system     INTEGER NOT NULL
    ) STRICT;
";

/// Creates all other tables and indexes.
pub(super) const CREATE_TABLES_SQL: &str = "
    CREATE TABLE tasks (
        seq      INTEGER PRIMARY KEY,
        id       TEXT NOT NULL UNIQUE,
        topic    TEXT NOT NULL,
        state    INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        lease    INTEGER NOT NULL DEFAULT 0, -- number of the last lease, a fencing token
        settled  INTEGER NOT NULL DEFAULT 0, -- settle code of the last lease; 0: not settled
        until    INTEGER NOT NULL DEFAULT 0, -- delayed: the due time; ended: the expiry
        retries  INTEGER NOT NULL,
        created  INTEGER NOT NULL,
        finished INTEGER,
        owner    TEXT,
        posts    INTEGER NOT NULL DEFAULT 0, -- whether its end has deliveries
        answer   TEXT,
        result   TEXT,
        failure  TEXT,
        began    INTEGER, -- start of the last attempt, and its process
        worker   TEXT,
        history  TEXT,    -- the failed attempts, one line of JSON each
        caller   TEXT,    -- the publisher's own id, kept after the inputs
        trace    TEXT,
        epoch    INTEGER, -- rollout epoch that counts it; NULL: not counted
        clients  INTEGER  -- client group
    ) STRICT;
    CREATE INDEX ready  ON tasks (topic, seq) WHERE state = 0;
    CREATE INDEX leased ON tasks (seq) WHERE state = 1;
    CREATE INDEX parked ON tasks (until) WHERE state = 2;
    CREATE INDEX ended  ON tasks (until) WHERE state > 2;
    CREATE TABLE inputs (
        seq         INTEGER PRIMARY KEY,
        payload     BLOB NOT NULL,
        request     TEXT,
        credentials TEXT,
        correlation TEXT,
        route       TEXT,
        webhook     TEXT,
        reply_to    TEXT,
        causation   TEXT,
        due         INTEGER -- earliest start, if delayed
    ) STRICT;
    CREATE TABLE dead_letters (
        n        INTEGER PRIMARY KEY,
        seq      INTEGER NOT NULL, -- row in inputs
        id       TEXT NOT NULL,
        topic    TEXT NOT NULL,
        error    TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        failed   INTEGER NOT NULL,
        -- retries, created and owner as in tasks, whose row may be deleted before a reprocess
        retries  INTEGER NOT NULL,
        created  INTEGER NOT NULL,
        owner    TEXT
    ) STRICT;
    CREATE INDEX dead_by_topic ON dead_letters (topic, n);
    CREATE INDEX dead_by_id ON dead_letters (id);
    CREATE TABLE outbox (
        n           INTEGER PRIMARY KEY,
        task        TEXT NOT NULL,
        kind        TEXT NOT NULL,
        target      TEXT NOT NULL,
        event       TEXT NOT NULL,
        ended       INTEGER NOT NULL,
        body        BLOB NOT NULL,
        owner       TEXT,
        correlation TEXT,
        attempts    INTEGER NOT NULL DEFAULT 0,
        due         INTEGER, -- NULL once settled
        status      TEXT NOT NULL DEFAULT 'pending',
        error       TEXT,
        expires     INTEGER,
        UNIQUE (task, kind)
    ) STRICT;
    CREATE INDEX undelivered ON outbox (due) WHERE due IS NOT NULL;
    CREATE INDEX delivered ON outbox (expires) WHERE expires IS NOT NULL;
    CREATE TABLE claims (
        scope   TEXT PRIMARY KEY,
        request TEXT NOT NULL,
        holder  TEXT, -- NULL once concluded
        lease   INTEGER NOT NULL,
        task    TEXT NOT NULL,
        state   TEXT,
        answer  TEXT,
        until   INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX claims_until ON claims (until);
    CREATE TABLE rollouts (
        route   TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        state   TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE history (
        n     INTEGER PRIMARY KEY,
        route TEXT NOT NULL,
        event TEXT NOT NULL
    ) STRICT;
    CREATE INDEX history_by_route ON history (route, n);
    CREATE TABLE epochs ( -- retention of the tallies and counts of an epoch
        route TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        until INTEGER NOT NULL,
        PRIMARY KEY (route, epoch)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tallies (
        route TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        name  TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (route, epoch, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE counts (
        route   TEXT NOT NULL,
        epoch   INTEGER NOT NULL,
        process TEXT NOT NULL,
        counted TEXT NOT NULL,
        PRIMARY KEY (route, epoch, process)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE terms ( -- only the last term of the lead
        term INTEGER PRIMARY KEY
    ) STRICT;
    CREATE TABLE callers (
        route TEXT NOT NULL,
        who   TEXT NOT NULL,
        count INTEGER NOT NULL,
        last  INTEGER NOT NULL,
        PRIMARY KEY (route, who)
    ) STRICT, WITHOUT ROWID;
";
