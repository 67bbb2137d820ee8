-- The durable state of one worker (state/store.h). LSNs and hashes are the bit patterns of unsigned
-- 64-bit integers. Applied in one transaction; PRAGMA user_version is the number of the last file.

CREATE TABLE meta (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    worker            INTEGER NOT NULL, -- this file is worker-N.db ...
    workers           INTEGER NOT NULL, -- ... of so many
    pipeline          TEXT    NOT NULL,
    system_identifier TEXT    NOT NULL,
    slot              TEXT    NOT NULL,
    slot_birth        INTEGER NOT NULL,
    partitions        INTEGER NOT NULL,
    epoch             INTEGER NOT NULL, -- of the only process that may write
    clean             INTEGER NOT NULL, -- 1: closed in good order
    covered           INTEGER NOT NULL,
    as_of_us          INTEGER NOT NULL,
    jseq              INTEGER NOT NULL, -- newest entry ever written
    folded            INTEGER NOT NULL, -- every entry up to here is contained in pages
    next_key_id       INTEGER NOT NULL
) STRICT;

CREATE TABLE applied (
    source    INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    lsn       INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    pseq      INTEGER NOT NULL,
    PRIMARY KEY (source, partition)
) STRICT, WITHOUT ROWID;

-- One row per group commit. Small columns first: reading them never walks the blob.
CREATE TABLE journal (
    first_jseq INTEGER PRIMARY KEY,
    last_jseq  INTEGER NOT NULL,
    bytes      INTEGER NOT NULL, -- length of entries
    hash       INTEGER NOT NULL,
    entries    BLOB    NOT NULL
) STRICT;

CREATE TABLE page (
    key_id    INTEGER PRIMARY KEY,
    partition INTEGER NOT NULL,
    jseq      INTEGER NOT NULL,
    due_us    INTEGER, -- NULL: no timer
    hash      INTEGER NOT NULL,
    user_id   TEXT    NOT NULL,
    bot_name  TEXT    NOT NULL,
    bytes     BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX page_key ON page (user_id, bot_name);
CREATE INDEX page_due ON page (due_us) WHERE due_us IS NOT NULL;

CREATE TABLE dead_letter (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    source INTEGER NOT NULL,
    lsn    INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    at_us  INTEGER NOT NULL,
    place  TEXT    NOT NULL,
    reason TEXT    NOT NULL,
    bytes  BLOB    NOT NULL
) STRICT;
