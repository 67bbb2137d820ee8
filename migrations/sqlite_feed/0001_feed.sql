-- feed.db: announcements on their way to the destinations of feed.webhooks.

CREATE TABLE meta (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    instance TEXT NOT NULL,   -- of this file: part of every webhook-id
    newest   INTEGER NOT NULL -- number of the newest message ever made
) STRICT;

INSERT INTO meta VALUES (1, lower(hex(randomblob(8))), 0);

-- One row per destination and key: what is newer takes the place of what waits.
CREATE TABLE waiting (
    place       INTEGER PRIMARY KEY, -- the order in which they are sent
    message     INTEGER NOT NULL,    -- another one whenever the content changes
    queued_us   INTEGER NOT NULL,    -- wall clock, when the place was taken
    row_version INTEGER NOT NULL,
    destination TEXT NOT NULL,
    bot_name    TEXT NOT NULL,
    user_id     TEXT NOT NULL,       -- '': rows of the bot
    tables      TEXT NOT NULL,       -- separated by commas
    reason      TEXT                 -- NULL: none
) STRICT;

CREATE UNIQUE INDEX waiting_key ON waiting (destination, bot_name, user_id);
CREATE INDEX waiting_order ON waiting (destination, place);

CREATE TABLE dead (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    dead_us     INTEGER NOT NULL,
    row_version INTEGER NOT NULL,
    destination TEXT NOT NULL,
    bot_name    TEXT NOT NULL,
    user_id     TEXT NOT NULL,
    tables      TEXT NOT NULL,
    reason      TEXT,
    why         TEXT NOT NULL        -- it could not be delivered
) STRICT;

CREATE INDEX dead_key ON dead (bot_name, user_id);
