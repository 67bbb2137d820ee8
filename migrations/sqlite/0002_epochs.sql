-- Daily epochs (engines/epoch.h). Days count from 1970-01-01 UTC; 0 is none.

CREATE TABLE epoch_day (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    opened      INTEGER NOT NULL, -- the epochs of every day up to here are complete
    closed      INTEGER NOT NULL, -- what was learned before this day is in epoch_part
    closed_jseq INTEGER NOT NULL  -- entries up to here teach nothing any more
) STRICT;
INSERT INTO epoch_day VALUES (1, 0, 0, 0);

-- Closed epochs of all bots: the same in every worker's file.
CREATE TABLE epoch (
    id       INTEGER PRIMARY KEY,
    bot_name TEXT    NOT NULL,
    day      INTEGER NOT NULL,
    hash     INTEGER NOT NULL,
    bytes    BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX epoch_bot ON epoch (bot_name, day);

-- What this worker's keys have taught. There may be several rows of one bot and day: they add up.
CREATE TABLE epoch_part (
    id       INTEGER PRIMARY KEY,
    day      INTEGER NOT NULL, -- that closes with it; 0: the day still runs
    bot_name TEXT    NOT NULL,
    jseq     INTEGER NOT NULL, -- entries of the bot's keys up to here are contained
    hash     INTEGER NOT NULL,
    bytes    BLOB    NOT NULL
) STRICT;
CREATE INDEX epoch_part_bot ON epoch_part (day, bot_name);
