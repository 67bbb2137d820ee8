-- Users that were forgotten (state/store.h). A row is a tombstone: events of the user that are older
-- are ignored, wherever they come from; and, until step 3, work that is not finished.

CREATE TABLE erasure (
    id           INTEGER PRIMARY KEY,
    native       INTEGER NOT NULL, -- 1: done in this file; 0: in one that it was made of
    digest       BLOB    NOT NULL, -- keyed, of user and bot
    token_us     INTEGER NOT NULL, -- the request's own time, which names it
    erased_us    INTEGER NOT NULL, -- events up to then are ignored
    step         INTEGER NOT NULL, -- 1: the state is clean, 2: so are the cache rows, 3: all is
    row_version  INTEGER NOT NULL, -- cache rows below it are from before
    receipt      INTEGER NOT NULL, -- in strategic_erasure; 0: not known yet
    user_id      TEXT    NOT NULL, -- empty from step 2 on, as is
    bot_name     TEXT    NOT NULL, -- which is also empty when every bot is meant
    keys         INTEGER NOT NULL, -- what has gone, in this file
    pages        INTEGER NOT NULL,
    entries      INTEGER NOT NULL,
    dead_letters INTEGER NOT NULL,
    messages     INTEGER NOT NULL,
    metric_days  INTEGER NOT NULL
) STRICT;

-- What digests are made with: the same in every file of a set.
CREATE TABLE erasure_key (
    id  INTEGER PRIMARY KEY CHECK (id = 1),
    key BLOB NOT NULL
) STRICT;
INSERT INTO erasure_key VALUES (1, randomblob(16));
