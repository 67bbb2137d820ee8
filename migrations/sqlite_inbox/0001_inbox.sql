-- inbox.db: deliveries that are acknowledged and not yet durable in every worker.

CREATE TABLE meta (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    newest  INTEGER NOT NULL, -- id of the newest row ever stored; 0: none
    trimmed INTEGER NOT NULL, -- rows up to here are gone; those behind are all there
    bytes   INTEGER NOT NULL, -- of events in the rows that are there
    ids     INTEGER NOT NULL, -- rows of table seen
    fresh   INTEGER NOT NULL, -- the newest row of table fresh ever; 0: none
    key     BLOB NOT NULL     -- of the digests in table seen
) STRICT;

INSERT INTO meta VALUES (1, 0, 0, 0, 0, 0, randomblob(16));

CREATE TABLE delivery (
    id          INTEGER PRIMARY KEY, -- dense, in commit order
    received_us INTEGER NOT NULL,
    n_events    INTEGER NOT NULL,
    hash        INTEGER NOT NULL, -- of all other columns
    source      TEXT NOT NULL,
    events      BLOB NOT NULL
) STRICT;

-- Digests of (source, delivery id). A digest is 16 bytes however long the id is, and its keyed hash
-- (SipHash) lets nobody make two ids collide.
CREATE TABLE seen (
    digest  BLOB PRIMARY KEY,
    seen_us INTEGER NOT NULL -- wall clock; older than the time ids are kept: as if it were not there
) STRICT, WITHOUT ROWID;

-- Digests that came lately, those of one commit together: appended here, moved to seen in order.
CREATE TABLE fresh (
    row     INTEGER PRIMARY KEY,
    seen_us INTEGER NOT NULL,
    digests BLOB NOT NULL
) STRICT;

-- How far each pull has come.
CREATE TABLE cursor (
    source TEXT PRIMARY KEY,
    value  BLOB NOT NULL
) STRICT, WITHOUT ROWID;
